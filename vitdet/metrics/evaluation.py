"""Ground truth and detections as an evaluator of hotcoco's, which computes what pycocotools does.

hotcoco (MIT) is written in Rust; beside the curves of precision and recall, its `COCOeval` gives confusion matrices,
calibration, TIDE's error types, and the diagnostics of each image. The tests compare its numbers with those of
pycocotools, and with values by hand where pycocotools is wrong.

I is the number of images, D of detections, and K of classes.
"""

from collections.abc import Sequence
from typing import Any

import hotcoco
import numpy as np

from vitdet.errors import check
from vitdet.metrics.ground_truth import GroundTruth

EVALUATOR = f"hotcoco {hotcoco.__version__}"


def evaluator(
    truth: GroundTruth,
    detections: np.ndarray,
    *,
    images: np.ndarray | None = None,
    levels: Sequence[int] = (1, 10, 100),
    masks: Sequence[bytes] | None = None,
) -> hotcoco.COCOeval:
    """An evaluator that has matched detections with the ground truth, and accumulated precision and recall.

    Its image ids are the positions 0..I-1 of the images in `truth`, its category ids are the labels 0..K-1, and its
    annotation ids are positions in `truth` and in `detections`, counted from 1, because pycocotools treats annotation
    id 0 as "unmatched".

    Args:
        truth: the ground truth.
        detections: `(D, 7)`: image 0..I-1, left, top, width, height (in pixels), score, class 0..K-1.
        images: the positions of the images to score, at least one; by default all.
        levels: the numbers of detections of an image and a class that count, ascending; the last one counts for AP.
        masks: the compressed run lengths of each detection, if masks are to be scored instead of boxes.

    Example:
        >>> objects = [{"id": 1, "image_id": 5, "category_id": 3, "bbox": [0, 0, 9, 9], "area": 81}]
        >>> content = {"images": [{"id": 5}], "categories": [{"id": 3, "name": "cat"}], "annotations": objects}
        >>> made = evaluator(GroundTruth.read(content), np.array([[0, 0, 0, 9, 9, 0.8, 0]]))
        >>> made.calibration()["num_detections"]
        1
    """
    coco = as_coco(truth)
    found = coco.load_res(detections) if masks is None else with_masks(truth, coco, detections, masks)
    return match(coco, found, iou_type="bbox" if masks is None else "segm", images=images, levels=levels)


def match(
    coco: hotcoco.COCO,
    found: hotcoco.COCO,
    *,
    iou_type: str = "bbox",
    images: np.ndarray | None = None,
    levels: Sequence[int] = (1, 10, 100),
    area: tuple[float, float] | None = None,
) -> hotcoco.COCOeval:
    """`evaluator` for ground truth and detections that hotcoco holds.

    Args:
        coco, found: the ground truth and the detections.
        iou_type: whether boxes (`bbox`) or masks (`segm`) are scored.
        images: the ids of the images to score, at least one; by default all.
        levels: the numbers of detections of an image and a class that count, ascending.
        area: the only range of areas that counts, in square pixels; by default COCO's four.
    """
    made = hotcoco.COCOeval(coco, found, iou_type)
    if images is not None:
        # hotcoco takes an empty list for "all"
        check("images", len(images), len(images) > 0, "at least one image to score")
        made.params.img_ids = np.asarray(images).tolist()
    made.params.max_dets = list(levels)
    if area is not None:
        made.params.area_rng, made.params.area_rng_lbl = [list(area)], ["all"]
    made.evaluate()
    made.accumulate()
    return made


def as_coco(truth: GroundTruth, *, own_ids: bool = False) -> hotcoco.COCO:
    """Ground truth as hotcoco holds it.

    Args:
        truth: the ground truth.
        own_ids: whether images and classes have the ids of the annotation file, which must not be negative, instead of
            their positions.
    """
    image_ids = truth.image_ids if own_ids else np.arange(len(truth))
    category_ids = np.array(truth.category_ids if own_ids else range(len(truth.names)), dtype=np.int64)
    sizes = zip(image_ids.tolist(), truth.sizes.tolist())
    return hotcoco.COCO.from_arrays(
        [{"id": number, "height": height, "width": width} for number, (height, width) in sizes],
        [{"id": number, "name": name} for number, name in zip(category_ids.tolist(), truth.names)],
        image_ids[truth.image],
        category_ids[truth.label],
        truth.boxes_xywh,
        area=truth.area,
        iscrowd=truth.iscrowd,
        segmentation=[*truth.rles] or None,
    )


def with_masks(truth: GroundTruth, coco: hotcoco.COCO, detections: np.ndarray, masks: Sequence[bytes]) -> hotcoco.COCO:
    sizes = truth.sizes.tolist()
    codes: list[Any] = [
        {"size": sizes[int(i)], "counts": counts} for i, counts in zip(detections[:, 0].tolist(), masks)
    ]
    found = coco.load_res(detections, segmentation=codes)
    if codes:
        # the area of the mask, not of the box, decides whether an unmatched detection is small, medium or large
        found.update_anns(ids=np.arange(len(codes)) + 1, area=np.asarray(hotcoco.mask.area(codes), dtype=np.float64))
    return found
