"""A small clean data set of each kind, and faults to plant into it: each is a function of its files.

Images are 320×240 pixels. Objects of instances have a box and a mask; A of them are 12 to a class in train.
"""

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from vitdet.data.check import Place, Plan
from vitdet.masks import id_png

WIDTH, HEIGHT, CLASSES = 320, 240, ("cat", "dog", "bird")
SPLITS = {"train": 12, "val": 6}


def noise(seed, width=WIDTH, height=HEIGHT):
    """A picture of large random patches, which looks like no other."""
    small = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def boxes_of(seed):
    """Three boxes that don't overlap, one for each class: x, y, width, height."""
    rng = np.random.default_rng(seed)
    return [[10 + 104 * k + int(rng.integers(0, 20)), int(rng.integers(5, 120)), 64, 80] for k in range(3)]


def polygon(x, y, w, h):
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def make_clean(folder):
    """Images, and labels of the three kinds: `NAME.json`, `panoptic_NAME.json` with PNGs, and maps in `maps_NAME`."""
    for s, (split, count) in enumerate(SPLITS.items()):
        for part in (split, f"png_{split}", f"maps_{split}"):
            (folder / part).mkdir(parents=True)
        images, objects, segments = [], [], []
        for i in range(count):
            seed = 100 * s + i
            name = f"{split}{i:02d}"
            noise(seed).save(folder / split / f"{name}.jpg", quality=90)
            images.append({"id": i + 1, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT})
            ids, classes, infos = np.full((HEIGHT, WIDTH), 9), np.zeros((HEIGHT, WIDTH), np.uint8), []
            for k, (x, y, w, h) in enumerate(boxes_of(seed)):
                ids[y : y + h, x : x + w] = 1000 * (k + 1)
                classes[y : y + h, x : x + w] = k + 1
                common = {"category_id": k + 1, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
                infos.append({"id": 1000 * (k + 1), **common})
                objects.append(
                    {"id": len(objects) + 1, "image_id": i + 1, **common, "segmentation": polygon(x, y, w, h)}
                )
            infos.append({"id": 9, "category_id": 4, "bbox": [0, 0, WIDTH, HEIGHT], "area": 0, "iscrowd": 0})
            segments.append({"image_id": i + 1, "file_name": f"{name}.png", "segments_info": infos})
            (folder / f"png_{split}" / f"{name}.png").write_bytes(id_png(ids))
            Image.fromarray(classes).save(folder / f"maps_{split}" / f"{name}.png")
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)]
        ground = [*categories, {"id": 4, "name": "ground", "isthing": 0}]
        content = {"images": images, "annotations": objects, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content))
        content = {"images": images, "annotations": segments, "categories": ground}
        (folder / f"panoptic_{split}.json").write_text(json.dumps(content))


def plan(folder, kind, exif=True):
    """The splits of a kind, checked for a model of 10 queries."""
    prefix = "panoptic_" if kind == "panoptic" else ""
    places = {
        split: Place(
            folder / split,
            folder / (f"maps_{split}" if kind == "semantic" else f"{prefix}{split}.json"),
            folder / f"png_{split}" if kind == "panoptic" else None,
        )
        for split in SPLITS
    }
    names = ("ground", *CLASSES) if kind == "semantic" else ()
    return Plan(str(folder), kind, places, names=names, exif=exif, queries=10)


