"""Folders of labelled images as tools and data sets lay them out, with what is on each image.

Each function writes a folder and returns its truth: of boxes, for each split and image name the class and the box
(left, top, width, height) of each object; of label maps, for each split and image name the class name of each pixel.
"""

import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("cat", "dog", "emu")
COLOURS = ((128, 0, 0), (0, 128, 0), (0, 0, 128))
SIZE = (40, 48)  # (H, W)
ALL = {"train": 4, "val": 2}


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(path)
    return path


def objects(name: str) -> list[tuple[str, list[int]]]:
    """Two objects of an image, which follow from its name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    boxes = [[int(v) for v in (*rng.integers(0, 20, 2), *rng.integers(6, 20, 2))] for _ in range(2)]
    return [(NAMES[int(rng.integers(3))], box) for box in boxes]


def coco(names: list[str], *, first: int = 1, title=str, polygons: bool = False) -> dict:
    """COCO JSON of images; `title` makes the `file_name` of a name, ids count from `first`."""
    images, annotations = [], []
    for i, name in enumerate(names):
        images.append({"id": i + 7, "file_name": title(name), "width": SIZE[1], "height": SIZE[0]})
        for label, (x, y, w, h) in objects(name):
            item = {"id": len(annotations) + 1, "image_id": i + 7, "category_id": first + NAMES.index(label)}
            item |= {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            if polygons:
                item["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            annotations.append(item)
    categories = [{"id": first + i, "name": name, "supercategory": "animals"} for i, name in enumerate(NAMES)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def names_of(split: str, end: str = ".jpg") -> list[str]:
    return [f"{split}_{i}{end}" for i in range(ALL.get(split, 2))]


def truth_of(names: dict[str, list[str]]) -> dict[str, dict[str, list]]:
    return {split: {name: objects(name) for name in some} for split, some in names.items()}


def published(root: Path) -> dict:
    """COCO 2017, with the files that are published beside the instances."""
    names = {split: names_of(split) for split in ALL}
    for split, some in names.items():
        for name in some:
            photo(root / f"{split}2017" / name)
        write(root / "annotations" / f"instances_{split}2017.json", coco(some))
        for other in ("captions", "person_keypoints"):
            write(root / "annotations" / f"{other}_{split}2017.json", coco(some[:1]))
    return truth_of(names)


def in_images(root: Path) -> dict:
    names = {split: names_of(split) for split in ALL}
    for split, some in names.items():
        for name in some:
            photo(root / "images" / split / name)
        write(root / "annotations" / f"{split}.json", coco(some))
    return truth_of(names)


def roboflow(root: Path) -> dict:
    """A download of Roboflow: three splits, names with a hash, and a class above all others."""
    names = {}
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        names[split] = [f"{name[:-4]}_jpg.rf.{zlib.crc32(name.encode()):032x}.jpg" for name in names_of(split)]
        content = coco(names[split])
        content["categories"] = [{"id": 0, "name": "animals", "supercategory": "none"}, *content["categories"]]
        for name in names[split]:
            photo(root / folder / name)
        write(root / folder / "_annotations.coco.json", content)
    write(root / "README.roboflow.txt", "animals - v1\n==========\n")
    return truth_of(names)


def cvat(root: Path) -> dict:
    names = [f"frame_{i:06d}.PNG" for i in range(9)]
    for name in names:
        photo(root / "images" / name)
    write(root / "annotations" / "instances_default.json", coco(names, polygons=True))
    return truth_of({"all": names})


def label_studio(root: Path) -> dict:
    """Label Studio on Windows: back-slashes, and a hash before each name."""
    names = [f"{zlib.crc32(f'{i}'.encode()):08x}-bird {i}.jpg" for i in range(9)]
    for name in names:
        photo(root / "images" / name)
    write(root / "result.json", coco(names, first=0, title=lambda name: f"images\\{name}"))
    return truth_of({"all": names})


def fiftyone(root: Path) -> dict:
    names = [f"{i:06d}.jpg" for i in range(9)]
    for name in names:
        photo(root / "data" / name)
    write(root / "labels.json", coco(names, first=0))
    return truth_of({"all": names})


def plain(root: Path) -> dict:
    names = [f"{i}.jpg" for i in range(9)]
    for name in names:
        photo(root / "photos" / name)
    write(root / "birds.json", coco(names))
    return truth_of({"all": names})


def yolo(root: Path) -> dict:
    names = {split: names_of(split) for split in ALL}
    height, width = SIZE
    for split, some in names.items():
        for name in some:
            photo(root / "images" / split / name)
            rows = [
                f"{NAMES.index(label)} {(x + w / 2) / width} {(y + h / 2) / height} {w / width} {h / height}"
                for label, (x, y, w, h) in objects(name)
            ]
            write(root / "labels" / split / f"{name[:-4]}.txt", "\n".join(rows))
    write(root / "data.yaml", f"train: images/train\nval: images/val\nnames: [{', '.join(NAMES)}]\n")
    return truth_of(names)


def voc(root: Path) -> dict:
    names = {split: names_of(split) for split in ALL}
    for split, some in names.items():
        for name in some:
            photo(root / "JPEGImages" / name)
            boxes = "".join(
                f"<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
                f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
                for label, (x, y, w, h) in objects(name)
            )
            size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
            write(
                root / "Annotations" / f"{name[:-4]}.xml",
                f"<annotation><folder>VOC</folder><filename>{name}</filename>{size}{boxes}</annotation>",
            )
        write(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{name[:-4]}\n" for name in some))
    return truth_of(names)


def labelme(root: Path) -> dict:
    """A JSON beside each image, in folders of the splits."""
    names = {split: names_of(split) for split in ALL}
    for split, some in names.items():
        for name in some:
            photo(root / split / name)
            shapes = [
                {"label": label, "points": [[x, y], [x + w, y + h]], "shape_type": "rectangle"}
                for label, (x, y, w, h) in objects(name)
            ]
            content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None}
            write(root / split / f"{name[:-4]}.json", content | {"imageHeight": SIZE[0], "imageWidth": SIZE[1]})
    return truth_of(names)


def cvat_xml(root: Path) -> dict:
    names = [f"frame_{i:06d}.PNG" for i in range(9)]
    images = ""
    for i, name in enumerate(names):
        photo(root / "images" / name)
        boxes = "".join(
            f'<box label="{label}" source="manual" occluded="0" xtl="{x}" ytl="{y}" xbr="{x + w}" ybr="{y + h}"/>'
            for label, (x, y, w, h) in objects(name)
        )
        images += f'<image id="{i}" name="{name}" width="{SIZE[1]}" height="{SIZE[0]}">{boxes}</image>'
    labels = "".join(f"<label><name>{name}</name></label>" for name in NAMES)
    meta = f"<meta><job><labels>{labels}</labels></job></meta>"
    write(root / "annotations.xml", f"<annotations><version>1.1</version>{meta}{images}</annotations>")
    return truth_of({"all": names})


def supervisely(root: Path) -> dict:
    names = {split: names_of(split) for split in ALL}
    classes = [{"title": name, "shape": "rectangle", "color": "#ff0000", "id": i} for i, name in enumerate(NAMES)]
    write(root / "meta.json", {"classes": classes, "tags": []})
    for split, some in names.items():
        for name in some:
            photo(root / split / "img" / name)
            found = [
                {
                    "classTitle": label,
                    "geometryType": "rectangle",
                    "points": {"exterior": [[x, y], [x + w - 1, y + h - 1]], "interior": []},
                }
                for label, (x, y, w, h) in objects(name)
            ]
            size = {"height": SIZE[0], "width": SIZE[1]}
            write(root / split / "ann" / f"{name}.json", {"size": size, "tags": [], "objects": found})
    return truth_of(names)


def via(root: Path) -> dict:
    names = {split: names_of(split) for split in ALL}
    for split, some in names.items():
        content = {}
        for name in some:
            path = photo(root / split / name)
            regions = [
                {
                    "shape_attributes": {"name": "rect", "x": x, "y": y, "width": w, "height": h},
                    "region_attributes": {"animal": label},
                }
                for label, (x, y, w, h) in objects(name)
            ]
            size = path.stat().st_size
            content[f"{name}{size}"] = {"filename": name, "size": size, "regions": regions, "file_attributes": {}}
        write(root / split / "via_region_data.json", content)
    return truth_of(names)


# ---- a class for every pixel


def pixels(name: str) -> np.ndarray:
    """The class of each pixel, 0..2, in blocks, or 3 where none is; all four occur."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    blocks = rng.permutation(np.arange(30) % 4).reshape(5, 6).astype(np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)


