"""Makes the model of a config so small that a step takes milliseconds.

Only sizes are changed: widths, numbers of queries and points, and pixels. Depths, tapped blocks, windows, necks,
precision, gradient clipping, accumulation, optimiser and schedule are those of the config.
"""

import inspect
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from vitdet import zoo
from vitdet.checkpoint import write
from vitdet.command.layers import apply_settings, at, read_layers, read_words
from vitdet.command.run import complete
from vitdet.config import part
from vitdet.data.shapes import make_shapes

ROOT = Path(__file__).parents[2]
SIZES = {"embed_dim": 48, "num_heads": 3}
HEAD = {"dim": 48, "ffn_dim": 48, "decoder.ffn_dim": 48, "num_queries": 8, "num_layers": 2}
NECK, STEM = {"csp_channels": 16, "ffn_dim": 48}, {"width": 4}
PIXELS, CROP, TILE, POINTS, TOKENS = 64, [40, 48], 32, 32, 64
IMAGES = {"train": 8, "val": 2}
RNG = np.random.default_rng(0)


def smaller(config: dict[str, Any]) -> dict[str, Any]:
    """Overrides of a resolved config, by dotted key."""
    backbone, head = config["model"]["backbone"]["init_args"], config["model"]["head"]
    given = backbone.get("model_args") or {}
    shrunk = {"img_size": PIXELS} if "img_size" in given else {}
    sizes = {"model.backbone.out_channels": 48, "model.backbone.model_args": {**given, **SIZES, **shrunk}}
    neck, stem, trunk = ({**(backbone.get(name) or {})} for name in ("neck", "stem", "trunk"))
    if shrunk := {key: value for key, value in NECK.items() if key in neck.get("init_args", {})}:
        sizes["model.backbone.neck"] = {**neck, "init_args": {**neck["init_args"], **shrunk}}
    if stem:
        sizes["model.backbone.stem"] = {**stem, "init_args": {**stem["init_args"], **STEM}}
    if trunk.get("canvas"):
        sizes["model.backbone.trunk"] = {**trunk, "canvas": PIXELS}
    known = inspect.signature(part(head["class_path"])).parameters
    own = head["init_args"]
    sizes |= {
        f"model.head.{key}": value for key, value in HEAD.items() if key.split(".")[0] in known and own.get(key) != 0
    }
    if own.get("masks"):
        sizes["model.head.masks.points"] = POINTS
    if own.get("tile"):
        sizes["model.head.tile"] = TILE
    points = own.get("num_points", known["num_points"].default if "num_points" in known else 0)
    if isinstance(points, int) and points > 99:  # where a loss looks at masks, not where a query looks at features
        sizes["model.head.num_points"] = POINTS
    return sizes


def of_data(config: dict[str, Any]) -> dict[str, Any]:
    """Overrides that make the images, and batches of them, small."""
    data = config["data"]["init_args"]
    size = data.get("size")
    sizes = {"data.size": dict.fromkeys(size, PIXELS) if isinstance(size, dict) else PIXELS}
    if "Shapes" in config["data"].get("class_path", ""):
        sizes |= {f"data.{split}_images": count for split, count in IMAGES.items()}
    if (data.get("augmentation") or {}).get("crop"):
        sizes["data.augmentation.crop"] = CROP
    return sizes | ({"data.max_tokens": TOKENS} if data.get("max_tokens") else {"data.batch_size": 1})


def checkpoint(config: dict[str, Any], path: Path) -> Path:
    """A checkpoint as training writes it, of the small sister of a config's model, for what the config starts from."""
    model = {name: {**value, "init_args": dict(value["init_args"])} for name, value in _parts(config).items()}
    for key, value in smaller(config).items():
        _, name, option, *inner = key.split(".")
        given = model[name]["init_args"]
        given[option] = {**(given.get(option) or {}), inner[0]: value} if inner else value
    backbone = part(model["backbone"]["class_path"])(**model["backbone"]["init_args"])
    classes = ["disc", "zebra"]
    head = part(model["head"]["class_path"])(
        backbone.out_channels, backbone.strides, len(classes), **model["head"]["init_args"]
    )
    transform = {"size": of_data(config)["data.size"], "mean": backbone.mean, "std": backbone.std}
    contents = write({}, backbone, head, classes=classes, category_ids=[1, 2], eval_transform=transform)
    torch.save(contents, path)
    return path


def _parts(config: dict[str, Any]) -> dict[str, Any]:
    return {name: config["model"][name] for name in ("backbone", "head")}


def models(path: Path) -> dict[str, list[str]]:
    """The published models that the head of a config names, each with the words that the head gives it."""
    text = path.read_text(encoding="utf-8").replace("\\\n#", "")
    found = {}
    for line in text.splitlines():
        names, _, rest = line.removeprefix("#").partition(":")
        if line.startswith("#     ") and set(names := names.replace(",", " ").split()) <= set(zoo.CARDS):
            found |= {name: ["--model.checkpoint", name, *shlex.split(rest)] for name in names}
    return found


def resolved(path: Path, words: list[str]) -> dict[str, Any]:
    """A config with the words of a command line on top."""
    config = apply_settings(read_layers(path), read_words(words)[0])
    return _numbers(complete(config, at(config, "model").get("checkpoint")))


