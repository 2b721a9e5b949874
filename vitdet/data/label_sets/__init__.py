"""The classes of well-known data sets, and the ids or pixel values that stand for them in the files."""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from vitdet.data.label_sets import coco, scenes
from vitdet.errors import UserError


class LabelSet(NamedTuple):
    """The classes of a data set, K of them.

    Attributes:
        classes: K names.
        ids: K category ids or pixel values, as the files of the data set have them.
        things: K flags; true for a class of countable objects (a thing), false for stuff.
    """

    classes: list[str]
    ids: list[int]
    things: list[bool]


LABEL_SETS: dict[tuple[str, str], LabelSet] = {
    ("coco", "instances"): LabelSet(coco.CLASSES, coco.IDS, [True] * 80),
    ("coco", "panoptic"): LabelSet(coco.PANOPTIC_CLASSES, coco.PANOPTIC_IDS, coco.PANOPTIC_THINGS),
    ("ade20k", "panoptic"): LabelSet(
        scenes.ADE20K_PANOPTIC, list(range(150)), [i not in scenes.ADE20K_STUFF for i in range(150)]
    ),
    ("ade20k", "semantic"): LabelSet(scenes.ADE20K, scenes.ADE20K_VALUES, [False] * 150),
    ("cityscapes", "semantic"): LabelSet(scenes.CITYSCAPES, scenes.CITYSCAPES_VALUES, [False] * 19),
}
"""By data set and kind of labels."""


def label_set(classes: Sequence[str] | str, values: Sequence[int] | None) -> tuple[Sequence[str], Sequence[int] | None]:
    """The class names and pixel values of a data set with semantic labels.

    Args:
        classes: class names, which are returned as they are, or the name of a known set, which is looked up.
        values: the pixel value of each class, if `classes` lists names.

    Raises:
        UserError: there is no set of that name, or `values` is given although the set has its values.

    Example:
        >>> names, values = label_set("cityscapes", None)
        >>> names[:2], values[:2]
        (['road', 'sidewalk'], [7, 8])
    """
    if not isinstance(classes, str):
        return classes, values
    known = [name for name, kind in LABEL_SETS if kind == "semantic"]
    if classes not in known:
        near = difflib.get_close_matches(classes.lower(), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        raise UserError(f"data.classes is {classes!r}; give a list of names, or a set of classes: {hint}")
    if values is not None:
        raise UserError(f"data.classes names the set {classes}, which has its values; leave out data.values")
    found = LABEL_SETS[classes, "semantic"]
    return found.classes, found.ids
