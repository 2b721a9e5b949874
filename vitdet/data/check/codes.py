"""What the check of a data set can find: a row for each code, which `docs/data.md` lists, too."""

from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


class Code(NamedTuple):
    """What a finding of a code means.

    Attributes:
        severity: an error loses images or labels, or trains on wrong ones; a warning may do so; a note is worth
            knowing.
        says: what was found, as a phrase that the count follows.
        fix: what to do.
    """

    severity: Severity
    says: str
    fix: str


CODES: dict[str, Code] = {
    # the files of labels
    "labels-unreadable": Code("error", "annotation file that can't be read", "export it again as COCO JSON in UTF-8"),
    "labels-invalid": Code("error", "entries that are no COCO image, category or annotation", "export the file again"),
    "split-empty": Code(
        "error", "split without images or classes", "give the folder and the file that belong together"
    ),
    # image files
    "image-missing": Code(
        "error", "image files do not exist", "correct the names or the folder, or remove the entries"
    ),
    "image-unreadable": Code("error", "image files can't be read", "save them again, or remove them"),
    "image-truncated": Code("error", "image files end too early", "copy or download them again"),
    "image-outside-folder": Code("error", "file names lead out of the folder", "write names relative to the folder"),
    "image-too-large": Code("error", "images have more pixels than are read", "make them smaller, or cut them up"),
    "image-unlisted": Code("note", "image files in the folder are not in the annotations", "label them if they belong"),
    "image-depth": Code("note", "images have more than 8 bits a channel", "look at training samples"),
    "image-transparent": Code("note", "images have transparency, which is dropped", "flatten them if colours differ"),
    "image-frames": Code("note", "images have several frames, of which the first is read", "save the frames as files"),
    "image-duplicate": Code("warning", "images are byte-identical copies", "keep one of each"),
    "image-near-duplicate": Code("note", "images look like another one", "keep one of each, or keep them in one split"),
    "leak": Code("warning", "images are also in another split", "keep each image in one split"),
    "leak-near": Code("warning", "images look like one of another split", "keep similar images in one split"),
    # sizes
    "size-missing": Code("error", "images without width and height in the annotations", "write the sizes in pixels"),
    "size-differs": Code("error", "images of another size than the annotations say", "export the labels again"),
    "size-swapped": Code("error", "images whose width and height are swapped in the annotations", "swap the two"),
    "size-exif": Code(
        "error",
        "images whose size fits only without their EXIF tag, so that their boxes are in stored pixels",
        "set `data.reading.exif: false`",
    ),
    "size-upright": Code(
        "error",
        "images whose size fits only when they are turned by their EXIF tag, which `exif: false` switches off",
        "set `data.reading.exif: true`",
    ),
    "exif-unsure": Code(
        "note",
        "images are turned or mirrored by an EXIF tag that keeps their size, so that a wrong frame can't be noticed",
        "look at their boxes",
    ),
    # ids and names
    "image-id-twice": Code("error", "images share their id", "give each image its own id"),
    "image-name-twice": Code("error", "images share their file name", "merge the entries, and their annotations"),
    "class-id-twice": Code("error", "classes share their id", "give each class its own id"),
    "class-name-twice": Code("warning", "classes share their name", "merge them, or rename one"),
    "object-id-twice": Code("note", "annotations share their id, or have none", "number them; vitdet does so itself"),
    "object-twice": Code("warning", "annotations repeat another: the same image, class and box", "remove the copies"),
    "object-without-image": Code("error", "annotations of images that do not exist", "remove them, or add the images"),
    # boxes
    "box-invalid": Code("error", "boxes are not four finite numbers", "write [left, top, width, height] in pixels"),
    "box-missing": Code("note", "annotations have a mask but no box", "nothing: the box is taken from the mask"),
    "box-empty": Code("warning", "boxes have no width or no height, and are not trained on", "remove or redraw them"),
    "box-outside": Code("error", "boxes lie wholly outside their image", "remove them, or check the image they are of"),
    "box-beyond": Code("warning", "boxes reach beyond their image, and are cut", "check the sizes and the box format"),
    "box-fractions": Code("error", "boxes look like fractions of the image", "multiply them by its width and height"),
    "box-percent": Code("error", "boxes look like percentages of the image", "convert them to pixels"),
    "box-xyxy": Code("error", "boxes look like corners [x1, y1, x2, y2]", "write [left, top, width, height]"),
    "box-centre": Code(
        "error", "boxes look like [centre x, centre y, width, height]", "write [left, top, width, height]"
    ),
    "box-thin": Code("note", "boxes are more than 20 times as long as wide", "check that no side is a mistake"),
    "box-whole-image": Code(
        "note", "boxes cover the whole image", "check that they are no leftover of the labelling tool"
    ),
    # masks
    "mask-broken": Code("error", "masks can't be read", "draw or export them again"),
    "mask-size": Code("error", "masks are of an image of another size", "export them at the size of the image"),
    "mask-empty": Code("warning", "masks have no pixels", "remove or redraw them"),
    "mask-outside": Code("warning", "masks reach beyond their image", "check the size of the image"),
    "mask-box": Code("warning", "masks disagree with their box", "compute the boxes from the masks"),
    "mask-missing": Code(
        "warning", "objects without a mask among objects with one", "draw their masks, or remove them"
    ),
    # flags
    "crowd-invalid": Code("error", "annotations whose iscrowd is neither 0 nor 1", "write 0 or 1"),
    "crowd-all": Code("error", "split whose objects are all crowds, so that none is trained on", "set iscrowd to 0"),
    # classes
    "class-unknown": Code("error", "labels are no class of the list", "add the class, or correct the labels"),
    "class-off-by-one": Code("error", "labels count from another number than the classes", "shift the ids by one"),
    "class-unseen": Code("warning", "classes have no object", "label some, or leave the class out"),
    "class-only-here": Code("warning", "classes have objects in this split but none in train", "move some to train"),
    "class-rare": Code("note", "classes have fewer than 10 objects", "label more, or repeat them: `data.balance`"),
    "class-shift": Code("note", "classes are much rarer or more frequent than in train", "split the images at random"),
    "classes-differ": Code("error", "classes of this split are none of train", "give all splits the same names"),
    # images and objects
    "image-without-objects": Code("note", "images have no object", "check that they are empty, and not unlabelled"),
    "no-objects": Code("error", "split without any object", "check that the labels are of these images"),
    "box-below-patch": Code(
        "note", "boxes are smaller than one patch of the model", "raise `data.size`, or cut the images up"
    ),
    "too-many-objects": Code("warning", "images have more objects than the model has queries", "raise `num_queries`"),
    "image-elongated": Code("note", "images are more than 4 times as long as wide", "cut them up"),
    # label maps, and the PNGs of panoptic segments
    "map-missing": Code("error", "images whose PNG of segments does not exist", "correct the names or the folder"),
    "image-without-map": Code("warning", "images without a label map, which are left out", "add the maps"),
    "map-alone": Code("warning", "label maps without an image", "add the images, or check the suffixes"),
    "map-unreadable": Code("error", "label maps can't be read", "save them as grey or palette PNG"),
    "map-colours": Code(
        "error", "label maps hold colours instead of class numbers", "convert them to one value a pixel"
    ),
    "map-lossy": Code("error", "label maps are JPEGs, whose values are blurred", "save them as PNG"),
    "map-size": Code("error", "label maps of another size than their image", "export them at the size of the image"),
    "map-one-based": Code("error", "split whose label maps count from 1", "set `data.values: [1, 2]` and so on"),
    "map-0-255": Code(
        "error",
        "split whose label maps hold numbers far apart, such as 0 and 255, instead of those of the classes",
        "set `data.values: [0, 255]` or those that it holds",
    ),
    "map-blurred": Code(
        "error",
        "label maps have many values at the edges of classes, as pictures that were resized or compressed",
        "export them again, without interpolation and compression that loses values",
    ),
    "map-value": Code("warning", "label maps have values that are no class, in a few files only", "correct the maps"),
    "map-void": Code("note", "label maps have values that are no class, which are not scored", "nothing, if intended"),
    "map-empty": Code("warning", "label maps without a single pixel of a class", "label them, or remove them"),
    "segment-id-twice": Code("error", "segments share their id within an image", "give each segment its own id"),
    "segment-empty": Code("error", "segments have no pixels in their PNG", "remove them, or export the PNGs again"),
    "segment-unlisted": Code(
        "error", "PNGs with pixels of segments that are not listed", "list them, or set them to 0"
    ),
    "segment-swapped": Code(
        "error",
        "PNGs whose red and blue are swapped, so that no segment has its pixels",
        "write segment ids as R + 256 G + 65536 B; OpenCV has the channels in the order B, G, R",
    ),
    "segment-box": Code("warning", "segments disagree with their box", "compute the boxes from the PNGs"),
}
