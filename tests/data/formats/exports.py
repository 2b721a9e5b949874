"""Small exports of annotation tools, which tests write, and what is read of them."""

import base64
import io
import json
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from vitdet.annotations.reader import parse_text


def write(root: Path, files: dict[str, Any]) -> Path:
    """Writes a folder: a tuple is the width and height of an image, with an EXIF tag behind them if there is one, text
    and bytes are written as they are, all else as JSON."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, tuple):
            exif = Image.Exif()
            if len(content) == 3:
                exif[0x112] = content[2]
            Image.new("RGB", content[:2], (90, 120, 50)).save(path, exif=exif)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return root


def read(module: ModuleType, root: Path, split: str = "all") -> tuple[dict, list[str]]:
    """The COCO content of a split and the lines, after checks that hold for every format."""
    found = module.recognise(root)
    assert found is not None, "not recognised"
    assert split in found, sorted(found)
    labels = found[split]
    content, lines = labels.read()
    for image in content["images"]:
        path = labels.images / image["file_name"]
        assert path in labels.files and path.is_file()
    assert len({*labels.files}) >= len(content["images"])
    # vitdet's own reader takes it as it is
    arrays, meta = parse_text(json.dumps(content).encode(), "content")
    assert not meta["unfit"] and len(arrays["area"]) == len(content["annotations"])
    return content, lines


def objects(content: dict) -> list[tuple]:
    """Each object's image, class, box and polygons, the mask as the positions of its pixels, or None."""
    images = {image["id"]: image["file_name"] for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    return [
        (images[a["image_id"]], names[a["category_id"]], [round(v, 6) for v in a["bbox"]], a.get("segmentation"))
        for a in content["annotations"]
    ]


def sizes(content: dict) -> dict[str, tuple[int, int]]:
    return {image["file_name"]: (image["width"], image["height"]) for image in content["images"]}


def classes(content: dict) -> dict[int, str]:
    return {category["id"]: category["name"] for category in content["categories"]}


def png(mask: list[list[int]], *, compressed: bool = False) -> str:
    """A mask as a PNG in base64, as LabelMe writes it, or compressed again, as Supervisely does."""
    file = io.BytesIO()
    Image.fromarray(np.array(mask, np.uint8) * 255).save(file, "PNG")
    data = file.getvalue()
    return base64.b64encode(zlib.compress(data) if compressed else data).decode()


def voc(filename: str, size: tuple[int, int] | None, *boxes: tuple, extra: str = "") -> str:
    """Pascal VOC's XML; a box is a name, the four corners, and further elements."""
    items = "".join(
        f"<object><name>{name}</name>{''.join(more)}<bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
        f"<ymax>{d}</ymax></bndbox></object>"
        for name, a, b, c, d, *more in boxes
    )
    side = "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><folder>x</folder><filename>{filename}</filename>{extra}{side}{items}</annotation>"
