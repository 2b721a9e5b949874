"""The built-in data set: overlapping textured shapes on patterned backgrounds, drawn from a seed, as COCO is laid out.

It has six classes of things and three of stuff, with boxes, instance masks, panoptic and semantic labels. H×W stands
for the size of an image in pixels, T for the number of its objects.
"""

import itertools
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

from vitdet.data.shapes_scene import STUFF, THINGS, Scene, draw_scene
from vitdet.errors import UserError
from vitdet.masks import id_png

log = logging.getLogger("vitdet")

# the version of the drawings; raise it whenever they change
VERSION = 1

README = """Drawn by vitdet (vitdet/data/shapes.py); free to use under the licence of vitdet, Apache-2.0.
images: {split}/; annotations/instances_{split}.json (COCO instances), annotations/panoptic_{split}.json with \
panoptic_{split}/ (COCO panoptic);
semantic_{split}/: a PNG an image, pixel values 0..8, the position of the category in panoptic_{split}.json.
"""


def make_shapes(root: str | Path, *, train: int = 600, val: int = 150, test: int = 0, seed: int = 0) -> Path:
    """Draw the data set in the folder `root`, unless it holds a drawing with these settings already.

    A drawing is never replaced, because another run may be reading it: a drawing with other settings goes to a folder
    beside it, `root-TRAIN-VAL`. The folder is drawn under a temporary name and then renamed. So an interrupted drawing
    leaves nothing behind, and any number of processes may call this function at once.

    Args:
        root: the folder of the data set.
        train, val, test: the number of images in each split.
        seed: the seed of the drawing.

    Returns:
        The folder that holds the drawing.

    Raises:
        FileExistsError: `root` holds other files.
        OSError: another process wrote other files to the folder meanwhile.
        UserError: `root` can't be written.
    """
    root = Path(root)
    if not root.name:
        raise UserError(
            f"data.root is {str(root)!r}; wanted a folder of its own for the built-in data set, such as datasets/shapes"
        )
    settings = {"version": VERSION, "train": train, "val": val, "test": test, "seed": seed}
    for place in _places(root, train, val):
        if _settings(place) == settings:
            return place
        try:
            if _is_free(place) and _draw(place, settings):
                return place
        except OSError as error:
            # an error from `_draw` has no number, and its message explains what to do
            if error.errno is None:
                raise
            raise UserError(
                f"the built-in data set can't be drawn at {place}: {error.strerror}; set data.root to another folder"
            ) from error
        log.info("%s holds a drawing with other settings; that of %d and %d images goes beside it", place, train, val)
    raise AssertionError("there are endlessly many places")


def _places(root: Path, train: int, val: int) -> Iterator[Path]:
    beside = root.with_name(f"{root.name}-{train}-{val}")
    yield root
    yield beside
    yield from (beside.with_name(f"{beside.name}-{number}") for number in itertools.count(2))


def _is_free(place: Path) -> bool:
    """Whether the folder is empty or does not exist.

    Raises:
        FileExistsError: it holds files that are not a drawing.
    """
    if not place.exists() or not any(place.iterdir()):
        return True
    if _settings(place) is None:
        raise FileExistsError(
            f"{place} holds files that are not the built-in data set; set data.root to another folder"
        )
    return False


def _draw(place: Path, settings: dict[str, int]) -> bool:
    """Draws the data set, and returns whether `place` holds it: another process may have drawn other settings first."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as temporary:
        folder = Path(temporary) / "new"
        for number, split in enumerate(("train", "val", "test")):
            if settings[split]:
                _draw_split(folder, split, settings[split], (settings["seed"], number))
        (folder / "README.txt").write_text(README, encoding="utf-8")
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        try:
            # an empty folder, onto which some systems can't rename another folder
            if place.exists():
                place.rmdir()
            folder.rename(place)
        except OSError as error:
            if _settings(place) is None:
                raise OSError(
                    f"can't put the built-in data set at {place} ({error}); set data.root to another folder"
                ) from error
    return _settings(place) == settings


def _settings(root: Path) -> dict[str, int] | None:
    """The settings of the drawing in `root`, or `None` if it holds no drawing of the built-in data set."""
    try:
        found = json.loads((root / "settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(found, dict) and {"version", "train", "val", "test", "seed"} <= found.keys()
    return found if ours else None


def _draw_split(root: Path, split: str, count: int, seed: tuple[int, int]) -> None:
    for name in (split, f"panoptic_{split}", f"semantic_{split}", "annotations"):
        (root / name).mkdir(parents=True, exist_ok=True)
    things = [{"id": i + 1, "name": name} for i, name in enumerate(THINGS)]
    stuff = [{"id": len(THINGS) + i + 1, "name": name} for i, name in enumerate(STUFF)]
    images, instances, segments = [], [], []
    for i in range(count):
        scene = draw_scene(np.random.default_rng((*seed, i)))
        height, width = scene.ids.shape
        name = f"{i:06d}"
        images.append({"id": i + 1, "file_name": f"{name}.jpg", "height": height, "width": width})
        cv2.imwrite(str(root / split / f"{name}.jpg"), scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 93])
        first = len(instances) + 1
        instances += [_instance(scene, t, i + 1, first + t) for t in range(len(scene.labels))]
        segments.append(_panoptic(scene, i + 1, name))
        # Number 0 means void, so the background gets number 1 and object t gets number t + 2.
        (root / f"panoptic_{split}" / f"{name}.png").write_bytes(id_png(scene.ids + 2))
        # the background, whose id is -1, comes last
        classes = np.array([*scene.labels, len(THINGS) + scene.background], np.uint8)
        cv2.imwrite(str(root / f"semantic_{split}" / f"{name}.png"), classes[scene.ids])
    _write(root, f"instances_{split}", images, things, instances)
    both = [{**c, "isthing": 1} for c in things] + [{**c, "isthing": 0} for c in stuff]
    _write(root, f"panoptic_{split}", images, both, segments)


def _write(root: Path, name: str, images: list, categories: list, annotations: list) -> None:
    content = {
        "info": {"description": "vitdet shapes"},
        "images": images,
        "categories": categories,
        "annotations": annotations,
    }
    (root / "annotations" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def _instance(scene: Scene, t: int, image_id: int, number: int) -> dict[str, Any]:
    visible = scene.ids == t
    code = rle.encode(np.asfortranarray(visible.astype(np.uint8)))
    # the stubs of pycocotools have text here
    counts: Any = code["counts"]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": scene.labels[t] + 1,
        "bbox": _bounds(visible),
        "area": int(visible.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(code["size"]), "counts": counts.decode()},
    }


def _panoptic(scene: Scene, image_id: int, name: str) -> dict[str, Any]:
    # the background, whose id is -1, comes last
    labels = [*scene.labels, len(THINGS) + scene.background]
    info = []
    for t in range(-1, len(scene.labels)):
        mask = scene.ids == t
        if mask.any():
            segment = {
                "id": t + 2,
                "category_id": labels[t] + 1,
                "bbox": _bounds(mask),
                "area": int(mask.sum()),
                "iscrowd": 0,
            }
            info.append(segment)
    return {"image_id": image_id, "file_name": f"{name}.png", "segments_info": info}


def _bounds(mask: np.ndarray) -> list[int]:
    """`[left, top, width, height]` of the pixels of a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
