"""Files that someone sends who means harm: what each is called, and how it is made.

A case is a function of `Kit`, which is in the folder of the case, and gives the command that meets the file. The module
`evil_canary` lies in that folder, where the command finds modules: whoever imports it has been caught.
"""

import copy
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

CANARY = """
open("imported", "w").close()
from vitdet import DETRHead
from vitdet.data import ShapesData
class Head(DETRHead): pass
class Data(ShapesData): pass
def neck(*_): open("called", "w").close()
"""
BACKBONE = {
    "name": "vit_tiny_patch16_224",
    "model_args": {"embed_dim": 32, "num_heads": 2},
    "depth": 1,
    "neck": None,
}
HEAD = {"dim": 32, "num_queries": 8, "num_layers": 1, "decoder": {"num_heads": 4, "ffn_dim": 32}}


class Kit:
    """What a case starts from, in its folder: a checkpoint, its config, an image and a COCO file that are all good."""

    def __init__(self, folder: Path, contents: dict[str, Any], good: Path) -> None:
        self.folder, self.good = folder, good
        self._contents = contents
        (folder / "evil_canary.py").write_text(CANARY)
        for name in ("photo.png", "shapes", "tiny.yaml", "bare.yaml"):
            (folder / name).symlink_to(good / name)

    def contents(self) -> dict[str, Any]:
        """The contents of the good checkpoint, to be changed."""
        saved = copy.deepcopy({key: value for key, value in self._contents.items() if key != "state_dict"})
        return {**saved, "state_dict": dict(self._contents["state_dict"])}

    def save(self, contents: Any) -> list[str]:
        torch.save(contents, self.folder / "a.ckpt")
        return predict()


def predict(model: str = "a.ckpt", image: str = "photo.png") -> list[str]:
    return ["predict", model, image, "--device", "cpu", "--no_drawings"]