class Files:
    """The files of a data set, and the changes that faults are made of."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def edit(self, change, split="train", prefix=""):
        path = self.folder / f"{prefix}{split}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    def image(self, i, split="train"):
        return self.folder / split / f"{split}{i:02d}.jpg"

    def map(self, i, kind="maps", split="train"):
        return self.folder / f"{kind}_{split}" / f"{split}{i:02d}.png"

    def redraw(self, change, i=0, kind="maps", split="train"):
        """Changes the pixels of a map, which is an array of numbers."""
        path = self.map(i, kind, split)
        Image.fromarray(change(np.array(Image.open(path)))).save(path)

    def redraw_all(self, change, split=None):
        for name, count in SPLITS.items():
            for i in range(count) if split in (None, name) else ():
                with contextlib.suppress(OSError), Image.open(self.map(i, split=name)) as image:
                    # not those that have another fault
                    if (image.format, image.mode) == ("PNG", "L"):
                        self.redraw(change, i, split=name)

    def add(self, name, image_or_bytes, split="train", **entry):
        """A further image with an object of each class, listed in the annotations."""
        path = self.folder / split / name
        if isinstance(image_or_bytes, bytes):
            path.write_bytes(image_or_bytes)
        elif image_or_bytes is not None:
            image_or_bytes.save(path)

        def change(content):
            number = max(image["id"] for image in content["images"]) + 1
            content["images"].append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT, **entry})
            for k, (x, y, w, h) in enumerate(boxes_of(number)):
                new = {"id": 10 * number + k + 5000, "image_id": number, "category_id": k + 1, "bbox": [x, y, w, h]}
                content["annotations"].append({**new, "area": w * h, "segmentation": polygon(x, y, w, h)})

        self.edit(change, split)


def objects(**changes):
    """A change of annotations: `o3=…` is a function, or the keys to replace, of the fourth one of train."""

    def change(content):
        for name, value in changes.items():
            annotation = content["annotations"][int(name[1:])]
            annotation.update(value) if isinstance(value, dict) else value(annotation)

    return lambda files: files.edit(change)


def boxes(convert, split="val", masks=False):
    """Another format of all boxes of a split, by default without masks."""

    def change(content):
        for annotation in content["annotations"]:
            annotation["bbox"] = convert(*annotation["bbox"])
            if not masks:
                del annotation["segmentation"], annotation["area"]

    return lambda files: files.edit(change, split)


def entries(change, split="train", prefix=""):
    return lambda files: files.edit(change, split, prefix)


def each(key, change, split="train"):
    """A change of every entry of a list."""
    return lambda files: files.edit(lambda content: [change(entry) for entry in content[key]], split)


def write(name, data):
    return lambda files: (files.folder / name).write_bytes(data)


def cut(i):
    return lambda files: files.image(i).write_bytes(files.image(i).read_bytes()[:-2500])


def replace_by(make, i):
    def change(files):
        files.image(i).unlink()
        make(files.image(i))

    return change


def jpeg(seed, orientation, width=WIDTH, height=HEIGHT):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return lambda path: noise(seed, width, height).save(path, quality=90, exif=exif)


def brighter(files, name, split):
    """A copy of an image of train, a little brighter and compressed again."""
    pixels = np.asarray(Image.open(files.image(7))).astype(int) + 2
    files.add(name, Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), split)


def remove(key, where, split="train"):
    def change(content):
        content[key] = [entry for entry in content[key] if not where(entry)]

    return lambda files: files.edit(change, split)


def crowded(content):
    for k in range(9):
        content["annotations"].append({**content["annotations"][0], "id": 7000 + k, "bbox": [10 + 25 * k, 5, 40, 40]})
        content["annotations"][-1]["segmentation"] = polygon(10 + 25 * k, 5, 40, 40)


def birds(content):
    """Many birds and few others."""
    first = [a for a in content["annotations"] if a["image_id"] == 1]
    more = [a for a in content["annotations"] if a["image_id"] > 1 and a["category_id"] == 3]
    copies = [{**a, "id": 99 * k + a["id"], "bbox": [9 * k, *a["bbox"][1:]]} for a in more for k in range(1, 10)]
    content["annotations"] = [{key: value for key, value in a.items() if key != "segmentation"} for a in first + copies]


def png_header(width, height):
    """A PNG that says its size and ends there, which is enough for a header."""
    import struct
    import zlib

    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + b"\0\0\0\0IEND"


RUNS = {"counts": [WIDTH * HEIGHT - 100, 100], "size": [HEIGHT, WIDTH]}


def film(files):
    noise(904).save(files.folder / "train" / "film.gif", save_all=True, append_images=[noise(905)])
    files.add("film.gif", None)


def deep(files):
    grey = np.asarray(noise(902).convert("L")).astype(np.uint16)
    files.add("deep.png", Image.fromarray(grey * 200))


def wide(files):
    files.add("wide.jpg", noise(906, 320, 60), width=320, height=60)
    files.edit(lambda content: content["annotations"].__delitem__(slice(-3, None)))


def last_to(key, value, split="train"):
    """A change of the last annotations, those of one image more."""
    return entries(lambda content: [entry.update({key: value}) for entry in content["annotations"][-3:]], split)


def mask(value, **more):
    return {"segmentation": value, **more}


# the name begins with the code that must be found
INSTANCES = {
    "image-missing, deleted": lambda f: f.image(0).unlink(),
    "image-missing, other case": lambda f: f.image(1).rename(f.image(1).with_suffix(".JPG")),
    "image-unreadable, text": replace_by(lambda path: path.write_text("<html>not found</html>"), 2),
    "image-unreadable, empty": replace_by(lambda path: path.write_bytes(b""), 3),
    "image-unreadable, a pipe": replace_by(os.mkfifo, 4),
    "image-truncated": cut(5),
    "image-outside-folder": lambda f: f.add("../elsewhere.jpg", noise(900)),
    "image-too-large": lambda f: f.add("large.png", png_header(20000, 9000), width=20000, height=9000),
    "image-unlisted": lambda f: noise(901).save(f.folder / "train" / "extra.png"),
    "image-depth": deep,
    "image-transparent": lambda f: f.add("clear.png", noise(903).convert("RGBA")),
    "image-frames": film,
    "image-duplicate": lambda f: f.add("copy.jpg", f.image(6).read_bytes()),
    "image-near-duplicate": lambda f: brighter(f, "similar.jpg", "train"),
    "leak": lambda f: f.add("again.jpg", f.image(8).read_bytes(), "val"),
    "leak-near": lambda f: brighter(f, "similar.jpg", "val"),
    "size-missing": entries(lambda c: c["images"][0].pop("width")),
    "size-differs": entries(lambda c: c["images"][1].update(width=2 * WIDTH, height=2 * HEIGHT)),
    "size-swapped": lambda f: f.add("turned.jpg", noise(907, 240, 320), width=320, height=240),
    "size-exif": lambda f: jpeg(908, 6)(f.folder / "train" / "photo.jpg") or f.add("photo.jpg", None),
    "size-upright": lambda f: jpeg(910, 6, HEIGHT, WIDTH)(f.folder / "train" / "up.jpg") or f.add("up.jpg", None),
    "exif-unsure": replace_by(jpeg(909, 3), 9),
    "image-id-twice": entries(lambda c: c["images"].append({**c["images"][0], "file_name": "other.jpg"})),
    "image-name-twice": entries(lambda c: c["images"].append({**c["images"][0], "id": 99})),
    "class-id-twice": entries(lambda c: c["categories"].append({"id": 3, "name": "cow"})),
    "class-name-twice": entries(lambda c: c["categories"].append({"id": 5, "name": "cat"})),
    "object-id-twice": objects(o1={"id": 1}),
    "object-twice": entries(lambda c: c["annotations"].append({**c["annotations"][4], "id": 8000})),
    "object-without-image, unknown": objects(o2={"image_id": 555}),
    "object-without-image, text": objects(o2={"image_id": "one"}),
    "box-invalid, three numbers": objects(o3={"bbox": [1, 2, 3]}),
    "box-invalid, not a number": objects(o3={"bbox": [1, 2, float("nan"), 4]}),
    "box-invalid, text": objects(o3={"bbox": "1 2 3 4"}),
    "box-invalid, missing": objects(o3={"bbox": None, "segmentation": []}),
    "box-missing": objects(o4=lambda a: a.pop("bbox")),
    "box-empty, no width": objects(o5={"bbox": [50, 50, 0, 20]}),
    "box-empty, negative": objects(o6={"bbox": [50, 50, 20, -5]}),
    "box-outside": objects(o7={"bbox": [400, 20, 30, 30]}),
    "box-beyond": objects(o8={"bbox": [300, 20, 60, 40], "segmentation": polygon(300, 20, 20, 40)}),
    "box-fractions, all": boxes(lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]),
    "box-fractions, one": objects(o9={"bbox": [0.2, 0.3, 0.1, 0.1]}),
    "box-percent": boxes(lambda x, y, w, h: [100 * x / WIDTH, 100 * y / HEIGHT, 100 * w / WIDTH, 100 * h / HEIGHT]),
    "box-xyxy, all": boxes(lambda x, y, w, h: [x, y, x + w, y + h]),
    "box-xyxy, with masks": boxes(lambda x, y, w, h: [x, y, x + w, y + h], masks=True),
    "box-xyxy, one": objects(o10=lambda a: a.update(bbox=[*a["bbox"][:2], a["bbox"][0] + 64, a["bbox"][1] + 80])),
    "box-centre": boxes(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h], masks=True),
    "box-thin": objects(o11={"bbox": [10, 10, 300, 4], "segmentation": polygon(10, 10, 300, 4)}),
    "box-whole-image": objects(o12={"bbox": [0, 0, 320, 240], "segmentation": polygon(0, 0, 320, 240)}),
    "mask-broken, not a number": objects(o13=mask([[1, 1, 20, 1, 20, 20, float("nan"), 5]])),
    "mask-broken, huge": objects(o13=mask([[1, 1, 20, 1, 20, 2e9]])),
    "mask-broken, null": objects(o13=mask([[1, 1, 20, None, 20, 20]])),
    "mask-broken, odd": objects(o13=mask([[1, 1, 20, 1, 20, 20, 5]])),
    "mask-broken, flat": objects(o13=mask([1, 1, 20, 1, 20, 20])),
    "mask-broken, text": objects(o13=mask("polygon")),
    "mask-broken, run lengths too long": objects(o13=mask({**RUNS, "counts": [99999, 5]})),
    "mask-broken, negative run": objects(o13=mask({**RUNS, "counts": [-5, WIDTH * HEIGHT + 5]})),
    "mask-broken, counts of text": objects(o13=mask({**RUNS, "counts": "~~~"})),
    "mask-size": objects(o14=mask({"counts": [100, 50], "size": [10, 15]})),
    "mask-size, swapped": objects(o14=mask({**RUNS, "size": [WIDTH, HEIGHT]})),
    "mask-empty, run lengths": objects(o15=mask({**RUNS, "counts": [WIDTH * HEIGHT]})),
    "mask-empty, a line": objects(o15=mask([[10, 10, 50, 10, 30, 10]])),
    "mask-outside": objects(o16=mask(polygon(300, 20, 64, 80))),
    "mask-box": objects(o17=lambda a: a.update(segmentation=polygon(5, 150, 60, 60))),
    "mask-missing": objects(o18=mask([])),
    "crowd-invalid": objects(o19={"iscrowd": "0"}),
    "crowd-all": each("annotations", lambda a: a.update(iscrowd=1), "val"),
    "class-unknown": objects(o20={"category_id": 77}),
    "class-off-by-one": each("annotations", lambda a: a.update(category_id=a["category_id"] - 1), "val"),
    "class-unseen": lambda f: [
        f.edit(lambda c: c["categories"].append({"id": 4, "name": "cow"}), split) for split in SPLITS
    ],
    "class-only-here": lambda f: remove("annotations", lambda a: a["category_id"] == 2)(f),
    "class-rare": remove("annotations", lambda a: a["category_id"] == 2 and a["image_id"] > 4),
    "class-shift": lambda f: f.edit(birds, "val"),
    "classes-differ": entries(lambda c: c["categories"][0].update(name="lion"), "val"),
    "image-without-objects": lambda f: remove("annotations", lambda a: a["image_id"] == 12)(f),
    "no-objects": entries(lambda c: c.update(annotations=[]), "val"),
    "box-below-patch": objects(o21={"bbox": [20, 20, 9, 9], "segmentation": polygon(20, 20, 9, 9)}),
    "too-many-objects": entries(crowded),
    "image-elongated": wide,
    "labels-unreadable, no JSON": write("val.json", b'{"images": [}'),
    "labels-unreadable, a list": write("val.json", b"[1, 2]"),
    "labels-unreadable, empty": write("val.json", b""),
    "labels-unreadable, UTF-16": write("val.json", '{"images": []}'.encode("utf-16")),
    "labels-unreadable, deep": write("val.json", b"[" * 100_000),
    "labels-unreadable, gone": lambda f: (f.folder / "val.json").unlink(),
    "labels-unreadable, panoptic": lambda f: shutil.copy(f.folder / "panoptic_val.json", f.folder / "val.json"),
    "labels-invalid, image": entries(lambda c: c["images"].append({"id": "x", "file_name": "a.jpg"})),
    "labels-invalid, no name": entries(lambda c: c["images"].append({"id": 98})),
    "labels-invalid, annotation": entries(lambda c: c["annotations"].append(7)),
    "labels-invalid, category": entries(lambda c: c["categories"].append({"id": 8})),
    "split-empty": write("val.json", b'{"images": [], "annotations": [], "categories": []}'),
}


def segment(change, i=0, split="train"):
    return entries(lambda c: change(c["annotations"][i]["segments_info"]), split, "panoptic_")


def swap_ids(old, new):
    """Segments of other numbers in the PNG of an image."""

    def change(files):
        path = files.map(2, "png")
        rgb = np.array(Image.open(path)).astype(int)
        ids = rgb @ [1, 256, 65536]
        path.write_bytes(id_png(np.where(ids == old, new, ids)))

    return change


def blurred(classes):
    """A map of larger numbers that was made smaller and larger, as a photo is."""
    picture = Image.fromarray(classes * 80).resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.BICUBIC)
    values = np.array(picture.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    return np.where(values % 80 == 0, values // 80, values).astype(np.uint8)


def opencv(files):
    """The PNG of an image as OpenCV's channels would write it."""
    path = files.map(11, "png")
    rgb = np.array(Image.open(path))
    Image.fromarray(rgb[..., ::-1].copy()).save(path)


