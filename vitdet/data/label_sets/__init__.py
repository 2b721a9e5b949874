"""The classes of well-known data sets, and the ids or pixel values that their files have for them."""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from vitdet.data.label_sets import coco, scenes
from vitdet.errors import UserError


class LabelSet(NamedTuple):
    """Class names, the ids or pixel values that the data set's files have for them, and which are things."""

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
    """Class names and pixel values, as given, or of the set that `classes` names.

    Raises:
        UserError: there is no such set, or values are given besides.
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
