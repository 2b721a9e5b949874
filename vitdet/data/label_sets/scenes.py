"""The classes of ADE20K and Cityscapes, and the pixel values that stand for them in the label maps."""


def _names(text: str, separator: str = ",") -> list[str]:
    return [" ".join(name.split()) for name in text.split(separator)]


# ADE20K, scene parsing: the 150 classes of objectInfo150.txt (sceneparsing.csail.mit.edu). Where that file lists
# several names for a class, the first is taken.
_ADE20K = """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, \
table, mountain, plant, curtain,
    chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, \
wardrobe, lamp, bathtub, railing,
    cushion, base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, \
grandstand, path, stairs, runway,
    case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, \
book, hill, bench, countertop, stove,
    palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, \
chandelier, awning, streetlight,
    booth, television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, \
buffet, poster, stage, van, ship,
    fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, \
minibike, cradle, oven, ball, food,
    step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, \
sconce, vase, traffic light, tray,
    ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""
ADE20K, ADE20K_VALUES = _names(_ADE20K), list(range(1, 151))
# ADE20K's panoptic files use other names for these 150 classes, count their ids from 0, and mark which are things
# (github.com/facebookresearch/Mask2Former).
_ADE20K_PANOPTIC = """
    wall; building; sky; floor; tree; ceiling; road, route; bed; window; grass; cabinet; sidewalk, pavement; person; \
earth, ground; door; table; mountain,
    mount; plant; curtain; chair; car; water; painting, picture; sofa; shelf; house; sea; mirror; rug; field; \
armchair; seat; fence; desk; rock, stone;
    wardrobe, closet, press; lamp; tub; rail; cushion; base, pedestal, stand; box; column, pillar; signboard, sign; \
chest of drawers, chest, bureau, dresser;
    counter; sand; sink; skyscraper; fireplace; refrigerator, icebox; grandstand, covered stand; path; stairs; runway; \
case, display case, showcase, vitrine;
    pool table, billiard table, snooker table; pillow; screen door, screen; stairway, staircase; river; bridge, span; \
bookcase; blind, screen; coffee table;
    toilet, can, commode, crapper, pot, potty, stool, throne; flower; book; hill; bench; countertop; stove; palm, palm \
tree; kitchen island; computer;
    swivel chair; boat; bar; arcade machine; hovel, hut, hutch, shack, shanty; bus; towel; light; truck; tower; \
chandelier; awning, sunshade, sunblind;
    street lamp; booth; tv; plane; dirt track; clothes; pole; land, ground, soil; bannister, banister, balustrade, \
balusters, handrail; escalator, moving
    staircase, moving stairway; ottoman, pouf, pouffe, puff, hassock; bottle; buffet, counter, sideboard; poster, \
posting, placard, notice, bill, card;
    stage; van; ship; fountain; conveyer belt, conveyor belt, conveyer, conveyor, transporter; canopy; washer, \
automatic washer, washing machine; plaything,
    toy; pool; stool; barrel, cask; basket, handbasket; falls; tent; bag; minibike, motorbike; cradle; oven; ball; \
food, solid food; step, stair; tank,
    storage tank; trade name; microwave; pot; animal; bicycle; lake; dishwasher; screen; blanket, cover; sculpture; \
hood, exhaust hood; sconce; vase; traffic
    light; tray; trash can; fan; pier; crt screen; plate; monitor; bulletin board; shower; radiator; glass, drinking \
glass; clock; flag
"""
ADE20K_PANOPTIC = _names(_ADE20K_PANOPTIC, ";")
# the published files have this name with a space at its end
ADE20K_PANOPTIC[8] = "window "
# positions of the classes that are stuff; all others are things
# fmt: off
ADE20K_STUFF = {
    0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60, 61, 63, 68, 77, 79,
    84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131, 140, 141, 145,
}
# fmt: on
# Cityscapes: the 19 classes that its benchmark scores (github.com/mcordts/cityscapesScripts)
_CITYSCAPES = """
    road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky, person, rider, \
car, truck, bus, train, motorcycle,
    bicycle
"""
CITYSCAPES = _names(_CITYSCAPES)
CITYSCAPES_VALUES = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