def map_of(path: Path, values, name: str, palette: bool = False) -> None:
    """A label map with `values` (or colours) for the three classes and for what is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(values, np.uint8)[pixels(name)])
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 255, 768).tolist())
    image.save(path)


def maps(root: Path, place: str, names: dict, values=(0, 1, 2, 255), end: str = ".png", **options) -> dict:
    """Photos and label maps where `place` says: `{what}` is `images` or the maps' folder, `{split}` the split."""
    truth: dict[str, dict] = {}
    for split, some in names.items():
        for name in some:
            photo(root / place.format(what="images", split=split) / name)
            labels = root / place.format(what=options.get("what", "masks"), split=split)
            map_of(labels / f"{name[:-4]}{end}", values, name, options.get("palette", False))
            classes = np.array([*options.get("classes", NAMES), "void"])
            truth.setdefault(split, {})[name] = classes[pixels(name)]
    return truth


def ids(root: Path) -> dict:
    write(root / "classes.txt", "\n".join(NAMES))
    return maps(root, "{what}/{split}", {split: names_of(split) for split in ALL})


def ids_inside(root: Path) -> dict:
    """The split above, values that count from 1, and a suffix."""
    write(root / "labels.txt", "\n".join(NAMES))
    return maps(root, "{split}/{what}", {s: names_of(s) for s in ALL}, (1, 2, 3, 255), "_L.png", what="labels")


