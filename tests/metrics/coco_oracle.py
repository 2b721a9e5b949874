"""pycocotools as the reference, and generated cases to hold it against.

A case is the content of an annotation file and a list of detections `(image id, category id, [left, top, width,
height], score)`.
"""

import contextlib
import io

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vitdet.structures import Prediction

TWELVE = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
SIDES = np.array([4, 8, 16, 31.75, 32, 32.25, 48, 64, 95.75, 96, 96.25, 128])  # 32² and 96² are where the areas meet


def pycocotools(truth, detections, *, images=None, max_dets=(1, 10, 100)):
    """Precision, recall, and the twelve numbers; the inputs that pycocotools stumbles over must not be among these."""
    with contextlib.redirect_stdout(io.StringIO()):
        handles = []
        for annotations in (truth["annotations"], _rows(detections)):
            handle = COCO()
            handle.dataset = {**truth, "annotations": [dict(a) for a in annotations]}
            handle.createIndex()
            handles.append(handle)
        evaluator = COCOeval(*handles, "bbox")
        evaluator.params.maxDets = list(max_dets)
        if images is not None:
            evaluator.params.imgIds = list(images)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.eval["precision"], evaluator.eval["recall"], evaluator.stats


def _rows(detections):
    rows = []
    for number, (image, category, box, score) in enumerate(detections, start=1):
        one = {"id": number, "image_id": image, "category_id": category, "bbox": list(box), "score": score}
        rows.append(one | {"area": box[2] * box[3], "iscrowd": 0})  # what loadRes fills in
    return rows


def make_case(rng, *, crowded=False, sides=SIDES, count=None):
    """A small random case: ties in score, crowds, areas on the limits, empty images, sparse ids in any order.

    It has `count` images, by default 1 to 3.
    """
    images = rng.choice(60, rng.integers(1, 4) if count is None else count, replace=False).tolist()
    categories = rng.choice(40, rng.integers(1, 4), replace=False).tolist()  # 0 among them now and then
    annotations, detections = [], []
    per_image = 120 if crowded else 5
    for image in images:
        for _ in range(rng.integers(0, 5) if rng.random() < 0.8 else 0):
            box = _box(rng, sides)
            area = box[2] * box[3] if rng.random() < 0.7 else float(rng.choice([1024.0, 9216.0, 500.5]))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(rng.choice(categories)),
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(rng.random() < 0.2),
                }
            )
        near = [a for a in annotations if a["image_id"] == image]
        for _ in range(rng.integers(0, per_image + 1) if rng.random() < 0.85 else 0):
            box, category = _box(rng, sides), int(rng.choice(categories))
            if near and rng.random() < 0.7:  # near an object, on a grid of quarters so that IoUs tie too
                one = near[rng.integers(len(near))]
                box, category = (np.array(one["bbox"]) + rng.integers(-8, 9, 4) / 4).tolist(), one["category_id"]
            detections.append((image, category, box, float(rng.integers(0, 9)) / 8))
    rng.shuffle(annotations)
    if rng.random() < 0.05:
        detections = []
    truth = {"images": [{"id": i} for i in images], "categories": [{"id": c, "name": f"c{c}"} for c in categories]}
    return truth | {"annotations": annotations}, detections


def _box(rng, sides):
    return [*(rng.integers(0, 200, 2) / 4).tolist(), *rng.choice(sides, 2).tolist()]


def predictions(truth, detections, *, images=None):
    """The detections as a model would give them: one `Prediction` for each image of the file, or of `images`."""
    category_ids = sorted(c["id"] for c in truth["categories"])
    made = []
    for image in [i["id"] for i in truth["images"]] if images is None else images:
        mine = [d for d in detections if d[0] == image]
        boxes = torch.tensor([d[2] for d in mine], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]  # width, height -> right, bottom
        made.append(
            Prediction(
                boxes_xyxy=boxes,
                scores=torch.tensor([d[3] for d in mine], dtype=torch.float64),
                labels=torch.tensor([category_ids.index(d[1]) for d in mine], dtype=torch.int64),
                size=(300, 300),
                category_ids=category_ids,
                image_id=image,
            )
        )
    return made
