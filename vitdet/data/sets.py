"""Data modules for COCO instances, COCO panoptic and semantic PNGs from explicit paths, and for the built-in data."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from vitdet.annotations.index import CocoIndex
from vitdet.data.classes import Choice, unify
from vitdet.data.kept import there
from vitdet.data.label_sets import label_set
from vitdet.data.masked import check_masks, say_masks
from vitdet.data.module import ImageData, SplitName
from vitdet.data.options import RANGES
from vitdet.data.panoptic import PanopticSource
from vitdet.data.parts import JoinedSource
from vitdet.data.semantic import SemanticIndex, SemanticSource
from vitdet.data.shapes import make_shapes
from vitdet.data.shapes_scene import STUFF, THINGS
from vitdet.data.sources import CocoSource, ImageSource
from vitdet.data.splits import PanopticSplit, SemanticSplit, Split
from vitdet.errors import DataError, UserError
from vitdet.handshake import Needs
from vitdet.progress import Progress
from vitdet.ranges import ranged

# the splits of the built-in data set
SPLITS = ("train", "val")
# the default folder of the built-in data set, and the default numbers of its images
ROOT, TRAIN, VAL = "datasets/shapes", 600, 150


class CocoData(ImageData):
    """Boxes and instance masks in COCO format.

    Category ids may be any integers (from 0, from 1, with gaps); they are mapped to labels 0..K-1 in ascending order.
    Crowds and empty boxes are left out of training, but take part in evaluation. Images without annotations are
    negatives.

    Args:
        train, val, test: the images and annotations of each split, or a list of several sources, whose categories are
            matched by name. Only the splits that a run uses must be given.
        classes: the names of the classes that are kept; annotations of others are left out, and their images stay. The
            labels keep the order of the ids, whatever the order of the list. By default all are kept.
        rename: the new names of categories, as `{car: vehicle, truck: vehicle}`. Those with equal new names are merged;
            their class has the smallest of their ids.

    Raises:
        UserError: an annotation file is not in COCO's format for instances, the training split has no box, there is no
            category of a name in `classes` or `rename`, or categories of two files can't be matched.
    """

    kind = "instances"

    def __init__(
        self,
        *,
        train: Split | list[Split] | None = None,
        val: Split | list[Split] | None = None,
        test: Split | list[Split] | None = None,
        classes: list[str] | None = None,
        rename: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        self._choice = Choice(classes, rename or {})
        super().__init__({"train": train, "val": val, "test": test}, **options)
        if "train" in self.splits and not self._indices["train"].trainable.any():
            notes = "".join(f"; {note}" for note in self._indices["train"].notes)
            files = ", ".join(str(files.annotations) for files, _ in self.parts("train"))
            raise DataError(f"{files} has no box to train on{notes}; is it the right data.train.annotations?")

    def _open(self, split: SplitName, files: Any) -> CocoIndex:
        index = CocoIndex.open(self.files.at(there(files.annotations)))
        index.check_images()
        if index.panoptic:
            raise UserError(
                f"data.{split}.annotations: {index.path} is a COCO panoptic file; give the file of instances, "
                "or data.class_path: PanopticData"
            )
        return index

    def _unify(self, opened: dict[str, list[CocoIndex]]) -> dict[str, list[CocoIndex]]:
        return unify(opened, self._choice)

    def prepare(self, progress: Progress, needs: Needs) -> None:
        said = self.masks
        super().prepare(progress, needs)
        for split in self.splits if self.masks else ():
            check_masks(self.index(split), split, self.reading.on_bad_image)
            if not said and not self._ranks.get("rank"):
                say_masks(self.index(split), split)

    def make_source(self, split: SplitName) -> ImageSource:
        if self.with_masks:
            check_masks(self.index(split), split, self.reading.on_bad_image)
        return super().make_source(split)

    def _source(self, index: CocoIndex, files: Split) -> CocoSource:
        options = {"exif": self.reading.exif, "cache": self.cache, "masks": self.with_masks}
        return CocoSource(index, self.files.at(files.images), **options)


class PanopticData(ImageData):
    """Things and stuff in COCO's panoptic format, in which every pixel belongs to a single segment or to none.

    Args:
        train, val, test: the images and annotations of each split, or a list of several sources, whose categories are
            matched by name. Only the splits that a run uses must be given.
        classes: the names of the classes that are kept; the pixels of others become background.
        rename: the new names of categories, see `CocoData`. Segments of stuff that become the same class of an image
            are joined; things can't be merged with stuff.

    Raises:
        UserError: an annotation file is not in COCO's panoptic format, there is no category of a name in `classes` or
            `rename`, or categories of two files can't be matched.
    """

    kind = "panoptic"
    source_class = PanopticSource

    def __init__(
        self,
        *,
        train: PanopticSplit | list[PanopticSplit] | None = None,
        val: PanopticSplit | list[PanopticSplit] | None = None,
        test: PanopticSplit | list[PanopticSplit] | None = None,
        classes: list[str] | None = None,
        rename: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        self._choice = Choice(classes, rename or {})
        super().__init__({"train": train, "val": val, "test": test}, **options)

    def _open(self, split: SplitName, files: Any) -> CocoIndex:
        index = CocoIndex.open(self.files.at(there(files.annotations)))
        index.check_images()
        if len(index.categories) and not index.panoptic:
            raise UserError(
                f"data.{split}.annotations: {index.path} is no COCO panoptic file, its annotations have no "
                '"segments_info"; give the panoptic file, or data.class_path: CocoData'
            )
        return index

    def _unify(self, opened: dict[str, list[CocoIndex]]) -> dict[str, list[CocoIndex]]:
        return unify(opened, self._choice)

    def _source(self, index: CocoIndex, files: PanopticSplit) -> PanopticSource:
        options = {"exif": self.reading.exif, "cache": self.cache, "masks": self.with_masks}
        return PanopticSource(index, self.files.at(files.images), segments=self.files.at(files.segments), **options)

    def truth(self, split: SplitName) -> Callable[[int], tuple]:
        """A function that returns the true segments of an image, given its id; see `PanopticSource.truth`."""
        split = self._given(split)
        source = cast(PanopticSource | JoinedSource, self.make_source(split))
        position = {number: i for i, number in enumerate(source.index.image_ids.tolist())}
        read = self.files.scored(split, source.truth, source.void)
        return lambda image_id: read(position[image_id])


class SemanticData(ImageData):
    """A class for every pixel, from a label map (a PNG) for each image.

    Args:
        train, val, test: the images and label maps of each split, or a list of several sources. Only the splits that a
            run uses must be given.
        classes: the class names; or `ade20k` or `cityscapes`, for the names and pixel values of that data set.
        values: the pixel value of each class; by default 0..K-1. All other values are void: neither trained on nor
            scored.
        image_suffix, label_suffix: what follows the common part of the names of an image and its label map; by default
            the extension.
        rename: the new names of classes, as `{grass: green, field: green}`. Those with equal new names are merged;
            their class has the smallest of their values.

    Raises:
        UserError: the classes and the values don't match, there is no set of that name, or no class of a name in
            `rename`.
        FileNotFoundError: no image of a split has a label map.
    """

    kind = "semantic"
    source_class = SemanticSource

    def __init__(
        self,
        *,
        train: SemanticSplit | list[SemanticSplit] | None = None,
        val: SemanticSplit | list[SemanticSplit] | None = None,
        test: SemanticSplit | list[SemanticSplit] | None = None,
        classes: Sequence[str] | str,
        values: Sequence[int] | None = None,
        image_suffix: str | None = None,
        label_suffix: str | None = None,
        rename: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        self._classes = dict(zip(("classes", "values"), label_set(classes, values)))
        self._rename = Choice(rename=rename or {}).rename
        self._suffixes = {"image_suffix": image_suffix, "label_suffix": label_suffix}
        super().__init__({"train": train, "val": val, "test": test}, **options)

    def keys(self, split: str) -> str:
        return f"data.{split}.images and data.{split}.labels"

    def _open(self, split: SplitName, files: Any) -> SemanticIndex:
        options = {**self._classes, **self._suffixes, "files": files.files and self.files.at(there(files.files))}
        options["skip_bad"] = self.reading.on_bad_image == "skip"
        index = SemanticIndex(self.files.at(files.images), self.files.at(there(files.labels)), **options)
        index.rename(self._rename)
        return index

    def _source(self, index: SemanticIndex, files: SemanticSplit) -> SemanticSource:
        options = {"exif": self.reading.exif, "cache": self.cache, "masks": self.with_masks}
        return SemanticSource(index, self.files.at(files.images), **options)

    def truth(self, split: SplitName) -> Callable[[int], np.ndarray]:
        """A function that returns the label map `(H, W)` of an image, given its id, which is its position."""
        index = self.index(split)
        return self.files.scored(self._given(split), index.labels, index.void)


@ranged(RANGES)
def draw_shapes(root: str, train_images: int, val_images: int) -> Path:
    """The folder of the built-in data set with these numbers of images, which is drawn if it does not exist.

    It is `root`, or a folder beside it. The default `root` holds the drawing with the default numbers only.

    Raises:
        UserError: a number is out of range.
    """
    if (root, train_images, val_images) != (ROOT, TRAIN, VAL) and root == ROOT:
        root = f"{ROOT}-{train_images}-{val_images}"
    return make_shapes(root, train=train_images, val=val_images)


class ShapesData(CocoData):
    """The built-in data set with boxes and instance masks, which is drawn at first use, in seconds, and kept.

    Args:
        root: the folder of the data set. Its files are never replaced: a drawing with other numbers of images goes to a
            folder beside it, `root-TRAIN-VAL`.
        train_images, val_images: the number of scenes in the split.

    Raises:
        UserError: a number is out of range, or `root` can't be written.
        FileExistsError: `root` holds other files.

    Example:
        >>> data = ShapesData(train_images=4, val_images=2)
        >>> data.classes
        ['disc', 'square', 'triangle', 'star', 'ring', 'cross']
    """

    def __init__(self, *, root: str = ROOT, train_images: int = TRAIN, val_images: int = VAL, **options: Any) -> None:
        folder = draw_shapes(root, train_images, val_images)
        for split in SPLITS:
            options[split] = Split(f"{folder}/{split}", f"{folder}/annotations/instances_{split}.json")
        super().__init__(**options)


class ShapesPanopticData(PanopticData):
    """The built-in data set with panoptic segments of things and stuff; see `ShapesData`.

    Args:
        root, train_images, val_images: see `ShapesData`.
    """

    def __init__(self, *, root: str = ROOT, train_images: int = TRAIN, val_images: int = VAL, **options: Any) -> None:
        folder = draw_shapes(root, train_images, val_images)
        for split in SPLITS:
            annotations = f"{folder}/annotations/panoptic_{split}.json"
            options[split] = PanopticSplit(f"{folder}/{split}", annotations, f"{folder}/panoptic_{split}")
        super().__init__(**options)


class ShapesSemanticData(SemanticData):
    """The built-in data set with a class for every pixel; see `ShapesData`.

    Args:
        root, train_images, val_images: see `ShapesData`.
    """

    def __init__(self, *, root: str = ROOT, train_images: int = TRAIN, val_images: int = VAL, **options: Any) -> None:
        folder = draw_shapes(root, train_images, val_images)
        for split in SPLITS:
            options[split] = SemanticSplit(f"{folder}/{split}", f"{folder}/semantic_{split}")
        super().__init__(classes=[*THINGS, *STUFF], **options)
