"""The classes of well-known semantic data sets, and the values that their label maps have for them."""

import difflib
from collections.abc import Sequence

from vitdet.errors import UserError

# ADE20K, scene parsing: the 150 classes of objectInfo150.txt (sceneparsing.csail.mit.edu), each by its first name
_ADE20K = """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, table, mountain, plant, curtain,
    chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing,
    cushion, base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway,
    case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove,
    palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight,
    booth, television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
    fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food,
    step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
    ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""
# Cityscapes: the 19 classes that are scored (github.com/mcordts/cityscapesScripts)
_CITYSCAPES = """
    road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky, person, rider, car, truck, bus, train, motorcycle,
    bicycle
"""


def _names(text: str) -> list[str]:
    return [" ".join(name.split()) for name in text.split(",")]


LABEL_SETS: dict[str, tuple[list[str], list[int]]] = {
    "ade20k": (_names(_ADE20K), list(range(1, 151))),
    "cityscapes": (
        _names(_CITYSCAPES),
        [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33],
    ),
}
"""Name: class names and pixel values."""


def label_set(classes: Sequence[str] | str, values: Sequence[int] | None) -> tuple[Sequence[str], Sequence[int] | None]:
    """Class names and pixel values, as given, or of the set that `classes` names.

    Raises:
        ValueError: there is no such set, or values are given besides.
    """
    if not isinstance(classes, str):
        return classes, values
    if classes not in LABEL_SETS:
        near = difflib.get_close_matches(classes.lower(), LABEL_SETS, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(LABEL_SETS)}"
        raise UserError(f"data.classes is {classes!r}; give a list of names, or a set of classes: {hint}")
    if values is not None:
        raise UserError(f"data.classes names the set {classes}, which has its values; leave out data.values")
    return LABEL_SETS[classes]