PANOPTIC = {
    "segment-swapped": opencv,
    "map-missing": lambda f: f.map(0, "png").unlink(),
    "map-unreadable": lambda f: f.map(1, "png").write_bytes(b"no PNG"),
    "map-lossy": lambda f: noise(1).save(f.map(3, "png"), "JPEG"),
    "map-size": lambda f: Image.open(f.map(4, "png")).resize((160, 120), 0).save(f.map(4, "png")),
    "segment-empty": segment(lambda s: s.append({"id": 77, "category_id": 1, "bbox": [5, 5, 9, 9], "iscrowd": 0}), 5),
    "segment-unlisted": swap_ids(1000, 1234),
    "segment-id-twice": segment(lambda s: s.append({**s[0]}), 6),
    "segment-box": segment(lambda s: s[0].update(bbox=[100, 100, 20, 20]), 7),
    "box-missing": segment(lambda s: [info.pop("bbox") for info in s], 8),
    "box-missing, zeros": segment(lambda s: [info.update(bbox=[0, 0, 0, 0]) for info in s], 8),
    "class-unknown": segment(lambda s: s[1].update(category_id=55), 9),
    "crowd-invalid": segment(lambda s: s[1].update(iscrowd="0"), 10),
    "labels-unreadable, instances": lambda f: shutil.copy(f.folder / "val.json", f.folder / "panoptic_val.json"),
}
SEMANTIC = {
    "image-without-map": lambda f: f.map(0).unlink(),
    "map-alone": lambda f: f.image(1).unlink(),
    "map-colours": lambda f: Image.open(f.map(2)).convert("RGB").save(f.map(2)),
    "map-unreadable": lambda f: f.map(3).write_bytes(b"no PNG"),
    "map-lossy": lambda f: noise(1).convert("L").save(f.map(4), "JPEG"),
    "map-size": lambda f: f.redraw(lambda m: m[::2, ::2], 5),
    "map-value": lambda f: f.redraw(lambda m: np.where(m == 1, 200, m).astype(np.uint8), 6),
    "map-void": lambda f: f.redraw_all(lambda m: np.where(m == 0, 255, m).astype(np.uint8)),
    "map-empty": lambda f: f.redraw(lambda m: np.full_like(m, 255), 7),
    "map-one-based": lambda f: f.redraw_all(lambda m: m + 1),
    "map-0-255": lambda f: f.redraw_all(lambda m: np.where(m == 0, 0, 255).astype(np.uint8)),
    "map-0-255, spread": lambda f: f.redraw_all(lambda m: m * 85),
    "map-blurred": lambda f: f.redraw(blurred, 10),
    "class-unseen": lambda f: f.redraw_all(lambda m: np.where(m == 3, 0, m).astype(np.uint8)),
    "image-unreadable": lambda f: f.image(8).write_bytes(b"no JPEG"),
    "leak": lambda f: shutil.copy(f.image(9), f.image(2, "val")),
}
FAULTS = {"instances": INSTANCES, "panoptic": PANOPTIC, "semantic": SEMANTIC}
# what a fault also causes, rightly
ALSO = {
    "image-frames": {"size-differs"},
    "size-differs": {"mask-size"},
    "class-name-twice": {"class-unseen"},
    "labels-invalid, category": {"class-unseen"},
    "box-invalid, missing": {"mask-missing"},
    "class-only-here": {"class-unseen"},
    "map-void": {"class-unseen"},
    "segment-unlisted": {"segment-empty"},
}
# what changes a whole split, or hides another fault, is not planted together with the others
APART = {
    "size-upright",
    "object-without-image, text",
    "class-shift",
    "class-only-here",
    "class-rare",
    "no-objects",
    "split-empty",
    "crowd-all",
    "class-off-by-one",
    "box-fractions, all",
    "box-percent",
    "box-xyxy, all",
    "box-xyxy, with masks",
    "box-centre",
    "map-one-based",
    "map-0-255",
    "map-0-255, spread",
    "map-void",
}


def together(kind):
    """The faults that are planted into one data set; of several in the same annotation, the first."""
    names = [name for name in FAULTS[kind] if name not in APART and not name.startswith("labels-unreadable")]
    first = {name.split(",")[0]: name for name in reversed(names)}
    return [name for name in names if first[name.split(",")[0]] == name]
