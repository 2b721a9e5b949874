"""A look at real targets before the first step: what is left to find in them, and what was dropped and why.

The samples go through the whole pipeline. Each depends on the seed and its `Draw` only, so the look changes nothing in
the training that follows. H×W is the size of an image in pixels.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np

from vitdet.annotations.misread import look_for_misread
from vitdet.data.bad import Bad
from vitdet.data.dataset import Samples, TrainDataset
from vitdet.data.depth import spread
from vitdet.data.look_at_labels import look_at_maps, look_at_segments
from vitdet.data.sampler import Draw
from vitdet.errors import DataError
from vitdet.images import ImageError, open_image

# images of a split that are looked at, label maps of it, and the seconds that each of these takes at most
IMAGES, MAPS, SECONDS = 16, 48, 0.3
# how many samples are made before a training stops because all are empty
TRIES = 32


def look(data: Any, split: str, dataset: Samples, bad: Bad) -> list[str]:
    """Looks at a sample of a split.

    Args:
        data: the `ImageData`.
        split: the name of the split.
        dataset: its samples, for training or for evaluation.
        bad: where it is noted which images were skipped.

    Returns:
        What is odd, and what was dropped, a line each.

    Raises:
        DataError: nothing is left to find in the whole sample, or a sample can't be made; the message has the reasons.
    """
    # where the labels are panoptic, a `PanopticSource` or several, joined
    index, source = data.index(split), cast(Any, dataset.source)
    if not len(index):
        raise DataError(f"{index.path} lists no image; correct data.{split}, or leave that split out")
    lines = list(_boxes(data, split))
    if data.kind == "semantic":
        lines += look_at_maps(index, _timed(spread(len(index), MAPS), least=8))
    elif data.kind == "panoptic":
        lines += look_at_segments(source, _timed(_with_objects(index, MAPS), least=8))
    if isinstance(dataset, TrainDataset):
        _try(dataset, index, [*lines, *index.notes])
    else:
        for i in _timed(spread(len(index), IMAGES)):
            dataset[Draw(i)]
    lines += _frames(source)
    for i, reason in dataset.take_notes():
        bad.add(i, reason)
    return [f"{split}: {line}" for line in lines]


def _try(dataset: TrainDataset, index: Any, reasons: list[str]) -> None:
    """Makes training samples until one has an object.

    Raises:
        DataError: no sample has one.
    """
    chosen = _with_objects(index, IMAGES)
    found = tried = 0
    for i in _timed(chosen):
        found, tried = found + len(dataset[Draw(i)][1].labels), tried + 1
    # by chance, crops of a few images may show no object
    while chosen and not found and tried < TRIES:
        found, tried = len(dataset[Draw(chosen[tried % len(chosen)], epoch=tried)][1].labels), tried + 1
    if not found:
        what = "resizing, crops and transforms leave no object in any of" if chosen else "no image has an object, of"
        why = "check data.size, data.scale_jitter, data.augmentation and data.train_transforms"
        if not chosen and not len(getattr(index, "categories", [0])):
            why = "it has no annotation of an image; is it the right data.train.annotations?"
        why = "; ".join(reasons) or why
        raise DataError(f"{index.path} has nothing to train on: {what} {tried or len(index)} samples; {why}")


def _with_objects(index: Any, count: int) -> list[int]:
    """At most `count` images, evenly spread, with objects to train on, as far as the index knows."""
    trainable = getattr(index, "trainable", None)
    if trainable is None:
        return spread(len(index), count)
    sums = np.concatenate([[0], np.cumsum(trainable)])
    images = np.flatnonzero(sums[index.first[1:]] > sums[index.first[:-1]])
    return images[spread(len(images), count)].tolist()


def _timed(items: Iterable[int], least: int = 1) -> Iterator[int]:
    """The items until the time is over, and at least a few of them."""
    end = time.monotonic() + SECONDS
    for k, item in enumerate(items):
        if k >= least and time.monotonic() > end:
            return
        yield item


def _boxes(data: Any, split: str) -> Iterator[str]:
    """What is odd in all boxes of a split.

    Raises:
        DataError: most boxes are in another format than COCO's, or outside their images.
    """
    index = data.index(split)
    if not hasattr(index, "trainable"):
        return
    yield from look_for_misread(index)
    rows = np.flatnonzero(index.trainable & (index.boxes_xywh[:, 2:] > 0).all(1))
    boxes = index.boxes_xywh[rows]
    if split != "train":
        return
    image = np.repeat(np.arange(len(index)), np.diff(index.first))[rows]
    shapes, which = np.unique(np.stack([index.heights, index.widths], 1), axis=0, return_inverse=True)
    largest = data.scale_jitter[1] * max(data.augmentation.batch_scale)
    factors = np.array([data.image_size(int(h), int(w), largest) for h, w in shapes]) / shapes
    sides = boxes[:, 2:] * factors[which.reshape(-1)[image]][:, ::-1]
    if count := int((sides < 1).any(1).sum()):
        yield (
            f"{count} of {len(boxes)} boxes are narrower than a pixel even at the largest scale of the training "
            f"({data.image_size}): they are dropped"
        )


def _frames(source: Any) -> Iterator[str]:
    """Whether images have more frames than the one that is read."""
    names, count = [], 0
    for i in _timed(spread(len(source), IMAGES)):
        count += 1
        try:
            with open_image(source.path(i)) as image:
                image.seek(1)
                names.append(source.path(i).name)
        # without a second frame, this is an `EOFError` inside
        except ImageError:
            continue
    if names:
        yield f"{len(names)} of {count} images have several frames, such as {names[0]}: the first is read"
