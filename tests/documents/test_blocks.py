"""Every block of code on the pages is run or checked: Python, YAML, commands, layouts of folders, and the lines on the
structure of vitdet."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import zipfile
from pathlib import Path

import pages
import pytest
import served
import tiny
import torch
import yaml
from commands import BEST, PROGRAMS, simple_commands
from test_structure import RANKS

import vitdet
from vitdet.command.export import _parser

FEWER = {
    "ShapesData(size=256)": "ShapesData(size=64, train_images=8, val_images=2)",
    "max_epochs=10": "max_steps=1, accelerator='cpu'",
    "max_steps=50": "max_steps=2, accelerator='cpu'",
    '"vit_tiny_patch16_224"': '"vit_tiny_patch16_224", model_args={"embed_dim": 48, "num_heads": 3}',
}
ELSEWHERE = {
    'vitdet.load("rf-detr-nano")': "tests/zoo/test_published_files.py"
}  # where a file as its authors write it is at hand


def blocks(*kinds):
    return pytest.mark.parametrize("block", pages.of_kind(*kinds), ids=str)


def test_every_block_is_of_a_kind_that_is_run():
    kinds = {piece.kind for piece in pages.ALL} - {"row", "word"}
    assert kinds == {"python", "yaml", "indented"}


@blocks("python")
def test_python(block, site, tmp_path, monkeypatch):
    """As it is written, on fewer images and steps, beside the photo and the run that it names."""
    elsewhere = [file for text, file in ELSEWHERE.items() if text in block.text]
    if elsewhere:
        assert "test_the_readmes_example" in (tiny.ROOT / elsewhere[0]).read_text()
        return
    for name in ("photo.jpg", "clip.mp4", "datasets"):
        (tmp_path / name).symlink_to(site.folder / name)
    (tmp_path / Path(BEST).parent).mkdir(parents=True)
    shutil.copy(site.folder / "earlier.ckpt", tmp_path / BEST)
    monkeypatch.chdir(tmp_path)
    code = functools.reduce(lambda text, pair: text.replace(*pair), FEWER.items(), block.text)
    if served.ADDRESS in code:
        code = code.replace(served.ADDRESS, site.url)
    exec(compile(code, str(block), "exec"), {"__name__": "__main__"})
    if "prediction.save" in code:
        assert Path("found.jpg").is_file()


@blocks("yaml")
def test_yaml(block, site):
    """It is a config; what it says of data is there, and of the model is trained."""
    name = f"{Path(block.page).stem}_{block.line}"
    Path(f"{name}.yaml").write_text(block.text, encoding="utf-8")
    own = yaml.safe_load(block.text)
    train = own["data"].get("train", {})
    for files in train if isinstance(train, list) else [train]:
        for key in files.keys() & {"images", "annotations", "labels", "segments"}:
            assert Path(files[key]).exists(), f"{block}: data.train.{key}"
    out = site.main("train", f"{name}.yaml", *site.small(f"{name}.yaml", train=True), "--trainer.max_steps", "1")
    assert f"runs/{name}/version_" in out
    if "classes" in own["data"]:
        assert all(f"IoU/{one}" in out for one in own["data"]["classes"][:2])


# ---- indented blocks


def layout(block, site, tree):
    """Each line is a form of paths, in braces and stars, below `datasets/`."""
    for line in block.text.splitlines():
        for form in expand(line.split()[0].replace("CITY", "*")):
            assert list((tree / "datasets").glob(form)), f"{block}: {form}"


def expand(form):
    """`a/{b,c}` to `a/b` and `a/c`."""
    found = re.search(r"\{(.*?)\}", form)
    return (
        [form]
        if not found
        else [one for part in found[1].split(",") for one in expand(form.replace(found[0], part, 1))]
    )


def shell(block, site, tree):
    for program in {words.split()[0] for words in block.text.replace("\\\n", " ").splitlines()}:
        assert program in {"python", "vitdet", "VITDET_API_KEY=secret", "VITDET_LONG=1", *PROGRAMS}, (
            f"{block}: say in commands.PROGRAMS how {program} is run"
        )
    site.say(block.text)


def download(block, site, tree):
    """From a server on this machine, which curl takes for a proxy; it has a few files of what the real one offers."""
    assert (tree / "datasets").is_dir()  # the fixture ran it


def order(block, site, tree):
    """The order of the parts is the one that test_structure.py holds."""
    ranks = [set(part.split(", ")) for part in " ".join(block.text.split()).split(" <- ")]
    assert ranks[:-1] == RANKS[:-1] and ranks[-1] <= RANKS[-1]


def picture(block, site, tree):
    assert " ".join(block.text.split()) in " ".join(vitdet.__doc__.split())


def step(block, site, tree):
    """It computes what `Task.training_step` does."""
    from vitdet import Backbone, DETRHead, Task
    from vitdet.structures import Target

    head = functools.partial(DETRHead, dim=32, num_layers=1, num_queries=5, decoder={"ffn_dim": 32}, denoising=0)
    task = Task(
        Backbone("vit_tiny_patch16_224", model_args={"embed_dim": 32, "num_heads": 2}, depth=1),
        head,
        classes=["a", "b"],
    ).eval()
    batch = (
        [torch.randn(3, 32, 48)],
        [Target(torch.tensor([[0.5, 0.5, 0.4, 0.4]]), torch.tensor([1]), (32, 48), (32, 48))],
    )
    task._logged = lambda total, losses: total
    names = {}
    exec("def step(self, batch):\n" + textwrap.indent(block.text, "    "), names)
    torch.testing.assert_close(names["step"](task, batch), task.training_step(batch, 0))


def number_ids(block, site, tree):
    """The script on a file whose image ids are strings; vitdet reads what it leaves."""
    script, file = site.folder / "number.py", site.folder / "strings.json"
    data = json.loads((site.folder / "val.json").read_text())
    for image in data["images"]:
        image["id"] = f"image {image['id']}"
    for annotation in data["annotations"]:
        annotation["image_id"] = f"image {annotation['image_id']}"
    file.write_text(json.dumps(data))
    script.write_text(block.text)
    subprocess.run([sys.executable, script, file], check=True)
    split = {"images": "data/val", "annotations": str(file)}
    assert len(vitdet.CocoData(val=split).index("val").image_ids) == len(data["images"])


def looked_at(block, site, tree):
    """The commands on small data: FOLDER has labels of one kind, and what a config draws is small."""
    folder = site.folder / "labelled"
    shapes = site.folder / "datasets" / "shapes"
    if not folder.exists():
        (folder / "annotations").mkdir(parents=True)
        for split in tiny.IMAGES:
            (folder / split).symlink_to(shapes / split)
            (folder / "annotations" / f"instances_{split}.json").symlink_to(
                shapes / "annotations" / f"instances_{split}.json"
            )
    places = {"FOLDER": str(folder), "DIR": str(shapes / "val")}
    places["JSON"] = str(shapes / "annotations" / "instances_val.json")
    for words in simple_commands(block.text):
        assert words[0] == "vitdet"
        words = [places.get(word, word) for word in words[1:]]
        config = next((word for word in words if word.endswith(".yaml")), None)
        small = tiny.overrides(tiny.resolved(Path(config), []), site.folder) if config else []
        out = site.main(*words, *small)
        assert out.strip()
    assert all(Path(name).is_file() for name in ("check.html", "report.json") if name in block.text)


def pushed(block, site, tree):
    """tests/share does it, with a hub on this machine; the options are those of the command."""
    said = site.main("push", "--help")
    for words in simple_commands(block.text):
        assert words[:2] == ["vitdet", "push"] and words[3] == "USER/NAME"
        assert all(word in said for word in words if word.startswith("--"))
    assert '"push", FOLDER, "someone/shapes"' in (tiny.ROOT / "tests" / "share" / "roundtrip.py").read_text()


def packaged(block, site, tree):
    """tests/deploy/test_package.py does it, which takes a minute; what the page says of PyTorch is what it runs."""
    export, python = simple_commands(block.text)
    assert not _parser().parse_known_args(export[2:])[1]
    assert "aoti_load_package" in python[2]
    assert python[2].partition(";")[2].strip() in (tiny.ROOT / "tests" / "deploy" / "test_package.py").read_text()


KINDS = {
    "vitdet export": packaged,
    "vitdet push": pushed,
    "mkdir -p datasets/coco": download,
    "cd ": download,
    "pip": shell,
    "python": shell,
    "vitdet data get": shell,
    "vitdet data check": looked_at,
    "vitdet data show": looked_at,
    "vitdet compare": shell,
    "vitdet train": shell,
    "vitdet predict": shell,
    "vitdet serve": shell,
    "VITDET_API_KEY=": shell,
    "curl": shell,
    "docker": shell,
    "vitdet explain": shell,
    "torchrun": shell,
    "image ->": picture,
    "errors, ": order,
    "images, targets": step,
    "import json": number_ids,
    "shapes/": layout,
    "coco/": layout,
    "ADEChallengeData2016/": layout,
    "cityscapes/": layout,
}


def kind_of(block):
    starts = [start for start in KINDS if block.text.startswith(start)]
    assert len(starts) == 1, f"{block}: say in KINDS of test_blocks.py how this block is run: {starts}"
    return KINDS[starts[0]]


class Files(http.server.SimpleHTTPRequestHandler):
    """Gives the file of that name, whatever host it is asked of."""

    def translate_path(self, path):
        return str(Path(self.directory) / Path(path).name)

    def log_message(self, *_):
        pass


def pack(folder, name, *parts):
    """`name`.zip of these parts of `folder`."""
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as file:
        for part in parts:
            for path in sorted(p for p in [folder / part, *(folder / part).rglob("*")] if p.is_file()):
                file.write(path, path.relative_to(folder))


@pytest.fixture(scope="session")
def offered(whole_site, tmp_path_factory):
    """A folder with the files that docs/data.md downloads."""
    folder = tmp_path_factory.mktemp("offered")
    shutil.copytree(whole_site.folder / "datasets" / "coco", folder, dirs_exist_ok=True)
    for split in tiny.IMAGES:
        pack(folder, f"{split}2017", f"{split}2017")
        pack(folder / "annotations", f"panoptic_{split}2017", f"panoptic_{split}2017")
    pack(folder, "annotations_trainval2017", *(f"annotations/instances_{split}2017.json" for split in tiny.IMAGES))
    panoptic = [f"annotations/panoptic_{split}2017.{kind}" for split in tiny.IMAGES for kind in ("json", "zip")]
    pack(folder, "panoptic_annotations_trainval2017", *panoptic)
    ade = shutil.copytree(whole_site.folder / "datasets" / "ADEChallengeData2016", folder / "ADEChallengeData2016")
    subprocess.run(["tar", "cf", folder / "annotations_instance.tar", "-C", ade, "annotations_instance"], check=True)
    pack(folder, "ADEChallengeData2016", "ADEChallengeData2016/images", "ADEChallengeData2016/annotations")
    return folder


@pytest.fixture(scope="session")
def tree(whole_site, offered, tmp_path_factory):
    """`datasets/` after the downloads, with the data sets that vitdet draws, and with Cityscapes, whose download needs
    a form to be filled in."""
    folder = tmp_path_factory.mktemp("downloads")
    data = [block.text for block in pages.of_kind("indented") if block.page == "docs/data.md"]
    coco, ade = (next(text for text in data if word in text) for word in ("images.cocodataset.org", "csail.mit.edu"))
    assert "annotations/panoptic_annotations_trainval2017" in (tiny.ROOT / "docs" / "data.md").read_text()
    coco = coco.replace(
        "annotations/annotations_trainval2017",
        "annotations/annotations_trainval2017 annotations/panoptic_annotations_trainval2017",
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=offered))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxy = {"http_proxy": f"http://127.0.0.1:{server.server_port}", "no_proxy": "", "NO_PROXY": ""}
    unpack = next(text for text in data if text.startswith("cd annotations"))
    for script in (f"{coco}\n{unpack}", ade):
        whole_site.process("bash", "-euc", script, cwd=folder, **proxy)
    server.shutdown()
    (folder / "datasets" / "shapes").symlink_to(whole_site.folder / "datasets" / "shapes")
    tiny.make_cityscapes(folder / "datasets")
    return folder


@blocks("indented")
def test_indented(block, site, tree):
    kind_of(block)(block, site, tree)
