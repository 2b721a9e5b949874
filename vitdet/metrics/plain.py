"""Large results files of boxes, which hotcoco reads several times faster than Python does, in a sixth of its memory.

A file is plain if its items hold numbers only, under `image_id`, `category_id`, `bbox` and `score`. hotcoco itself
refuses items without an id, values of a wrong type and boxes that are not four numbers; what it lets pass is looked for
here. Whatever is not plain, or has a fault, is left to the reader that names the fault, `vitdet.metrics.results`.
"""

from pathlib import Path

import hotcoco
import numpy as np

from vitdet.metrics.ground_truth import GroundTruth

# none of the letters of the four keys, but in `null`, in `segmentation` and in `file_name`; and escapes
FOREIGN = (b"n", b"\\")
SCORE = b'"score":'
BLOCK = 1 << 18
# how many boxes are looked at for a format that is not COCO's
SAMPLE = 1000


def is_plain(path: str | Path) -> int:
    """The number of items of a results file that may be plain, by its bytes; 0 if it is not."""
    items, scores, tail, space = 0, 0, b"", bytearray(BLOCK)
    with open(path, "rb", buffering=0) as file:
        while length := file.readinto(space):
            block = space if length == BLOCK else space[:length]
            if any(word in block for word in FOREIGN):
                return 0
            items += np.count_nonzero(np.frombuffer(block, np.uint8) == ord("{"))
            # a key may begin in one block and end in the next
            scores += block.count(SCORE) + (tail + block[: len(SCORE) - 1]).count(SCORE)
            tail = block[1 - len(SCORE) :]
    # As many objects as scores, so no object lies within another, and each has one: hotcoco refuses an object in which
    # a key occurs twice.
    return int(items) if items == scores else 0


def read_plain(path: str | Path, count: int, coco: hotcoco.COCO) -> tuple[hotcoco.COCO, int] | None:
    """The detections of a plain results file, and the number of images without any; none where the file has a fault, or
    a box of a negative size.

    Args:
        path: the results file.
        count: the number of its items, by `is_plain`.
        coco: the ground truth, with the ids of the annotation file.
    """
    try:
        found = coco.load_res(str(path))
    except (ValueError, KeyError, TypeError, OSError):
        return None
    # a warning tells of ids that the annotation file does not have
    if found.load_warnings:
        return None
    # an item without a box has no area, and the area is negative if one of the sides is
    counts = [len(found.get_ann_ids(img_ids=number, area_rng=[0, np.inf])) for number in coco.get_img_ids()]
    return (found, counts.count(0)) if sum(counts) == count else None


def is_odd(found: hotcoco.COCO, count: int, truth: GroundTruth) -> bool:
    """Whether `odd_boxes` may have something to say about boxes, so that it must see all of them."""
    rows = found.load_anns(np.unique(np.linspace(1, count, min(count, SAMPLE)).astype(int)).tolist())
    place = {number: i for i, number in enumerate(truth.image_ids.tolist())}
    boxes = np.array([row["bbox"] for row in rows])
    sizes = truth.sizes[[place[row["image_id"]] for row in rows]]
    # what is said of a tenth of all boxes is seen in a twentieth of a sample of these
    return bool((boxes[:, 2:] < 0).any() or within_a_pixel(boxes).all() or beyond(boxes, sizes).mean() > 0.05)


def beyond(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which boxes `(N, 4)` end outside their images of sizes `(N, 2)`, height and width, 0 where not known: bool."""
    # with a tolerance, because boxes of detectors may reach a little beyond the border
    return np.asarray((sizes > 0).all(1) & (boxes[:, :2] + boxes[:, 2:] > 1.1 * sizes[:, ::-1]).any(1))


def within_a_pixel(boxes: np.ndarray) -> np.ndarray:
    """Which boxes `(N, 4)` end within the first pixel, `(N,)` bool."""
    return np.asarray((boxes[:, :2] + boxes[:, 2:] <= 1).all(1))


def odd_boxes(boxes: np.ndarray, sizes: np.ndarray) -> dict[str, int]:
    """Notes on detections that look like boxes in another format.

    Args:
        boxes: `(D, 4)`, left, top, width and height in pixels.
        sizes: `(D, 2)`, the height and width of their images, 0 where they are not known.
    """
    outside = beyond(boxes, sizes)
    notes = {
        "boxes of a negative width or height: is each left, top, width, height?": (boxes[:, 2:] < 0).any(1).sum(),
        "boxes end outside their image: is each left, top, width, height, not right and bottom?": outside.sum()
        if outside.mean() > 0.1
        else 0,
        "boxes, all, end within the first pixel: are they in pixels, not fractions?": len(boxes)
        if within_a_pixel(boxes).all()
        else 0,
    }
    return {reason: int(count) for reason, count in notes.items() if count}
