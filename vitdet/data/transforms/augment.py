"""The transforms that a config lists for resized training images."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

import numpy as np

from vitdet.data.transforms.own import OWN, OwnPipeline, OwnTransform
from vitdet.data.transforms.sample import MIN_VISIBLE, Sample
from vitdet.errors import UserError, check

Item = str | dict[str, Any]


class Augment:
    """A pipeline of transforms for samples, which is driven by a seed.

    If all transforms are this package's (`OWN`), albumentations is not imported; else it runs them all. The random
    draws and the results are the same.

    Args:
        transforms: names of transforms, or `{Name: {argument: value}}` for a name with arguments. Of albumentations'
            groups, such as `OneOf`, the argument `transforms` is a list like this.
        min_visible: the share of the area of a box that the transforms must leave, or the object is dropped.

    Raises:
        UserError: there is no such transform, or it does not take the arguments.

    Example:
        >>> augment = Augment(["HorizontalFlip", {"ColorJitter": {"hue": 0.1, "p": 0.8}}])
        >>> sample = Sample(np.zeros((4, 6, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        >>> augment(sample, seed=1).image.shape
        (4, 6, 3)
    """

    def __init__(self, transforms: Sequence[Item], *, min_visible: float = MIN_VISIBLE) -> None:
        items = isinstance(transforms, Sequence) and not isinstance(transforms, str)
        check("train_transforms", transforms, items, "a list of transforms, such as [HorizontalFlip]")
        named = [name_and_arguments(item) for item in transforms]
        self.foreign = any(name not in OWN for name, _ in named)
        if self.foreign:
            from vitdet.data.transforms.adapter import Pipeline

            self.pipeline = Pipeline(transforms, min_visible=min_visible)
        else:
            self.pipeline = OwnPipeline([_own(*pair) for pair in named])

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """The sample after all transforms; its masks must be decoded.

        Raises:
            UserError: a transform can't be applied to the image.
        """
        if not self.pipeline.transforms:
            return sample
        # All transforms share a random stream. Separate streams from an equal seed would give equal draws: an image
        # would be brightened exactly when it is flipped.
        return self.pipeline(sample, Random(seed), np.random.default_rng(seed))

    def try_out(self, sizes: Iterable[tuple[int, int]], *, masks: bool) -> None:
        """Applies each transform to made-up images, so that one that can't be used is refused before the training.

        Args:
            sizes: `(H, W)` of the images in pixels.
            masks: whether the samples have masks.

        Raises:
            UserError: a transform fails, or its result is no image to train on. The message has its name.
        """
        if not isinstance(self.pipeline, OwnPipeline):
            from vitdet.data.transforms.trial import try_out

            try_out(self.pipeline, sizes, masks=masks)

    def __str__(self) -> str:
        return describe(self.pipeline.transforms) or "none"


def describe(transforms: Iterable[Any], *, chances: bool = True) -> str:
    """The names of transforms; the members of a group stand in its brackets.

    Args:
        transforms: the transforms.
        chances: whether the names are followed by the probabilities.
    """
    parts = []
    for transform in transforms:
        # only groups have a length; `ColorJitter` has functions as its transforms
        inside = [describe(transform.transforms, chances=chances)] if hasattr(transform, "__len__") else []
        inside += [f"p={transform.p:g}"] if chances else []
        parts.append(type(transform).__name__ + (f"({', '.join(inside)})" if inside else ""))
    return ", ".join(parts)


def name_and_arguments(item: Any) -> tuple[str, dict[str, Any]]:
    """The name of a transform and its arguments, from an item of a list in a config.

    Raises:
        UserError: the item is neither a name nor `{Name: {argument: value}}`.
    """
    several = f"{len(item)} keys in one item" if isinstance(item, dict) and len(item) > 1 else ""
    pair = isinstance(item, dict) and len(item) == 1
    single = pair and all(isinstance(n, str) and isinstance(a, (dict, type(None))) for n, a in item.items())
    wanted = "a name, or {Name: {argument: value}}"
    if several:
        wanted += f" with a single name: these are {several}, so put a dash before each, or indent the arguments"
    check("one of train_transforms", item, isinstance(item, str) or single, wanted)
    name, arguments = (item, {}) if isinstance(item, str) else next(iter(item.items()))
    return name, arguments or {}


def _own(name: str, arguments: dict[str, Any]) -> OwnTransform:
    kind: Callable[..., OwnTransform] = OWN[name]
    known = inspect.signature(kind).parameters
    unknown = [key for key in arguments if key not in known]
    try:
        check("an argument", ", ".join(map(str, unknown)), not unknown, f"some of {', '.join(known)}")
        return kind(**arguments)
    except UserError as error:
        raise UserError(f"{name} does not take {arguments}: {error}") from error
