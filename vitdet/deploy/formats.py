"""The files that `vitdet predict` writes: COCO results, label maps, tables and crops.

`vitdet.deploy.labelling` has those of labelling tools.

Files of a single image are written at once; what belongs into a file about all images is given back as text, so that
nothing but the present images is kept in memory.
"""

import csv
import io
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vitdet.errors import UserError
from vitdet.prediction import Prediction

# the folder of label maps
LABELS = "predicted_labels"
# formats for drawings and crops: they hold colour, and every viewer shows them
PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
# the most bytes of the name of a class as the name of a folder
LONGEST = 200
EMPTY = "objects without an area inside the image, left out of"


@dataclass
class Found:
    """What was found in an image, on its way to the files.

    Attributes:
        number: the position of the image, from 0.
        file: the image as it was given.
        place: the path of the image relative to the folder that all images share.
        picture: the path of its drawing relative to the output folder; no two are equal.
        stem: a path without a suffix, for other files about it; no two are equal.
        image: RGB `(H, W, 3)` uint8.
        all: the predictions of all scores.
        shown: those above the threshold.
    """

    number: int
    file: str
    place: str
    picture: str
    stem: str
    image: np.ndarray
    all: Prediction
    shown: Prediction


@dataclass(frozen=True)
class Stream:
    """The place in a file about all images where their texts stand, in the order of the images.

    Attributes:
        name: by which a format gives its texts.
        between: what stands between two of them.
    """

    name: str
    between: str = ""


@dataclass
class Written:
    """What a format gives back of an image: its texts for streams, and counts for the last line of a run."""

    texts: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Model:
    """What formats know of the model.

    Attributes:
        name: its name, or that of its file.
        classes: class names, indexed by label.
        category_ids: the data set's ids of the classes, indexed by label.
        kind: instances, semantic or panoptic.
    """

    name: str
    classes: Sequence[str]
    category_ids: Sequence[int]
    kind: str


class Format(ABC):
    """A form in which predictions are written.

    Args:
        output: Folder to write to.
        model: What made the predictions.

    Attributes:
        files: the files about all images, by name: texts and streams, one after the other.
    """

    # whether it needs boxes, which a semantic model has not
    needs_objects = True

    def __init__(self, output: Path, model: Model) -> None:
        self.output, self.model = output, model
        self.files: dict[str, list[str | Stream]] = {}

    @abstractmethod
    def write(self, found: Found) -> Written:
        """Writes the files of an image."""

    @abstractmethod
    def describe(self, counts: Counter[str]) -> str:
        """What was written of all images, by their counts."""

    def path(self, name: str) -> Path:
        """A path below the output folder, whose folder is made."""
        path = self.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class Coco(Format):
    """`predictions.json` in COCO's results format, or its panoptic one with PNGs, or label maps: by the kind of model.

    It holds detections of all scores, as scoring needs them.
    """

    needs_objects = False

    def __init__(self, output: Path, model: Model) -> None:
        super().__init__(output, model)
        self.values = np.array(model.category_ids or range(256), np.uint8) if model.kind == "semantic" else None
        if model.kind == "instances":
            self.files = {"predictions.json": ["[", Stream("coco", ", "), "]"]}
        elif model.kind == "panoptic":
            images, rows = Stream("coco images", ", "), Stream("coco", ", ")
            self.files = {"predictions.json": ['{"images": [', images, '], "annotations": [', rows, "]}"]}

    def write(self, found: Found) -> Written:
        prediction = found.all
        if self.values is not None:
            labels: Any = prediction.semantic
            Image.fromarray(self.values[labels.numpy()]).save(self.path(f"{LABELS}/{found.stem}.png"))
            return Written(counts=Counter(maps=1))
        if self.model.kind == "panoptic":
            png, info = prediction.to_coco_panoptic()
            number, name = prediction.image_id, f"{prediction.image_id:012d}.png"
            self.path(f"predictions/{name}").write_bytes(png)
            row = {"image_id": number, "file_name": name, "segments_info": info}
            texts = {"coco": json.dumps(row), "coco images": json.dumps({"id": number, "file_name": found.file})}
            return Written(texts, Counter(maps=1))
        rows = [{**row, "file_name": found.file} for row in prediction.to_coco()]
        return Written({"coco": json.dumps(rows)[1:-1]}, Counter(rows=len(rows)))

    def describe(self, counts: Counter[str]) -> str:
        if self.model.kind == "semantic":
            return f"{counts['maps']} label maps ({LABELS})"
        if self.model.kind == "panoptic":
            return f"predictions.json (COCO panoptic, {counts['maps']} images)"
        return f"predictions.json ({counts['rows']} rows, any score)"


