"""COCO's 133 panoptic classes: the 80 object classes, then 53 kinds of stuff, and the ids that its files have for them (cocodataset.org)."""

from vitdet.zoo import coco

_STUFF = """
    banner, blanket, bridge, cardboard, counter, curtain, door-stuff, floor-wood, flower, fruit, gravel, house, light, mirror-stuff, net, pillow,
    platform, playingfield, railroad, river, road, roof, sand, sea, shelf, snow, stairs, tent, towel, wall-brick, wall-stone, wall-tile, wall-wood,
    water-other, window-blind, window-other, tree-merged, fence-merged, ceiling-merged, sky-other-merged, cabinet-merged, table-merged,
    floor-other-merged, pavement-merged, mountain-merged, grass-merged, dirt-merged, paper-merged, food-other-merged, building-other-merged,
    rock-merged, wall-other-merged, rug-merged
"""
CLASSES = coco.CLASSES + [name.strip() for name in _STUFF.split(",")]
# fmt: off
IDS = [
    *coco.IDS, 92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151, 154, 155, 156, 159, 161, 166,
    168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201),
]
# fmt: on
THINGS = [name in coco.CLASSES for name in CLASSES]
