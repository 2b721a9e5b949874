"""The classes of COCO (cocodataset.org) and the category ids that its files use for them.

There are 80 classes of objects, and 133 panoptic classes: the 80 objects, then 53 kinds of stuff.
"""

_NAMES = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, \
parking meter, bench, bird, cat, dog,
    horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, \
snowboard, sports ball, kite, baseball
    bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, \
banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, \
mouse, remote, keyboard, cell phone,
    microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush
"""
CLASSES = [" ".join(name.split()) for name in _NAMES.split(",")]
# ids between 1 and 90 that no class has
UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
IDS = [number for number in range(1, 91) if number not in UNUSED]

_STUFF = """
    banner, blanket, bridge, cardboard, counter, curtain, door-stuff, floor-wood, flower, fruit, gravel, house, light, \
mirror-stuff, net, pillow,
    platform, playingfield, railroad, river, road, roof, sand, sea, shelf, snow, stairs, tent, towel, wall-brick, \
wall-stone, wall-tile, wall-wood,
    water-other, window-blind, window-other, tree-merged, fence-merged, ceiling-merged, sky-other-merged, \
cabinet-merged, table-merged,
    floor-other-merged, pavement-merged, mountain-merged, grass-merged, dirt-merged, paper-merged, food-other-merged, \
building-other-merged,
    rock-merged, wall-other-merged, rug-merged
"""
PANOPTIC_CLASSES = CLASSES + [name.strip() for name in _STUFF.split(",")]
# fmt: off
PANOPTIC_IDS = [
    *IDS, 92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151,
    154, 155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201),
]
# fmt: on
PANOPTIC_THINGS = [name in CLASSES for name in PANOPTIC_CLASSES]