def palette(root: Path) -> dict:
    """Palettes without a list of classes, and without a split."""
    names = {"all": [f"{i}.jpg" for i in range(9)]}
    return maps(
        root,
        "{what}",
        names,
        (0, 1, 2, 255),
        what="annotations",
        palette=True,
        classes=[f"value {i}" for i in range(3)],
    )


def colours(root: Path) -> dict:
    """CamVid as it is on Kaggle: colours, and a table of them."""
    rows = [f"{name},{r},{g},{b}" for name, (r, g, b) in zip(NAMES, COLOURS)]
    write(root / "class_dict.csv", "\n".join(["name,r,g,b", *rows]))
    truth: dict[str, dict] = {}
    for split in ALL:
        for name in names_of(split, ".png"):
            photo(root / split / name)
            map_of(root / f"{split}_labels" / f"{name[:-4]}_L.png", (*COLOURS, (7, 7, 7)), name)
            truth.setdefault(split, {})[name] = np.array([*NAMES, "void"])[pixels(name)]
    return truth


def roboflow_masks(root: Path) -> dict:
    truth: dict[str, dict] = {}
    for split, folder in (("train", "train"), ("val", "valid")):
        rows = "\n".join(f"{i}, {name}" for i, name in enumerate(NAMES))
        write(root / folder / "_classes.csv", f"Pixel Value, Class\n{rows}\n")
        for name in names_of(split):
            photo(root / folder / name)
            map_of(root / folder / f"{name[:-4]}_mask.png", (0, 1, 2, 255), name)
            truth.setdefault(split, {})[name] = np.array([*NAMES, "void"])[pixels(name)]
    return truth


def cityscapes(root: Path) -> dict:
    truth: dict[str, dict] = {}
    for split in (*ALL, "test"):
        for name in (f"ulm_{i:06d}_000019" for i in range(2)):
            photo(root / "leftImg8bit" / split / "ulm" / f"{name}_leftImg8bit.png")
            for kind in ("labelIds", "instanceIds", "color"):
                map_of(root / "gtFine" / split / "ulm" / f"{name}_gtFine_{kind}.png", (7, 8, 11, 0), name)
            if split != "test":
                classes = np.array(["road", "sidewalk", "building", "void"])
                truth.setdefault(split, {})[f"ulm/{name}_leftImg8bit.png"] = classes[pixels(name)]
    return truth


def ade20k(root: Path) -> dict:
    truth: dict[str, dict] = {}
    for split, folder in (("train", "training"), ("val", "validation")):
        for name in (f"ADE_{split}_{i:08d}" for i in range(2)):
            photo(root / "images" / folder / f"{name}.jpg")
            map_of(root / "annotations" / folder / f"{name}.png", (1, 2, 3, 0), name)
            classes = np.array(["wall", "building", "sky", "void"])
            truth.setdefault(split, {})[f"{name}.jpg"] = classes[pixels(name)]
    write(root / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tStuff\tName\n")
    return truth


def panoptic(root: Path) -> dict:
    """COCO's panoptic files; the PNGs have the names of the photos."""
    truth: dict[str, dict] = {}
    for split in ALL:
        images, annotations = [], []
        for i, name in enumerate(names_of(split, ".png")):
            photo(root / f"{split}2017" / name)
            ids = np.array([[5, 0, 0], [0, 1, 0], [9, 9, 9], [0, 0, 0]])
            map_of(root / "annotations" / f"panoptic_{split}2017" / name, ids, name)
            images.append({"id": i, "file_name": name, "width": SIZE[1], "height": SIZE[0]})
            segments = []
            for k, number in enumerate((5, 256, 9 + 256 * 9 + 65536 * 9)):
                y, x = np.nonzero(pixels(name) == k)
                box = [int(v) for v in (x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1)]
                segments.append({"id": number, "category_id": k + 1, "bbox": box, "area": len(x), "iscrowd": 0})
            annotations.append({"image_id": i, "file_name": name, "segments_info": segments})
            truth.setdefault(split, {})[name] = np.array([*NAMES, "void"])[pixels(name)]
        categories = [{"id": i + 1, "name": name, "isthing": i % 2} for i, name in enumerate(NAMES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write(root / "annotations" / f"panoptic_{split}2017.json", content)
    return truth


# a row of the table in docs/data.md: what makes such a folder
MAKERS = {
    "Roboflow COCO": roboflow,
    "COCO, as published": published,
    "COCO, in `images/`": in_images,
    "CVAT's COCO": cvat,
    "Label Studio's COCO": label_studio,
    "FiftyOne's COCO": fiftyone,
    "one JSON, one folder": plain,
    "COCO panoptic": panoptic,
    "YOLO": yolo,
    "Pascal VOC": voc,
    "LabelMe": labelme,
    "CVAT's XML": cvat_xml,
    "Supervisely": supervisely,
    "VGG Image Annotator": via,
    "label maps": ids,
    "label maps in splits": ids_inside,
    "palettes": palette,
    "colours": colours,
    "Roboflow semantic": roboflow_masks,
    "Cityscapes": cityscapes,
    "ADE20K": ade20k,
}
