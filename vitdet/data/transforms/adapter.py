"""albumentations' transforms for training samples, for configs that name some of them; nothing else imports it."""

import difflib
import logging
import os
import re
import warnings
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np

from vitdet.data.transforms.augment import Item, describe, name_and_arguments
from vitdet.data.transforms.sample import MIN_SIDE, Sample
from vitdet.errors import UserError
from vitdet.masks import bounds

# without it, albumentations looks up its newest version on the network
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

log = logging.getLogger("vitdet")

Transform = A.BasicTransform | A.BaseCompose
# the most pixels by which a box may cut off its mask; interpolation of masks and of boxes differ by this much
SLACK = 2.0
# what albumentations' warnings say about arguments that are not used as they are
CHANGED = re.compile("not valid|adjusted|will be set to")
# the classes that transforms are derived from
BASES = (A.BasicTransform, A.DualTransform, A.ImageOnlyTransform, A.Transform3D, A.BaseCompose)


class Pipeline:
    """A row of albumentations' transforms.

    Args:
        items: the transforms, as in `Augment`.
        min_visible: the share of the area of a box that the transforms must leave, or the object is dropped.

    Raises:
        UserError: there is no such transform, or it does not take the arguments.
    """

    def __init__(self, items: Sequence[Item], *, min_visible: float) -> None:
        self.min_visible = min_visible
        self.transforms = [transform(item) for item in items]
        self.compose = self.composed(self.transforms)

    def composed(self, transforms: Sequence[Transform]) -> A.Compose:
        """Transforms as one, which keeps boxes and their rows together, and drops boxes of which too little is left."""
        boxes = A.BboxParams(
            "albumentations",
            # the first field is what `ConstrainedCoarseDropout` calls the label
            label_fields=["labels", "rows"],
            min_visibility=self.min_visible,
            min_width=MIN_SIDE,
            min_height=MIN_SIDE,
            clip=True,
        )
        with warnings.catch_warnings():
            # if no transform moves boxes, nothing needs to
            warnings.filterwarnings("ignore", "Got processor for bboxes")
            return A.Compose(list(transforms), bbox_params=boxes)

    def __call__(self, sample: Sample, rng: Random, generator: np.random.Generator) -> Sample:
        """The sample after all transforms; its masks must be decoded.

        Raises:
            UserError: a transform can't be applied to the image.
        """
        try:
            return apply(self.compose, sample, rng, generator)
        except Exception as error:
            # the errors of albumentations have no class in common
            height, width = sample.image.shape[:2]
            raise UserError(
                f"train_transforms ({describe(self.transforms)}) can't be applied to an image of {width}×{height}: "
                f"{error}; change them, or leave one out"
            ) from error


def apply(compose: A.Compose, sample: Sample, rng: Random, generator: np.random.Generator) -> Sample:
    """The sample after `compose`, as it is, without a check."""
    compose.set_random_state(generator, rng)
    moved = sample.decoded
    masks: dict[str, Any] = {} if moved is None or not len(moved) else {"masks": list(moved)}
    rows = np.arange(len(sample.boxes))
    out = compose(image=sample.image, bboxes=sample.boxes, labels=sample.labels, rows=rows, **masks)
    kept = np.asarray(out["rows"], np.int64).reshape(-1)
    if moved is not None:
        moved = np.stack(out["masks"])[kept] if masks else np.zeros((0, *out["image"].shape[:2]), np.uint8)
    boxes = np.asarray(out["bboxes"], np.float32).reshape(-1, 4)
    if moved is not None and len(moved) == len(boxes) and isinstance(out["image"], np.ndarray):
        boxes = _around(moved, boxes)
    return Sample(out["image"], boxes, sample.labels[kept], moved)


def _around(masks: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Boxes as fractions, moved out to the bounds of their masks where they cut off more than `SLACK` pixels of them.

    Dropout shrinks boxes to what is left to see, but leaves the masks as they are, unless its `fill_mask` is 0.
    """
    size = np.array([masks.shape[2], masks.shape[1]] * 2)
    tight = bounds(masks) / size
    cut = np.concatenate([boxes[:, :2] - tight[:, :2], tight[:, 2:] - boxes[:, 2:]], axis=1) > SLACK / size
    seen = (tight[:, 2:] > 0).all(1, keepdims=True)
    return np.where(cut & seen, tight, boxes).astype(np.float32)


def transform(item: Item) -> Transform:
    """The transform that an item of a config describes; the members of a group are described by its `transforms`.

    Raises:
        UserError: there is no such transform, or it does not take the arguments.
    """
    name, arguments = name_and_arguments(item)
    cls = _class(name)
    if issubclass(cls, A.BaseCompose):
        members = arguments.get("transforms")
        if not isinstance(members, Sequence) or isinstance(members, str) or not members:
            raise UserError(
                f"one of train_transforms is {name}, a group, with transforms {members!r}; wanted a list of one or "
                f"more, for example {{{name}: {{transforms: [Blur, {{MotionBlur: {{p: 0.5}}}}], p: 0.3}}}}"
            )
        if issubclass(cls, A.Compose) and (more := sorted(set(arguments) - {"transforms", "p"})):
            raise UserError(
                f"one of train_transforms is {name} with {', '.join(more)}; as a group it has transforms, p"
            )
        arguments = {**arguments, "transforms": [transform(member) for member in members]}
    given = {key: value for key, value in arguments.items() if key != "transforms"}
    try:
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always", UserWarning)
            made = cls(**arguments)
    except Exception as error:
        # pydantic's errors have many lines; those of the constructors have no class in common
        found = getattr(error.__cause__, "errors", list)()
        faults = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in found]
        reason = " ".join(("; ".join(faults) or str(error)).split())
        raise UserError(f"albumentations' {name} does not take {given}: {reason}") from error
    for note in notes:
        text = " ".join(str(note.message).split())
        # albumentations only warns about arguments that it does not know, or replaces by others
        if CHANGED.search(text):
            raise UserError(f"albumentations' {name} does not take {given}: {text}")
        log.warning("train_transforms: albumentations on %s: %s", name, text)
    if isinstance(made, A.BasicTransform) and "image" not in made.targets:
        raise UserError(f"one of train_transforms is {name}, which is for volumes, and does nothing to images")
    return made


def _class(name: str) -> type[Transform]:
    known = {
        key: kind
        for key, kind in vars(A).items()
        if isinstance(kind, type) and issubclass(kind, (A.BasicTransform, A.BaseCompose)) and kind not in BASES
    }
    if name not in known:
        near = difflib.get_close_matches(name, known, 3)
        raise UserError(f"albumentations has no transform {name!r}; did you mean {', '.join(near) or 'another'}?")
    return known[name]
