"""The images and labels of a split as the check holds them, whatever is wrong with them.

I is the number of images, A of objects (annotations, segments, or the classes that a label map holds) and K of classes.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from vitdet.data.check.files import Facts
from vitdet.data.check.finding import Example

Kind = Literal["instances", "panoptic", "semantic"]
# of an annotation whose label is no class of the list
NO_CLASS = -1


@dataclass
class Objects:
    """The objects of a split as columns, ordered by image.

    Attributes:
        image: `(A,)`, the position of the image.
        label: `(A,)`, the position of the class, or `NO_CLASS`.
        raw_label: `(A,)`, the class's number in the file.
        boxes_xywh: `(A, 4)`: left, top, width and height in pixels; NaN where there is none.
        area: `(A,)`, in pixels; NaN where there is none.
        crowd: `(A,)` bool.
        ids: `(A,)`.
        masks_xywh: `(A, 4)`: the bounding box of the mask, NaN where there is none.
        spans: `(A, 2)`: where the annotation stands in the file, in bytes.
    """

    image: np.ndarray
    label: np.ndarray
    raw_label: np.ndarray
    boxes_xywh: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    ids: np.ndarray
    spans: np.ndarray
    masks_xywh: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.masks_xywh = np.full((len(self), 4), np.nan)

    def __len__(self) -> int:
        return len(self.image)


@dataclass
class Content:
    """The images of a split, and their labels.

    Attributes:
        split: `train`, `val` or `test`.
        kind: the kind of the labels.
        root: the folder of the images.
        names: I file names, as in the file of annotations.
        paths: I files; `None` where the name leads out of the folder.
        widths, heights: `(I,)` as the annotations say, in pixels; 0 where they don't.
        classes, class_ids: K names and numbers.
        objects: the objects, those of semantic maps only once the maps have been read.
        maps: I label maps or PNGs of segments; `None` where there is none.
        facts: what is known of each image file.
        exif: whether images are turned upright by their EXIF tag.
    """

    split: str
    kind: Kind
    root: Path
    names: list[str]
    paths: list[Path | None]
    widths: np.ndarray
    heights: np.ndarray
    classes: list[str]
    class_ids: list[int]
    objects: Objects
    maps: list[Path | None] = field(default_factory=list)
    facts: list[Facts] = field(default_factory=list)
    exif: bool = True

    def __len__(self) -> int:
        return len(self.names)

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of image `i`: as the annotations say, else as the file is."""
        if self.widths[i] and self.heights[i]:
            return int(self.widths[i]), int(self.heights[i])
        return self.file_size(i)

    def file_size(self, i: int) -> tuple[int, int]:
        facts = self.facts[i]
        return facts.upright if self.exif else (facts.width, facts.height)

    def sizes(self) -> np.ndarray:
        """`(I, 2)`: the width and height of each image, 0 where unknown."""
        return np.array([self.size(i) for i in range(len(self))], np.float64).reshape(-1, 2)

    def image_example(self, i: int, more: str = "") -> Example:
        return Example(self.names[i] + (f": {more}" if more else ""), self.paths[i])

    def object_example(self, row: int, more: str = "") -> Example:
        """An annotation, with its box if it has one."""
        i, box = int(self.objects.image[row]), self.objects.boxes_xywh[row]
        shown = (tuple(box.tolist()),) if np.isfinite(box).all() else ()
        if self.kind == "semantic":
            text = f"{self.names[i]}: {self.objects.area[row]:,.0f} pixels of value {self.objects.ids[row]}"
            return Example(text, self.paths[i], shown)
        what = "segment" if self.kind == "panoptic" else "annotation"
        said = f", box [{', '.join(f'{side:g}' for side in box.round(2).tolist())}]" if shown else ""
        text = f"{self.names[i]}: {what} {self.objects.ids[row]}{said}{f', {more}' if more else ''}"
        return Example(text, self.paths[i], shown)
