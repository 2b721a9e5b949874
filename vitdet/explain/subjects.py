"""Explains what a model looked at for the objects and places of an image."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch

from vitdet.backbone import Backbone
from vitdet.backbone.trunk import quarters
from vitdet.deploy import Detector
from vitdet.draw import middle
from vitdet.errors import UserError
from vitdet.explain.arrays import Explanation, Subject
from vitdet.explain.look import Look
from vitdet.explain.watch import watching
from vitdet.heads.masks.base import QueryMaskHead
from vitdet.images import ImageLike
from vitdet.structures import Prediction
from vitdet.thresholds import Threshold

# so many of the best objects are explained where none are named
BEST = 3


@torch.inference_mode()
def explain(
    detector: Detector,
    image: ImageLike,
    *,
    objects: Sequence[int] | None = None,
    points: Sequence[tuple[float, float]] = (),
    blocks: Sequence[int] | Literal["all"] | None = None,
    threshold: Threshold | None = None,
) -> Explanation:
    """What a model looks at for objects and places of an image.

    The image is predicted on as ever, once; the attention of the chosen blocks and of the last layer of the decoder is
    computed again, for what is explained alone.

    Args:
        detector: a model from a checkpoint or a published one; exported ones do not show what is inside.
        image: in any form that `Detector.predict` takes, but a single one.
        objects: positions of objects in the prediction, best score first from 0; by default the first three (of
            semantic maps, the largest classes), unless there are points.
        points: places, x and y in pixels of the image. For models whose queries have masks, the query whose mask is
            the surest there is explained as well.
        blocks: the blocks of the ViT, 0 is the first and -1 the last, or `all`; by default the last of each quarter.
        threshold: as in `Detector.predict`.

    Raises:
        UserError: the model was exported, or there is no such object, point, or block.
        ImageError: the image can't be read.

    Example:
        >>> from vitdet import Backbone, DETRHead
        >>> from vitdet.data.transforms import EvalTransform
        >>> backbone = Backbone("vit_tiny_patch16_224", depth=4, out_channels=64)
        >>> head = DETRHead(backbone.out_channels, backbone.strides, 2, dim=64, num_queries=10)
        >>> transform = EvalTransform(size=64, mean=backbone.mean, std=backbone.std)
        >>> detector = Detector(backbone, head, classes=["cat", "dog"], category_ids=[1, 2], transform=transform)
        >>> found = explain(detector, np.zeros((40, 50, 3), np.uint8), objects=[0], threshold=0)
        >>> [(one.name, one.weights.shape) for one in found.subjects[0].blocks][-1]
        ('block 3', (3, 4, 4))
    """
    backbone, head = getattr(detector, "backbone", None), getattr(detector, "head", None)
    if not isinstance(backbone, Backbone) or head is None:
        raise UserError(f"{type(detector).__name__} does not show what is inside; give the checkpoint of the model")
    read = detector.read(image)
    chosen = _numbers(blocks, len(backbone.trunk.blocks))
    x, size = detector.transform(read.array).to(detector.device), read.array.shape[:2]
    with watching(backbone, head, chosen) as seen:
        outputs = head(backbone([x]))
        prediction = head.predict(outputs, [size])[0].cpu()
    prediction.names, prediction.category_ids, prediction.path = detector.classes, detector.category_ids, read.path
    prediction = prediction.above(detector.thresholds if threshold is None else threshold)
    look = Look(backbone, head, seen, chosen, (x.shape[-2], x.shape[-1]), (size[0], size[1]))
    subjects = [*_objects(prediction, objects, points), *_places(look, outputs, points)]
    for subject in subjects:
        look.at(subject)
    return Explanation(read.array, prediction, subjects, list(_notes(head, subjects)))


def _numbers(blocks: Sequence[int] | str | None, depth: int) -> list[int]:
    """The blocks that are named, from 0."""
    if blocks is None or blocks == "all":
        return quarters(depth) if blocks is None else list(range(depth))
    if wrong := [one for one in blocks if isinstance(one, str) or not -depth <= one < depth]:
        raise UserError(f"there is no block {wrong[0]}: the ViT has 0 to {depth - 1}, and -1 is the last")
    return sorted({int(one) % depth for one in blocks})


def _notes(head: Any, subjects: Sequence[Subject]) -> Iterator[str]:
    if not subjects:
        yield "Nothing was found of at least the threshold; a lower threshold finds more, and a point can be looked at."
    if getattr(head, "tile", None) is not None:
        yield f"vitdet predict sees this image in tiles of {head.tile} pixels; here the model has seen it as a whole."
    if any(subject.query is not None and not subject.query_maps and subject.points is None for subject in subjects):
        yield f"What the queries of {type(head).__name__} look at is not known; only the attention of the ViT is shown."


def _objects(prediction: Prediction, objects: Sequence[int] | None, points: Sequence[Any]) -> Iterator[Subject]:
    if prediction.semantic is not None:
        yield from _classes(prediction, objects, points)
        return
    count = len(prediction)
    numbers = range(0 if points else min(BEST, count)) if objects is None else objects
    if wrong := [one for one in numbers if not 0 <= one < count]:
        raise UserError(
            f"there is no object {wrong[0]}: {count} of at least the threshold were found"
            + (f", 0 to {count - 1}" if count else "; a lower threshold finds more")
        )
    for number in numbers:
        one = prediction[number]
        x1, y1, x2, y2 = one.box_xyxy
        inside = None if one.mask is None else middle(one.mask.numpy())
        query = None if prediction.queries is None else int(prediction.queries[number])
        place = inside or ((x1 + x2) / 2, (y1 + y2) / 2)
        yield Subject(f"object {number}: {one.name} {one.score:.2f}", place, number, query)


def _classes(prediction: Prediction, objects: Sequence[int] | None, points: Sequence[Any]) -> Iterator[Subject]:
    """The largest classes of a semantic map, in whose middle the model is asked."""
    if objects is not None:
        raise UserError("a semantic map has no objects; name places in it, as --point x,y")
    if points:
        return
    assert prediction.semantic is not None
    labels, areas = np.unique(prediction.semantic.numpy(), return_counts=True)
    for label in labels[np.argsort(-areas, kind="stable")][:BEST].tolist():
        place = middle(prediction.semantic.numpy() == label)
        assert place is not None
        yield Subject(f"class {prediction.name_of(label)}", place)


def _places(look: Look, outputs: Any, points: Sequence[tuple[float, float]]) -> Iterator[Subject]:
    height, width = look.size
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(f"the point {x:g},{y:g} is not in the image, which is {width}×{height} pixels")
        query = look.strongest(outputs, (x, y)) if isinstance(look.head, QueryMaskHead) else None
        yield Subject(f"point {x:g},{y:g}" + ("" if query is None else f", and query {query}"), (x, y), query=query)