def make_kit(folder: Path) -> dict[str, Any]:
    """Makes what is good, in `folder`, and returns the contents of the checkpoint."""
    from vitdet import Backbone, DETRHead, ShapesData
    from vitdet.checkpoint import write
    from vitdet.config import config_of

    data = ShapesData(root=str(folder / "shapes"), train_images=2, val_images=2, size=64, batch_size=2)
    backbone = Backbone(**BACKBONE)
    head = DETRHead(backbone.out_channels, backbone.strides, len(data.classes), **HEAD)
    known = {"classes": data.classes, "category_ids": data.category_ids, "data": config_of(data)}
    contents = write({}, backbone, head, eval_transform=data.eval_transform().config, **known)
    torch.save(contents, folder / "good.ckpt")
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    config = {
        "model": {"backbone": BACKBONE, "head": {"class_path": "DETRHead", **HEAD}},
        "data": {"class_path": "ShapesData", "root": "shapes", "train_images": 2, "val_images": 2, "size": 64},
        "trainer": {"max_steps": 1, "accelerator": "cpu", "pictures": 0, "logger": False},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    # says nothing of the model
    (folder / "bare.yaml").write_text(yaml.safe_dump({**config, "model": {"lr": 1e-4}}))
    return contents


CASES: dict[str, Callable[[Kit], list[str]]] = {}
# files that may also be read, since they are valid, as long as they cost nothing
MAY_WORK: set[str] = set()


def case(name: str, *, may_work: bool = False) -> Callable:
    def decorate(function: Callable[[Kit], list[str]]) -> Callable[[Kit], list[str]]:
        assert name not in CASES
        CASES[name] = function
        if may_work:
            MAY_WORK.add(name)
        return function

    return decorate


# ---- checkpoints: pickles


class Call:
    """Becomes a call of a function when it is unpickled."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def opcodes(module: str, name: str, argument: str, how: str) -> bytes:
    """A pickle that calls `module.name(argument)` by an opcode of its own choice."""
    text = b"V" + argument.encode() + b"\n"
    function = f"{module}\n{name}\n".encode()
    return {
        "REDUCE": b"\x80\x02c" + function + text + b"\x85R.",
        "INST": b"(" + text + b"i" + function + b".",
        "OBJ": b"\x80\x02(c" + function + text + b"o.",
        "NEWOBJ": b"\x80\x02c" + function + text + b"\x85\x81.",
        "STACK_GLOBAL": b"\x80\x04\x8c"
        + bytes([len(module)])
        + module.encode()
        + b"\x8c"
        + bytes([len(name)])
        + name.encode()
        + b"\x93"
        + text
        + b"\x85R.",
        "BUILD": b"\x80\x02c" + function + b"(" + text + b"db.",
        "EXT": b"\x80\x02\x82\x01.",
        "PERSID": b"P" + argument.encode() + b"\n.",
    }[how]


def archive(path: Path, content: bytes, *, records: dict[str, bytes] | None = None, packed: bool = False) -> None:
    """A file as torch.save writes it, with any pickle inside."""
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as made:
        made.writestr("a/data.pkl", content)
        for name, record in {"version": b"3\n", "byteorder": b"little", **(records or {})}.items():
            made.writestr(f"a/{name}", record)


TOUCH = "touch called"
for how in ("REDUCE", "INST", "OBJ", "NEWOBJ", "STACK_GLOBAL", "BUILD", "EXT", "PERSID"):

    @case(f"a pickle that calls os.system by {how}")
    def _(kit, how=how):
        archive(kit.folder / "a.ckpt", opcodes("os", "system", TOUCH, how))
        return predict()


FUNCTIONS = {
    "builtins.exec": (exec, "open('called', 'w')"),
    "builtins.eval": (eval, "open('called', 'w')"),
    "importlib.import_module": (__import__("importlib").import_module, "evil_canary"),
    "torch.load": (torch.load, "good.ckpt"),
    "runpy.run_path": (__import__("runpy").run_path, "evil_canary.py"),
}
for name, (function, argument) in FUNCTIONS.items():

    @case(f"a checkpoint whose weights are a call of {name}")
    def _(kit, function=function, argument=argument):
        return kit.save({**kit.contents(), "state_dict": Call(function, argument)})


@case("a class of a module that lies beside it, in a pickle")
def _(kit):
    archive(kit.folder / "a.ckpt", b"\x80\x02cevil_canary\nHead\n)R.")
    return predict()


@case("a plain pickle that calls os.system")
def _(kit):
    (kit.folder / "a.ckpt").write_bytes(pickle.dumps(Call(os.system, TOUCH)))
    return predict()


@case("a tar of the oldest format with a pickle that calls")
def _(kit):
    with tarfile.open(kit.folder / "a.ckpt", "w") as made:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(Call(os.system, TOUCH))
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return predict()


@case("a TorchScript program called .ckpt")
def _(kit):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), kit.folder / "a.ckpt")
    return predict()


# ---- checkpoints: what costs memory or time


@case("a zip bomb: a pickle of 3 GB in 3 MB")
def _(kit):
    with zipfile.ZipFile(kit.folder / "a.ckpt", "w", zipfile.ZIP_DEFLATED) as made:
        with made.open("a/data.pkl", "w", force_zip64=True) as file:
            for _ in range(3000):
                file.write(bytes(2**20))
        made.writestr("a/version", b"3\n")
    return predict()


@case("a tensor of 10^12 numbers that repeats one")
def _(kit):
    contents = kit.contents()
    contents["state_dict"]["head.extra"] = torch.zeros(1).expand(10**12)
    return kit.save(contents)


@case("a weight of 10^12 numbers that repeats one, for a ViT")
def _(kit):
    torch.save({"patch_embed.proj.weight": torch.zeros(1).expand(10**12)}, kit.folder / "a.pth")
    return ["train", "tiny.yaml", "--model.backbone.checkpoint", "a.pth"]


def rebuilt(size: str, *, offset: int = 0, numbers: int = 4, stride: int = 1) -> bytes:
    """A pickle of a checkpoint with one tensor, whose storage and size are as they are said to be."""
    storage = (
        b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuL"
        + str(numbers).encode()
        + b"L\ntQ"
    )
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage
    tensor += b"L" + str(offset).encode() + b"L\n(L" + size.encode() + b"L\nt(L" + str(stride).encode() + b"L\nt"
    tensor += b"I00\nccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}X\x0a\x00\x00\x00state_dict}X\x01\x00\x00\x00w" + tensor + b"ss."


for name, options in {
    "a tensor larger than its storage": {"size": "1000000"},
    "a tensor of a negative size": {"size": "-5"},
    "a tensor of 2^62 numbers": {"size": str(2**62)},
    "a tensor before its storage": {"size": "2", "offset": -4},
    "a tensor with a negative stride": {"size": "2", "stride": -1},
    "a storage of 10^13 numbers": {"size": "4", "numbers": 10**13},
    "a storage of a negative size": {"size": "4", "numbers": -8},
}.items():

    @case(name)
    def _(kit, options=options):
        archive(kit.folder / "a.ckpt", rebuilt(**options), records={"data/0": bytes(16)})
        return predict()


@case("a bytearray of 10^13 bytes")
def _(kit):
    archive(kit.folder / "a.ckpt", b"\x80\x02cbuiltins\nbytearray\nL10000000000000L\n\x85R.")
    return predict()


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@case("arguments that are nested 100,000 deep")
def _(kit):
    pickled = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    archive(kit.folder / "a.ckpt", pickled)
    return predict()


@case("an entry that is nested 450 deep", may_work=True)
def _(kit):
    contents = kit.contents()
    contents["vitdet"]["training"] = {"deep": nested(450)}
    return kit.save(contents)


@case("an entry that holds itself")
def _(kit):
    contents = kit.contents()
    contents["vitdet"]["model"]["head"]["init_args"]["loop"] = loop = []
    loop.append(loop)
    return kit.save(contents)


@case("lists that double forty times")
def _(kit):
    contents, value = kit.contents(), [1]
    for _ in range(40):
        value = [value, value]
    contents["vitdet"]["model"]["head"]["init_args"]["dim"] = value
    return kit.save(contents)


SIZES = {
    "a head of 10^10 queries": ("head", {"num_queries": 10**10}),
    "a head of 10^6 layers": ("head", {"num_layers": 10**6}),
    "a head 10^7 wide": ("head", {"dim": 10**7}),
    "a ViT of 10^9 blocks": ("backbone", {"depth": 10**9}),
    "a ViT 10^6 wide": ("backbone", {"model_args": {"embed_dim": 10**6, "num_heads": 2}}),
    "a patch of 10^6 pixels": ("backbone", {"patch_size": 10**6}),
    "sizes that are texts": ("head", {"dim": "32; import os"}),
    "a width that is not a number": ("head", {"dim": float("nan")}),
    "arguments that there are not": ("head", {"__class__": 1, "self": 2}),
}
for name, (part, changes) in SIZES.items():

    @case(f"{name}, to be built from a checkpoint")
    def _(kit, part=part, changes=changes):
        contents = kit.contents()
        contents["vitdet"]["model"][part]["init_args"].update(changes)
        return kit.save(contents)


@case("a head of 10^10 queries, to be trained from a checkpoint")
def _(kit):
    contents = kit.contents()
    contents["vitdet"]["model"]["head"]["init_args"]["num_queries"] = 10**10
    kit.save(contents)
    return VERBS["train from it"]


@case("a ViT of 10^9 blocks, to be scored")
def _(kit):
    contents = kit.contents()
    contents["vitdet"]["model"]["backbone"]["init_args"]["depth"] = 10**9
    kit.save(contents)
    return VERBS["test"]


@case("images of 10^9 pixels a side, by a checkpoint")
def _(kit):
    contents = kit.contents()
    contents["vitdet"]["eval_transform"]["size"] = 10**9
    return kit.save(contents)


@case("a transform that there is not, by a checkpoint")
def _(kit):
    contents = kit.contents()
    contents["vitdet"]["eval_transform"]["run"] = "evil_canary"
    return kit.save(contents)


@case("colours that are texts, by a checkpoint")
def _(kit):
    contents = kit.contents()
    contents["vitdet"]["mean"] = ["a", "b", "c"]
    return kit.save(contents)


@case("images of 32,768 pixels a side, by a checkpoint")
def _(kit):
    contents = kit.contents()
    contents["vitdet"]["eval_transform"]["size"] = {"square": 2**15}
    return kit.save(contents)


@case("a ViT that fetches, and reads a device", may_work=True)
def _(kit):
    contents = kit.contents()
    more = {"pretrained": True, "checkpoint": "/dev/zero"}
    contents["vitdet"]["model"]["backbone"]["init_args"].update(more)
    return kit.save(contents)


@case("a ViT whose arguments make timm read a file", may_work=True)
def _(kit):
    (kit.folder / "b.pth").write_bytes(pickle.dumps(Call(os.system, TOUCH)))
    contents = kit.contents()
    contents["vitdet"]["model"]["backbone"]["init_args"]["model_args"]["checkpoint_path"] = "b.pth"
    return kit.save(contents)


# ---- checkpoints: classes that are named

VERBS = {
    "predict": predict(),
    "test": ["test", "a.ckpt"],
    "report": ["report", "a.ckpt"],
    "explain": ["explain", "a.ckpt", "photo.png"],
    "export": ["export", "a.ckpt", "--no-check"],
    "train from it": ["train", "bare.yaml", "--model.checkpoint", "a.ckpt"],
    "go on with it": ["train", "tiny.yaml", "--ckpt_path", "a.ckpt"],
    "benchmark": ["benchmark", "a.ckpt"],
}
for name, argv in VERBS.items():

    @case(f"a head of a module beside it: {name}")
    def _(kit, argv=argv):
        contents = kit.contents()
        contents["vitdet"]["model"]["head"]["class_path"] = "evil_canary.Head"
        kit.save(contents)
        return argv


CLASSES = {
    "antigravity": "antigravity.Head",
    "of the standard library": "os.system",
    "vitdet's own command": "vitdet.cli.main",
    "a path out of vitdet": "vitdet/../evil_canary.Head",
    "relative": "..evil_canary.Head",
    "empty": "",
    "of a module that is not there": "vitdet.evil_canary.Head",
    "a function of vitdet's": "vitdet.predict_files",
}
for name, path in CLASSES.items():

    @case(f"a head with the class path {name}")
    def _(kit, path=path):
        contents = kit.contents()
        contents["vitdet"]["model"]["head"]["class_path"] = path
        return kit.save(contents)


NECKS = {"as a mapping": {"class_path": "evil_canary.neck", "init_args": {}}, "as a text": "evil_canary.neck"}
for name, neck in NECKS.items():
    for verb in ("predict", "train from it", "go on with it"):

        @case(f"a neck of a module beside it, {name}: {verb}")
        def _(kit, neck=neck, verb=verb):
            contents = kit.contents()
            contents["vitdet"]["model"]["backbone"]["init_args"]["neck"] = neck
            kit.save(contents)
            return VERBS[verb]


for verb in ("test", "report"):

    @case(f"data of a module beside it: {verb}")
    def _(kit, verb=verb):
        contents = kit.contents()
        contents["vitdet"]["data"]["class_path"] = "evil_canary.Data"
        kit.save(contents)
        return VERBS[verb]


@case("data whose augmentation runs a text")
def _(kit):
    contents = kit.contents()
    call = {"Lambda": {"image": "lambda image, **_: open('called', 'w')"}}
    contents["vitdet"]["data"]["init_args"].update(train_transforms=[call], root="shapes")
    kit.save(contents)
    return VERBS["test"]


for key, value in {"loops": 7, "optimizer_states": [[1]], "callbacks": "x", "lr_schedulers": {}}.items():

    @case(f"a checkpoint to go on with whose {key} are of another kind")
    def _(kit, key=key, value=value):
        contents = {
            **kit.contents(),
            "epoch": 0,
            "global_step": 1,
            "pytorch-lightning_version": "2.6.0",
            "loops": {},
            "callbacks": {},
            "optimizer_states": [{"state": {}, "param_groups": [{"params": [0]}]}],
            "lr_schedulers": [{}],
        }
        kit.save({**contents, key: value})
        return VERBS["go on with it"]


@case("a pipe instead of a checkpoint")
def _(kit):
    os.mkfifo(kit.folder / "a.ckpt")
    return predict()


@case("a device instead of a checkpoint")
def _(kit):
    (kit.folder / "a.ckpt").symlink_to("/dev/zero")
    return predict()


# ---- configs

HEAD_OF = "base: tiny.yaml\n"
CONFIGS = {
    "aliases that multiply": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n" for p, c in zip("abcdefghi", "bcdefghij")),
    "merge keys that multiply": "a0: &a0 {k: 1}\n"
    + "".join(f"a{i + 1}: &a{i + 1} {{<<: [{','.join([f'*a{i}'] * 9)}]}}\n" for i in range(12)),
    "an alias that holds itself": "model: &m {x: *m}",
    "a mapping of 20,000 keys that are alike": "{" + ",".join(["a: 1"] * 20_000) + "}",
    "50,000 brackets": "model: " + "[" * 50_000,
    "50,000 nested blocks": "\n".join(" " * i + "a:" for i in range(700)),
    "an object of Python's": HEAD_OF + "model: !!python/object/apply:os.system ['touch called']",
    "a new object of Python's": HEAD_OF + "model: !!python/object/new:evil_canary.Head []",
    "a module of Python's": HEAD_OF + "model: !!python/module:evil_canary ''",
    "a number of a million digits": HEAD_OF + "model: {lr: " + "1" * 250_000 + "}",
    "a number in sixteen digits without end": HEAD_OF + "data: {batch_size: 0x" + "f" * 250_000 + "}",
    "a number in sixties without end": HEAD_OF + "data: {batch_size: 1" + ":01" * 50_000 + "}",
    "a float beyond all": HEAD_OF + "model: {lr: 1e999999}",
    "not a number": HEAD_OF + "model: {lr: .nan}",
    "a batch beyond all": HEAD_OF + "data: {batch_size: 99999999999999999999999}",
    "a date that is none": HEAD_OF + "model: {lr: !!timestamp never}",
    "a number that is none": HEAD_OF + "model: {lr: !!int many}",
    "a set": HEAD_OF + "model: {lr: !!set {a, b}}",
    "bytes": HEAD_OF + "model: {lr: !!binary aGk=}",
    "a zero byte": HEAD_OF + "model: {lr: \0}",
    "a zero byte in a path": HEAD_OF + 'data: {root: "a\\0b"}',
    "half a character": HEAD_OF + 'trainer: {name: "\\ud800"}',
    "itself as its base": "base: a.yaml",
    "/dev/zero as its base": "base: /dev/zero",
    "a pipe as its base": "base: pipe",
    "a folder as its base": "base: .",
    "an address as its base": "base: http://127.0.0.1:9/a.yaml",
    "a million bytes": "# " + "x" * 1_000_000,
    "a name that leaves the folder": HEAD_OF + "trainer: {name: ../../../evil}",
}
for name, text in CONFIGS.items():

    @case(f"a config: {name}", may_work=name == "a name that leaves the folder")
    def _(kit, text=text):
        os.mkfifo(kit.folder / "pipe")
        (kit.folder / "a.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
        return ["train", "a.yaml"]


@case("configs whose bases are each the base of the next twice")
def _(kit):
    (kit.folder / "c0.yaml").write_text("base: tiny.yaml")
    for i in range(30):
        (kit.folder / f"c{i + 1}.yaml").write_text(f"base: [c{i}.yaml, c{i}.yaml]")
    return ["train", "c30.yaml"]


@case("a chain of 3,000 configs")
def _(kit):
    for i in range(3000):
        (kit.folder / f"c{i}.yaml").write_text(f"base: c{i + 1}.yaml")
    (kit.folder / "c3000.yaml").write_text("base: tiny.yaml")
    return ["train", "c0.yaml"]


@case("a pipe instead of a config")
def _(kit):
    os.mkfifo(kit.folder / "a.yaml")
    return ["train", "a.yaml"]


@case("aliases that multiply on the command line")
def _(kit):
    value = "[&a [1,1,1,1,1,1,1,1,1]" + "".join(
        f",&{c} [{','.join([f'*{p}'] * 9)}]" for p, c in zip("abcdefgh", "bcdefghi")
    )
    return ["train", "tiny.yaml", "--data.train_transforms", value + "]"]


# ---- COCO files


def coco(kit: Kit, change: Callable[[dict[str, Any]], Any]) -> list[str]:
    """Training on a COCO file that `change` has changed; it may give another text for the file."""
    square = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 20, 20], "area": 400, "iscrowd": 0}
    square["segmentation"] = [[2, 2, 22, 2, 22, 22, 2, 22]]
    images = [{"id": 1, "file_name": "photo.png", "width": 64, "height": 48}]
    content = {"images": images, "annotations": [square], "categories": [{"id": 1, "name": "cat"}]}
    text = change(content)
    (kit.folder / "a.json").write_text(text if isinstance(text, str) else json.dumps(content))
    model = {"backbone": BACKBONE, "head": {"class_path": "DETRHead", **HEAD, "masks": True}}
    split = {"images": ".", "annotations": "a.json"}
    data = {"class_path": "CocoData", "train": split, "val": split, "size": 64, "batch_size": 1}
    trainer = {"max_steps": 1, "accelerator": "cpu", "pictures": 0, "logger": False}
    (kit.folder / "a.yaml").write_text(yaml.safe_dump({"model": model, "data": data, "trainer": trainer}))
    return ["train", "a.yaml"]


def annotation(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["annotations"][0].update(changes)


def image(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["images"][0].update(changes)


def rle(counts: Any, size: Any) -> Callable[[dict[str, Any]], None]:
    return annotation(segmentation={"counts": counts, "size": size})


nan = float("nan")
# valid or mended with a line that says so: whatever happens, it costs nothing
LABELS = {
    "100,000 brackets": lambda content: "[" * 100_000,
    "100,000 brackets in a segmentation": lambda content: json.dumps(content).replace(
        "[[2, 2", "[" * 100_000 + "2, 2", 1
    ),
    "a box of 1e400": lambda content: json.dumps(content).replace("[2, 2, 20, 20]", "[2, 2, 1e400, 20]"),
    "a number of 10,000 digits": lambda content: json.dumps(content).replace("400", "4" * 10_000),
    "an id that is not a number": annotation(id=nan),
    "an image id that is not a number": image(id=nan),
    "an image id of 2^70": image(id=2**70),
    "a category without end": lambda content: content["categories"][0].update(id=float("inf")),
    "a name of 5 million characters": lambda content: content["categories"][0].update(name="x" * 5_000_000),
    "a name with control characters": lambda content: content["categories"][0].update(name="\x1b[2J\x00\n../../x"),
    "a width of 10^12": image(width=10**12),
    "a width of 2^31 - 1": image(width=2**31 - 1, height=2**31 - 1),
    "runs of 10^12 pixels": rle([10**12], [10**6, 10**6]),
    "a mask of 10^9 by 10^9": rle([0, 10**9], [10**9, 10**9]),
    "a mask of 60,000 by 60,000": rle([0, 3_600_000_000], [60_000, 60_000]),
    "runs below nothing": rle([-5, 10], [48, 64]),
    "a packed mask that is noise": rle("~" * 10_000, [48, 64]),
    "a packed mask that does not end": rle("oooooooooooooooooooooooooooooooooo", [48, 64]),
    "a size that is a text": rle("abc", ["48", None]),
    "a polygon of a million points": annotation(segmentation=[[1, 2, 3, 50] * 500_000]),
    "100,000 polygons": annotation(segmentation=[[2, 2, 22, 2, 22, 22]] * 100_000),
    "a polygon of points far away": annotation(segmentation=[[-1e18, 0, 1e18, 0, 0, 1e18]]),
    "a polygon of points that are no numbers": annotation(segmentation=[[nan, 2, nan, 2, 22, 22]]),
    "a box far away": annotation(bbox=[-1e30, -1e30, 2e30, 2e30]),
    "a file name out of the folder": image(file_name="../../../../../../etc/passwd"),
    "a file name with a zero byte": image(file_name="a\0b"),
    "a file name that is a device": image(file_name="zero"),
    "categories that are a text": lambda content: content.update(categories="cat"),
    "nothing but null": lambda content: "null",
}
for name, change in LABELS.items():

    @case(f"a COCO file: {name}", may_work=True)
    def _(kit, change=change):
        (kit.folder / "zero").symlink_to("/dev/zero")
        return coco(kit, change)


@case("results of 2^70 images that are scored")
def _(kit):
    coco(kit, image())
    row = {"image_id": 2**70, "category_id": 1, "bbox": [0, 0, 1e400, 5], "score": nan}
    (kit.folder / "b.json").write_text(json.dumps([row]))
    return ["evaluate", "b.json", "a.json"]


@case("results with masks of 10^9 by 10^9 that are scored")
def _(kit):
    coco(kit, image())
    mask = {"counts": [0, 10**9], "size": [10**9, 10**9]}
    (kit.folder / "b.json").write_text(
        json.dumps([{"image_id": 1, "category_id": 1, "segmentation": mask, "score": 0.5}])
    )
    return ["evaluate", "b.json", "a.json"]


@case("results that are nested 100,000 deep")
def _(kit):
    coco(kit, image())
    (kit.folder / "b.json").write_text("[" * 100_000)
    return ["evaluate", "b.json", "a.json"]


# ---- images


def png(width: int, height: int, *, colour: int = 2, data: bytes | None = None, more: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compress(bytes(1000)) if data is None else data
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def text_chunk() -> bytes:
    content = b"a\0\0" + zlib.compress(bytes(500_000_000), 9)
    return struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))


def photo(**options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(file, options.pop("format", "JPEG"), **options)
    return file.getvalue()


def exif(content: bytes) -> bytes:
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(content) + 8) + b"Exif\0\0" + content + photo()[2:]


def line(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "PNG")
    return file.getvalue()


SVG = '<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "%s">]><svg xmlns="http://www.w3.org/2000/svg"><a>&a;</a></svg>'
PICTURES = {
    "of 60,000 by 60,000 pixels": lambda: png(60_000, 60_000),
    "of 9,000 by 9,000 pixels without content": lambda: png(9_000, 9_000),
    "of 2^31 - 1 by 2^31 - 1 pixels": lambda: png(2**31 - 1, 2**31 - 1),
    "of no pixels": lambda: png(0, 0),
    "whose rows end early": lambda: png(300, 300),
    "with a text of 500 MB": lambda: png(8, 8, more=text_chunk()),
    "cut in the middle": lambda: photo()[:300],
    "cut in the header": lambda: photo()[:12],
    "with noise for EXIF": lambda: exif(b"II*\0" + bytes(range(200))),
    "with EXIF that points to itself": lambda: exif(b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\0\0\0\0"),
    "1 pixel wide and 65,535 high": lambda: line(1, 65_535),
    "65,535 wide and 1 high": lambda: line(65_535, 1),
    "that is an SVG": lambda: (SVG % "x").encode(),
    "that is a PDF": lambda: b"%PDF-1.4\n1 0 obj\n<< /OpenAction << /S /Launch /F (touch called) >> >>\nendobj\n",
    "that is PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n(called) (w) file\nshowpage\n",
    "that is a program": lambda: b"#!/bin/sh\ntouch called\n",
    "that is empty": lambda: b"",
    "that is a GIF of 65,535 by 65,535": lambda: (
        b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x08"
    ),
    "that is a TIFF that points to itself": lambda: b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
    "that is a BMP of a negative size": lambda: (
        photo(format="BMP")[:18] + struct.pack("<ii", -(2**31), -(2**31)) + bytes(40)
    ),
}
for name, content in PICTURES.items():

    @case(f"an image {name}", may_work=True)
    def _(kit, content=content):
        (kit.folder / "a.jpg").write_bytes(content())
        return predict("good.ckpt", "a.jpg")


@case("a line of pixels for a model that sees the short side", may_work=True)
def _(kit):
    contents = kit.contents()
    contents["vitdet"]["eval_transform"]["size"] = {"short_side": 480}
    kit.save(contents)
    (kit.folder / "a.png").write_bytes(line(1, 65_535))
    return predict(image="a.png")


@case("a pipe instead of an image", may_work=True)
def _(kit):
    os.mkfifo(kit.folder / "a.jpg")
    return predict("good.ckpt", "a.jpg")


@case("a link to itself instead of an image", may_work=True)
def _(kit):
    (kit.folder / "a.jpg").symlink_to("a.jpg")
    return predict("good.ckpt", "a.jpg")


# ---- shared and exported models


def shared(kit: Kit, *, config: Any = None, header: bytes | None = None) -> list[str]:
    """A folder as `vitdet export --format safetensors` writes it, with another config or header."""
    from safetensors.torch import save_file

    folder = kit.folder / "model"
    folder.mkdir()
    saved = kit.contents()
    save_file({key: value.contiguous() for key, value in saved["state_dict"].items()}, folder / "model.safetensors")
    if header is not None:
        (folder / "model.safetensors").write_bytes(header)
    content = {"library_name": "vitdet", "vitdet": saved["vitdet"]} if config is None else config(saved["vitdet"])
    (folder / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return predict("model")


def safetensors(entries: Any, *, length: int | None = None, data: bytes = bytes(16)) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


HEADERS = {
    "is longer than all files": safetensors({}, length=2**63),
    "is longer than the file": safetensors({}, length=10**8),
    "is nested deeply": safetensors(b'{"a":' + b"[" * 50_000),
    "has a tensor of 2^60 numbers": safetensors({"a": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 16]}}),
    "has a tensor before the file": safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}),
    "has tensors that share bytes": safetensors(
        {k: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for k in "abc"}
    ),
    "has a type that there is not": safetensors({"a": {"dtype": "PY", "shape": [4], "data_offsets": [0, 16]}}),
    "is no JSON": safetensors(b"import os"),
    "is empty": b"",
}
for name, content in HEADERS.items():

    @case(f"a safetensors file whose header {name}")
    def _(kit, content=content):
        return shared(kit, header=content)


def named(path: str) -> Callable[[dict[str, Any]], Any]:
    def change(saved: dict[str, Any]) -> dict[str, Any]:
        saved["model"]["head"]["class_path"] = path
        return {"vitdet": saved}

    return change


for name, config in {
    "names a module beside it": named("evil_canary.Head"),
    "names os.system": named("os.system"),
    "is nested 100,000 deep": lambda saved: "[" * 100_000,
    "has a number of 10,000 digits": lambda saved: '{"vitdet": ' + "1" * 10_000 + "}",
    "has no model": lambda saved: {"vitdet": {**saved, "model": None}},
    "is for images of 10^9 pixels": lambda saved: {"vitdet": {**saved, "eval_transform": {"size": 10**9}}},
}.items():

    @case(f"a shared model whose config.json {name}")
    def _(kit, config=config):
        return shared(kit, config=config)


for name in ("hf://../../etc", "hf://user/../../x", "hf://a/b@../../../c", "hf://", "hf://user", "hf://user/$(touch)"):

    @case(f"a model called {name}")
    def _(kit, name=name):
        return predict(name)


def exported(kit: Kit, metadata: Any) -> list[str]:
    """An ONNX file with any metadata."""
    import onnx
    from onnx import TensorProto, helper

    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    out = helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    graph = helper.make_graph([helper.make_node("Identity", ["images"], ["boxes"])], "a", [images], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"vitdet": metadata if isinstance(metadata, str) else json.dumps(metadata)})
    onnx.save(model, kit.folder / "a.onnx")
    return predict("a.onnx")


FINE = {"format": 1, "kind": "boxes", "classes": ["cat"], "category_ids": [1], "preprocessing": False}
FINE["decode"] = {"head": "detections", "stride": 8}
FINE["eval_transform"] = {"size": 64, "mean": [0.5] * 3, "std": [0.5] * 3}
for name, metadata in {
    "are nested 100,000 deep": "[" * 100_000,
    "are a list": "[]",
    "have ids without end": {**FINE, "category_ids": [float("inf")]},
    "are for images of 10^9 pixels": {**FINE, "eval_transform": {**FINE["eval_transform"], "size": 10**9}},
    "name a class": {**FINE, "eval_transform": {"class_path": "evil_canary.Head", "init_args": {}}},
    "have a number of 10,000 digits": '{"format": ' + "1" * 10_000 + "}",
}.items():

    @case(f"an exported model whose metadata {name}")
    def _(kit, metadata=metadata):
        return exported(kit, metadata)


@case("an ONNX file that is noise")
def _(kit):
    (kit.folder / "a.onnx").write_bytes(bytes(range(256)) * 40)
    return predict("a.onnx")


@case("an ONNX file with weights outside of its folder")
def _(kit):
    import onnx
    from onnx import TensorProto, helper

    exported(kit, FINE)
    model = onnx.load(kit.folder / "a.onnx")
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [4], bytes(16), raw=True)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../../../../etc/passwd"
    model.graph.initializer.append(tensor)
    (kit.folder / "a.onnx").write_bytes(model.SerializeToString())
    return predict("a.onnx")
