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


TRIANGLE = [[4, 2], [20, 2], [20, 14]]
FLAT = [[4, 2, 20, 2, 20, 14]]


def shape(label, points, kind="polygon", **more) -> dict:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def me(*shapes, path="a.jpg", size=(40, 20), **more) -> dict:
    tail = {"imageData": None, "imageHeight": size[1], "imageWidth": size[0]}
    return {"version": "5.4.1", "flags": {}, "shapes": [*shapes], "imagePath": path, **tail, **more}


META = "<meta><task><labels><label><name>zebra</name></label><label><name>ant</name></label></labels></task></meta>"


def cvat_image(shapes="", name="a.jpg", more="") -> str:
    return f'<image id="0" name="{name}" {more} width="40" height="20">{shapes}</image>'


def project(*things, name="ds0", size=(40, 20)) -> dict:
    classes = [{"title": title, "shape": "any", "color": "#0F8A12"} for title in ("zebra", "ant")]
    return {
        "meta.json": {"classes": classes, "tags": [], "projectType": "images"},
        f"{name}/img/a.jpg": (40, 20),
        f"{name}/ann/a.jpg.json": {
            "description": "",
            "size": dict(zip(("width", "height"), size)),
            "objects": [*things],
        },
    }


def thing(kind, exterior=(), interior=(), **more) -> dict:
    points = {"exterior": [*exterior], "interior": [*interior]}
    return {"classTitle": "ant", "geometryType": kind, "points": points, "tags": [], **more}


def region(name, attributes=None, **shape) -> dict:
    return {"shape_attributes": {"name": name, **shape}, "region_attributes": attributes or {}}


def item(*regions, name="a.jpg") -> dict:
    return {f"{name}123": {"filename": name, "size": 123, "regions": [*regions], "file_attributes": {}}}


POINTS = {"all_points_x": [4, 20, 20], "all_points_y": [2, 2, 14]}


BOX = "1 0.5 0.5 0.5 0.5\n"
POLYGON = "0 0.1 0.1 0.5 0.1 0.5 0.7\n"


XML = voc("x", (40, 20), ("cat", 1, 2, 30, 15), ("dog", 4, 4, 8, 8, "<difficult>1</difficult>"))
SHAPES = f'<polygon label="ant" points="{";".join(f"{x},{y}" for x, y in TRIANGLE)}"/>'
CVAT = f'<annotations>{META}<image name="a.jpg" width="40" height="20" subset="train">{SHAPES}</image></annotations>'
EXPORTS = {
    "YOLO": {
        "train/images/a.jpg": (40, 20),
        "train/labels/a.txt": POLYGON + BOX,
        "train/images/b.jpg": (8, 8),
        "valid/images/c.jpg": (40, 20, 6),
        "valid/labels/c.txt": BOX,
        "data.yaml": "train: ../train/images\nval: ../valid/images\nnames: [cat, dog]",
    },
    "Pascal VOC": {"train/a.jpg": (40, 20), "train/a.xml": XML, "valid/b.jpg": (40, 20), "valid/b.xml": XML},
    "LabelMe": {"train/a.jpg": (40, 20), "train/a.json": me(shape("dog", TRIANGLE))},
    "CVAT for images": {"annotations.xml": CVAT, "images/a.jpg": (40, 20)},
    "Supervisely": project(thing("polygon", TRIANGLE, [[[10, 4], [15, 4], [15, 8]]]), name="train"),
    "VGG Image Annotator": {
        "train/via_region_data.json": item(region("polygon", {"class": "ant"}, **POINTS)),
        "train/a.jpg": (40, 20),
    },
    "COCO": {
        "annotations/instances_train2017.json": {
            "images": [{"id": 7, "file_name": "a.jpg", "width": 40, "height": 20}],
            "annotations": [{"id": 9, "image_id": 7, "category_id": 3, "bbox": [4, 2, 16, 12], "segmentation": FLAT}],
            "categories": [{"id": 3, "name": "cat"}],
        },
        "train2017/a.jpg": (40, 20),
    },
}


HOLE = [[12, 3], [18, 3], [18, 8]]
MASK = {"data": png([[1, 0]], compressed=True), "origin": [3, 4]}
# an export with every kind of shape, for each format
RICH = {
    "LabelMe": {
        "a.jpg": (40, 20),
        "a.json": me(
            shape("dog", TRIANGLE, group_id=1),
            shape("dog", TRIANGLE, group_id=1),
            shape("ball", [[10, 10], [13, 14]], "circle"),
            shape("box", [[10, 5], [30, 15]], "rectangle"),
            shape("mask", [[3, 4], [5, 5]], "mask", mask=png([[0, 1, 1], [1, 1, 0]])),
        ),
    },
    "Supervisely": project(
        thing("rectangle", [[10, 5], [29, 14]]),
        thing("polygon", TRIANGLE, [HOLE]),
        thing("bitmap", bitmap=MASK),
    ),
    "VGG Image Annotator": {
        "via.json": item(
            region("circle", {"kind": {"cat": True}}, cx=10, cy=10, r=5),
            region("ellipse", {"class": "ant"}, cx=20, cy=10, rx=4, ry=8, theta=1),
            region("rect", {"class": "bee", "note": "x"}, x=10, y=5, width=20, height=10),
            region("polygon", {"class": "bee"}, all_points_x=[1, 2, 3], all_points_y=[1, 2, 5]),
        ),
        "a.jpg": (40, 20),
    },
    "CVAT for images": {
        "annotations.xml": EXPORTS["CVAT for images"]["annotations.xml"].replace(
            "</image>",
            '<box label="ant" xtl="1" ytl="2" xbr="3" ybr="4" rotation="30"/><ellipse label="ant" cx="2" cy="3" rx="4" '
            'ry="5"/><mask label="ant" rle="1, 2, 1" left="10" top="5" width="2" height="2"/></image>',
        ),
        "images/a.jpg": (40, 20),
    },
    "Pascal VOC": {
        "a.jpg": (40, 20),
        "a.xml": voc("a.jpg", (40, 20), ("cat", 1, 2, 3, 4, "<difficult>1</difficult>"), ("ant", 1, 2, 3, 4)),
    },
    "YOLO": {
        "train/a.jpg": (40, 20),
        "train/a.txt": f"{POLYGON}{BOX}0 0.25 0 0.5 0.5 0.25 1 0 0.5\n"
        + "1 0.5 0.5 0.5 0.5 0.1 0.1 2 0.2 0.2 1 0.3 0.3 1",
        "data.yaml": "train: train\nnames: [dog, cat]\nkpt_shape: [3, 3]",
    },
}