def _numbers(value: Any) -> Any:
    """What the parser makes of words: a number is no text."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    number = yaml.safe_load(value) if isinstance(value, str) else None
    return number if isinstance(number, (int, float)) else value


def overrides(config: dict[str, Any], folder: Path) -> list[str]:
    """Words that make a resolved config small; weights that it starts from are written into `folder`."""
    model = config["model"]
    sizes = of_data(config)
    if model.get("checkpoint"):
        sizes["model.checkpoint"] = str(checkpoint(config, folder / "start.ckpt"))
        sizes.pop("data.size")
    else:
        sizes |= smaller(config)
    if model["backbone"]["init_args"].get("pretrained"):
        sizes["model.backbone.pretrained"] = False
        sizes["model.backbone.checkpoint"] = str(weights(model["backbone"]["init_args"]["name"], folder))
    return words(sizes)


def words(values: dict[str, Any]) -> list[str]:
    """`{"a.b": [1]}` to `["--a.b", "[1]"]`."""
    return [word for key, value in values.items() for word in (f"--{key}", _text(value))]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def weights(name: str, folder: Path) -> Path:
    """A file of timm's layout, as `backbone.checkpoint` takes it."""
    path = folder / "weights.safetensors"
    model = timm.create_model(name, **SIZES, img_size=PIXELS)
    save_file(model.state_dict(), path)
    return path


# ---- data, laid out as docs/data.md says


def write_image(path: Path, size: tuple[int, int] = (48, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def write_labels(path: Path, values: range, size: tuple[int, int] = (48, 64)) -> None:
    """A map of blocks of these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = RNG.choice(values, (size[0] // 16, size[1] // 16)).astype(np.uint8)
    Image.fromarray(blocks.repeat(16, 0).repeat(16, 1)).save(path)


def make_coco(root: Path) -> None:
    """The built-in images under COCO's names."""
    shapes = make_shapes(root / "shapes", **IMAGES)
    (root / "coco" / "annotations").mkdir(parents=True)
    for split in IMAGES:
        (root / "coco" / f"{split}2017").symlink_to(shapes.resolve() / split)
        folder, drawn = root / "coco" / "annotations", shapes.resolve() / "annotations"
        (folder / f"panoptic_{split}2017").symlink_to(shapes.resolve() / f"panoptic_{split}")
        for kind in ("instances", "panoptic"):
            (folder / f"{kind}_{split}2017.json").write_text((drawn / f"{kind}_{split}.json").read_text())


def only_boxes(root: Path) -> Path:
    """A folder with the built-in images, and labels of a single kind."""
    folder, drawn = root / "boxes", (root / "shapes").resolve()
    if not folder.exists():
        (folder / "annotations").mkdir(parents=True)
        for split in IMAGES:
            (folder / split).symlink_to(drawn / split)
            name = f"instances_{split}.json"
            (folder / "annotations" / name).write_text((drawn / "annotations" / name).read_text())
    return folder


def make_ade20k(root: Path) -> None:
    folder = root / "ADEChallengeData2016"
    for split, count in zip(("training", "validation"), IMAGES.values()):
        for i in range(count):
            name = f"ADE_{split[:5]}_{i:08d}"
            write_image(folder / "images" / split / f"{name}.jpg")
            write_labels(folder / "annotations" / split / f"{name}.png", range(151))  # 0 is "other"
            write_labels(folder / "annotations_instance" / split / f"{name}.png", range(101))


def make_cityscapes(root: Path) -> None:
    folder = root / "cityscapes"
    for split, count in IMAGES.items():
        for i in range(count):
            name = f"ulm_{i:06d}_000019"
            write_image(folder / "leftImg8bit" / split / "ulm" / f"{name}_leftImg8bit.png")
            for kind in ("labelIds", "instanceIds"):
                write_labels(folder / "gtFine" / split / "ulm" / f"{name}_gtFine_{kind}.png", range(34))


def make_datasets(root: Path) -> None:
    for make in (make_coco, make_ade20k, make_cityscapes):
        make(root)


# ---- commands


def placeholders(command: list[str], root: Path) -> list[str]:
    """A documented command with files of `make_datasets` for DIR, JSON, train.json and so on; `root` is its folder."""
    kind = "panoptic" if any(word.endswith("segments") for word in command) else "instances"
    shapes = root / "shapes"
    found = []
    for option, word in zip(["", *command], command):
        keys = option.removeprefix("--").split(".")
        if word == "FOLDER":
            word = str(only_boxes(root))
        elif "://" in word:
            # `Site` has a storage for it
            pass
        elif len(keys) == 3 and keys[0] == "data" and keys[1] in IMAGES and not Path(word).exists():
            split = keys[1]
            word = {
                "images": str(shapes / split),
                "annotations": str(shapes / "annotations" / f"{kind}_{split}.json"),
                "segments": str(shapes / f"panoptic_{split}"),
                "labels": str(shapes / f"semantic_{split}"),
            }[keys[2]]
        found.append("[disc, square]" if word == "[NAME, NAME]" else word)
    return found


def header(path: Path) -> list[str]:
    """The words of the command that stands at the head of a config."""
    lines = [line.removeprefix("#").strip() for line in path.read_text(encoding="utf-8").splitlines()]
    first = next(i for i, line in enumerate(lines) if line.startswith("vitdet "))
    last = next(i for i in range(first, len(lines)) if not lines[i].endswith("\\"))
    return shlex.split(" ".join(line.rstrip("\\") for line in lines[first : last + 1]))