class Csv(Format):
    """`predictions.csv`: a row for each detection above the threshold, with the columns of `Prediction.to_table`."""

    def __init__(self, output: Path, model: Model) -> None:
        super().__init__(output, model)
        none = Prediction(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), size=(1, 1)).to_table()
        self.files = {"predictions.csv": [",".join(none) + "\n", Stream("csv")]}

    def write(self, found: Found) -> Written:
        text = io.StringIO()
        rows = list(zip(*found.shown.to_table().values()))
        csv.writer(text, lineterminator="\n").writerows(rows)
        return Written({"csv": text.getvalue()}, Counter({"csv rows": len(rows)}))

    def describe(self, counts: Counter[str]) -> str:
        return f"predictions.csv ({counts['csv rows']} rows)"


class Crops(Format):
    """The part of the image inside of each box above the threshold, in a folder for each class."""

    folder = "crops"

    def write(self, found: Found) -> Written:
        counts: Counter[str] = Counter()
        path = Path(found.picture)
        for i, one in enumerate(found.shown):
            box = inside(one.box_xyxy, found.shown.size)
            if box is None:
                counts[f"{EMPTY} crops"] += 1
                continue
            # whole pixels, of which the box covers some
            x1, y1, x2, y2 = int(box[0]), int(box[1]), -int(-box[2] // 1), -int(-box[3] // 1)
            name = f"{self.folder}/{file_name(one.name)}/{path.with_suffix('')}_{i}{path.suffix}"
            Image.fromarray(found.image[y1:y2, x1:x2]).save(self.path(name), quality=95)
            counts["crops"] += 1
        return Written(counts=counts)

    def describe(self, counts: Counter[str]) -> str:
        return f"{counts['crops']} crops ({self.folder})"


def inside(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """The part of a box inside an image of `size` `(H, W)`, or `None` where it has no area.

    Example:
        >>> inside((-1.0, 2.0, 5.0, 9.0), (8, 8)), inside((9.0, 2.0, 10.0, 3.0), (8, 8))
        ((0.0, 2.0, 5.0, 8.0), None)
    """
    height, width = size
    x1, x2 = (min(max(side, 0.0), float(width)) for side in (box[0], box[2]))
    y1, y2 = (min(max(side, 0.0), float(height)) for side in (box[1], box[3]))
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def file_name(name: str) -> str:
    """The name of a class as the name of a folder.

    Example:
        >>> file_name("tv/monitor"), file_name("ein Bär"), file_name("..")
        ('tv_monitor', 'ein Bär', '__')
        >>> len(file_name("日" * 99).encode()) <= LONGEST
        True
    """
    name = re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", name)[:100]
    # file systems count bytes, of which a character may have four
    name = name.encode("utf-8", "surrogatepass")[:LONGEST].decode("utf-8", "ignore")
    return re.sub(r"^\.+|\.+$", lambda dots: "_" * len(dots[0]), name).strip() or "_"


def make(names: Sequence[str], known: dict[str, type[Format]], output: Path, model: Model) -> list[Format]:
    """The formats of these names.

    Raises:
        UserError: the model has no boxes, which a format needs.
    """
    formats = [known[name](output, model) for name in dict.fromkeys(names)]
    if model.kind == "semantic" and any(one.needs_objects for one in formats):
        wrong = next(name for name in names if known[name].needs_objects)
        raise UserError(f"format {wrong} needs objects, and a semantic model gives label maps: give format coco alone")
    return formats
