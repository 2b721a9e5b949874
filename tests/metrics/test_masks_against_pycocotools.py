"""Mask AP is that of pycocotools on generated cases, crowds and empty masks among them."""

import contextlib
import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vitdet.metrics import CocoMetric
from vitdet.structures import Prediction

SIZE = (40, 50)
TWELVE = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def random_mask(rng, near=None):
    if near is not None:
        mask = np.roll(near, rng.integers(-3, 4, 2), axis=(0, 1))
        return mask & (rng.random(SIZE) > 0.05 * rng.integers(3))
    y, x, h, w = rng.integers(0, 30), rng.integers(0, 35), rng.integers(1, 40), rng.integers(1, 40)
    mask = np.zeros(SIZE, bool)
    mask[y : y + h, x : x + w] = True
    return mask


def encoded(mask):
    code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(SIZE), "counts": code["counts"].decode()}


def make_case(rng, images=(3, 8, 1)):
    annotations, found = [], []
    for image in images:
        masks = [random_mask(rng) for _ in range(rng.integers(0, 5))]
        for mask in masks:
            code = encoded(mask)
            box = rle.toBbox(code).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(rng.choice([2, 5])),
                    "bbox": box,
                    "area": float(rle.area(code)),
                    "iscrowd": int(rng.random() < 0.2),
                    "segmentation": code,
                }
            )
        for _ in range(rng.integers(0, 7)):
            near = masks[rng.integers(len(masks))] if masks and rng.random() < 0.8 else None
            found.append((image, int(rng.choice([2, 5])), random_mask(rng, near), float(rng.integers(1, 9)) / 8))
    truth = {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in images],
        "categories": [{"id": 2, "name": "a"}, {"id": 5, "name": "b"}],
        "annotations": annotations,
    }
    return truth, found


def pycocotools(truth, found):
    rows = [
        {"image_id": i, "category_id": c, "segmentation": encoded(m), "score": s, "id": n}
        for n, (i, c, m, s) in enumerate(found, start=1)
    ]
    for row in rows:
        row.update(area=float(rle.area(row["segmentation"])), iscrowd=0, bbox=rle.toBbox(row["segmentation"]).tolist())
    with contextlib.redirect_stdout(io.StringIO()):
        handles = []
        for annotations in (truth["annotations"], rows):
            handle = COCO()
            handle.dataset = {**truth, "annotations": [dict(a) for a in annotations]}
            handle.createIndex()
            handles.append(handle)
        evaluator = COCOeval(*handles, "segm")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats


def predictions(truth, found):
    for image in [i["id"] for i in truth["images"]]:
        mine = [f for f in found if f[0] == image]
        masks = torch.from_numpy(np.stack([f[2] for f in mine])) if mine else torch.zeros(0, *SIZE, dtype=torch.bool)
        yield Prediction(
            torch.zeros(len(mine), 4),
            torch.tensor([f[3] for f in mine], dtype=torch.float64),
            torch.tensor([[2, 5].index(f[1]) for f in mine], dtype=torch.int64),
            size=SIZE,
            category_ids=[2, 5],
            image_id=image,
            masks=masks,
        )


def test_equal_on_generated_cases():
    rng = np.random.default_rng(0)
    aps = []
    for _ in range(300):
        truth, found = make_case(rng)
        metric = CocoMetric(truth, iou_type="segm")
        metric.update(list(predictions(truth, found)))
        scores = metric.compute()
        np.testing.assert_allclose([scores[name] for name in TWELVE], pycocotools(truth, found), rtol=0, atol=1e-10)
        aps.append(scores["AP"])
    assert sum(0 < ap < 1 for ap in aps) > 150


def test_the_saved_file_gives_the_same_score(tmp_path):
    truth, found = make_case(np.random.default_rng(4))
    metric = CocoMetric(truth, iou_type="segm")
    metric.update(list(predictions(truth, found)))
    metric.save(tmp_path / "results.json")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), "segm")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    assert evaluator.stats[0] == pytest.approx(metric.compute()["AP"], abs=1e-10)
    assert "COCO mask AP" in metric.protocol()


def test_masks_of_another_size_are_an_error():
    truth, found = make_case(np.random.default_rng(4))
    one = next(p for p in predictions(truth, found) if len(p))
    one.masks = one.masks[:, :5]
    with pytest.raises(ValueError, match=f"image id {one.image_id}: masks are"):
        CocoMetric(truth, iou_type="segm").update([one])


def test_an_annotation_without_a_mask_is_left_out_and_counted():
    truth, _ = make_case(np.random.default_rng(4))
    del truth["annotations"][0]["segmentation"]
    metric = CocoMetric(truth, iou_type="segm")
    metric.compute()
    assert "1 annotations left out: no segmentation" in metric.protocol()


PEAK = """
import resource, sys, torch
from vitdet.metrics import CocoMetric
from vitdet.structures import Prediction
images = [{"id": i, "height": 480, "width": 640} for i in range(40)]
truth = {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": []}
metric, peaks = CocoMetric(truth, iou_type="segm"), []
for i in range(40):
    masks = torch.zeros(40, 480, 640, dtype=torch.bool)
    masks[:, i : 300 + i, 100:400] = True
    box = torch.tensor([[0.0, 0.0, 9.0, 9.0]]).expand(40, 4)
    metric.update([Prediction(box, torch.rand(40), torch.zeros(40).long(), size=(480, 640), image_id=i, masks=masks)])
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
print(peaks[-1] - peaks[4])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images():
    """12 MB of masks an image are not kept, nor do their leftovers split the heap."""
    run = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 60, f"35 images took {run.stdout} MB"
