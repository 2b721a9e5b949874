"""What is to be found, as a few flat arrays read from a COCO annotation file.

I images, A annotations, K classes
boxes_xywh   left, top, width, height in pixels, as COCO writes them
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.errors import UserError
from vitdet.masks import to_rle


@dataclass
class GroundTruth:
    """Images 0..I-1 in the order of their ids, classes 0..K-1 in the order of theirs, and the annotations.

    Images are in the order of their ids since pycocotools breaks ties between equal scores in that order.
    """

    image_ids: np.ndarray  # (I,) int64, ascending
    image: np.ndarray  # (A,) in 0..I-1
    label: np.ndarray  # (A,) in 0..K-1
    boxes_xywh: np.ndarray  # (A, 4)
    area: np.ndarray  # (A,) square pixels: of the mask, or of the box where the file gives none
    iscrowd: np.ndarray  # (A,) bool
    sizes: np.ndarray  # (I, 2) height and width, 0 where the file gives none
    rles: list[dict[str, Any]]  # (A,) COCO's run lengths of the masks, where they were asked for
    file_names: list[str]  # (I,) empty where the file gives none
    names: list[str]
    category_ids: list[int]
    notes: Counter[str]  # what was left out or filled in, and how often

    @classmethod
    def read(cls, source: str | Path | Mapping[str, Any], *, masks: bool = False) -> "GroundTruth":
        """From an annotation file, or from its content; segmentations are read only if `masks`, and annotations without one are then left out.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no COCO annotation file; the message says what is wrong.
        """
        given = isinstance(source, Mapping)
        where, content = ("annotations", source) if given else (str(source), read_json(source, "annotation file"))
        if not isinstance(content, Mapping):
            raise UserError(
                f'{where}: wanted an object with "images" and "categories", got a {type(content).__name__}; is this a results file?'
            )
        image_ids = sorted(_ids(content, "images", where))
        category_ids = sorted(_ids(content, "categories", where))
        name_of = {item["id"]: str(item.get("name", item["id"])) for item in content["categories"]}
        positions = {number: i for i, number in enumerate(image_ids)}
        labels = {number: k for k, number in enumerate(category_ids)}
        notes: Counter[str] = Counter()
        size_of = {item["id"]: (_side(item.get("height")), _side(item.get("width"))) for item in content["images"]}
        file_of = {item["id"]: item.get("file_name") for item in content["images"]}
        rows, rles = [], []
        for item in _annotations(content, where):
            row = _row(item, positions, labels, notes)
            if row is not None and masks:
                rles.append(_run_lengths(item, size_of[item["image_id"]], notes))
                row = row if rles[-1] else None
            rows.append(row)
        table = np.array([row for row in rows if row is not None], dtype=np.float64).reshape(-1, 8)
        return cls(
            image_ids=np.array(image_ids, dtype=np.int64),
            image=table[:, 0].astype(np.int64),
            label=table[:, 1].astype(np.int64),
            boxes_xywh=table[:, 2:6],
            area=table[:, 6],
            iscrowd=table[:, 7] != 0,
            sizes=np.array([size_of[number] for number in image_ids], dtype=np.int64).reshape(-1, 2),
            rles=[one for one in rles if one],
            file_names=[name if isinstance(name, str) else "" for name in map(file_of.get, image_ids)],
            names=[name_of[number] for number in category_ids],
            category_ids=category_ids,
            notes=notes,
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def keys(self) -> list[str]:
        """How each class is called in results: `AP/<name>`, with its id where two classes share a name."""
        shared = {name for name, count in Counter(self.names).items() if count > 1}
        return [f"AP/{n} ({i})" if n in shared else f"AP/{n}" for n, i in zip(self.names, self.category_ids)]


def read_json(path: str | Path, what: str) -> Any:
    """The content of a JSON file; errors name the file and say `what` it should have been."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{what} {path} is a folder; wanted a JSON file")
    if not path.is_file():
        raise FileNotFoundError(f"{what} {path} does not exist")
    content = path.read_bytes()
    if content[:2] in (b"\x1f\x8b", b"PK"):
        raise UserError(f"{what} {path} is compressed; unpack it first")
    try:
        return json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{what} {path} is nested too deeply to be one") from error


def is_finite(value: Any) -> bool:
    """Whether a JSON value is a number, and neither NaN, infinite, nor so large that it is as good as that."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def is_box(value: Any) -> bool:
    """Whether a JSON value is a box: four finite numbers."""
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(map(is_finite, value))


def _ids(content: Mapping[str, Any], key: str, where: str) -> list[int]:
    items = content.get(key)
    if not isinstance(items, list):
        raise UserError(
            f'{where} is not a COCO file: it has no list "{key}" (found {", ".join(map(str, content)) or "nothing"})'
        )
    ids = [item.get("id") if isinstance(item, Mapping) else None for item in items]
    wrong = [item for item, number in zip(items, ids) if type(number) is not int or abs(number) >= 2**63]
    if wrong:
        raise UserError(f'{where}: each of "{key}" needs an integer "id", got {str(wrong[0])[:80]}')
    twice = [number for number, count in Counter(ids).items() if count > 1]
    if twice:
        raise UserError(f'{where}: id {twice[0]} occurs more than once in "{key}" ({len(twice)} such ids)')
    return ids


def _annotations(content: Mapping[str, Any], where: str) -> list[Any]:
    items = content.get("annotations", [])
    if not isinstance(items, list):
        raise UserError(f'{where}: "annotations" is a {type(items).__name__}; wanted a list')
    return items


def _side(value: Any) -> int:
    """A height or width in pixels; 0 where the file gives none."""
    return int(value) if is_finite(value) and 0 < value < 2**31 else 0


def _run_lengths(item: Mapping[str, Any], size: tuple[int, int], notes: Counter[str]) -> dict[str, Any] | None:
    try:
        return to_rle(item.get("segmentation"), *size)
    except ValueError:
        notes["annotations left out: no segmentation that can be read"] += 1
        return None


def _row(
    item: Mapping[str, Any], positions: dict[int, int], labels: dict[int, int], notes: Counter[str]
) -> tuple[float, ...] | None:
    """Image, class, left, top, width, height, area, crowd; `None`, and a note, where the annotation can't be scored."""
    if not isinstance(item, Mapping):
        notes["annotations left out: no object"] += 1
        return None
    image_id, category_id, box = (item.get(key) for key in ("image_id", "category_id", "bbox"))
    image = positions.get(image_id) if isinstance(image_id, int) else None
    label = labels.get(category_id) if isinstance(category_id, int) else None
    if image is None or label is None:
        notes[f"annotations left out: unknown {'image' if image is None else 'category'} id"] += 1
        return None
    if not is_box(box):
        notes["annotations left out: no box of four finite numbers"] += 1
        return None
    area = item.get("area")
    if not is_finite(area):
        notes["annotations without an area: the box's is taken"] += 1
        area = box[2] * box[3]
    return image, label, *box, area, bool(item.get("iscrowd", 0))
