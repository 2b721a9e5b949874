"""The metric's own duties: checks, ids, several processes, files."""

import json
import multiprocessing
import socket
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from coco_oracle import TWELVE, make_case, predictions, pycocotools

from vitdet.annotations import CocoIndex
from vitdet.metrics import CocoMetric, create_metric, evaluate
from vitdet.structures import Prediction, Target


@pytest.fixture
def case():
    """Three images, several objects and detections."""
    rng = np.random.default_rng(3)
    while True:
        truth, detections = make_case(rng)
        if len(truth["images"]) == 3 and len({d[0] for d in detections}) == 3 and len(truth["annotations"]) > 3:
            return truth, detections


def one(**changes):
    """A prediction of one box in image 5."""
    values = {
        "boxes_xyxy": torch.tensor([[0.0, 0.0, 9.0, 9.0]]),
        "scores": torch.tensor([0.5]),
        "labels": torch.tensor([0]),
        "size": (20, 20),
        "image_id": 5,
    }
    return Prediction(**values | changes)


CONTENT = {
    "images": [{"id": 5}, {"id": 6}],
    "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 5, "category_id": 7, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}],
}


@pytest.fixture
def metric():
    return CocoMetric(CONTENT)


def test_labels_follow_the_ids_of_the_file_or_those_of_the_prediction(metric):
    metric.update([one(labels=torch.tensor([1]))])  # ids ascending: 3 is label 0, 7 is label 1
    assert metric.compute()["AP/dog"] == pytest.approx(1)
    metric.reset()
    metric.update([one(category_ids=[7, 3])])
    assert metric.compute()["AP/dog"] == pytest.approx(1)
    metric.reset()
    metric.update([one(category_ids=[3, 7])])
    assert metric.compute()["AP/dog"] == 0


def test_image_ids_come_from_the_targets_where_given(metric):
    target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), (20, 20), (20, 20), image_id=5)
    metric.update([one(labels=torch.tensor([1]), image_id=0)], [target])
    assert metric.compute()["AP/dog"] == pytest.approx(1)
    with pytest.raises(ValueError, match="got 1 predictions for 2 targets"):
        metric.update([one()], [target, target])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": torch.tensor([float("nan")])}, r"image id 5: 1 of 1 detections are not finite.*score nan"),
        ({"boxes_xyxy": torch.tensor([[0, 0, float("inf"), 1]])}, r"image id 5: .*not finite.*inf"),
        ({"image_id": 99}, r"image id 99 is not in the annotation file"),
        ({"labels": torch.tensor([2])}, r"image id 5: label 2 is no class; wanted 0\.\.1"),
        ({"labels": torch.tensor([-1])}, r"label -1 is no class"),
        ({"category_ids": [8, 3]}, r"image id 5: category id 8 is not in the annotation file, which has \[3, 7\]"),
    ],
)
def test_what_cannot_be_scored_is_an_error(metric, changes, message):
    with pytest.raises(ValueError, match=message):
        metric.update([one(**changes)])


def test_a_category_that_no_detection_uses_may_be_unknown(metric):
    metric.update([one(category_ids=[7, 8])])
    assert metric.compute()["AP/dog"] == pytest.approx(1)


def test_an_image_is_given_once(metric):
    metric.update([one()])
    with pytest.raises(ValueError, match="image id 5 was given twice; call reset"):
        metric.update([one()])
    metric.reset()
    metric.update([one()])


def test_the_protocol_says_what_was_counted(metric, caplog):
    assert "all 2 images, 2 classes, IoU 0.50:0.95, maxDets 1/10/100, hotcoco 1." in metric.protocol()
    metric.update([one()])
    metric.compute()
    assert metric.protocol().endswith("1 images got no prediction and count as missed")
    assert "1 images got no prediction" in caplog.text
    metric = CocoMetric(CONTENT, seen_only=True)
    metric.update([one()])
    metric.compute()
    assert "only the 1 images seen of 2" in metric.protocol() and "missed" not in metric.protocol()
    assert "\n" not in metric.protocol()


def test_low_precision_and_gradients_are_accepted(metric):
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]], dtype=torch.bfloat16, requires_grad=True)
    metric.update([one(boxes_xyxy=boxes, scores=torch.tensor([0.5]).half(), labels=torch.tensor([1]))])
    assert metric.compute()["AP/dog"] == pytest.approx(1)


def test_what_is_saved_scores_the_same(case, tmp_path):
    truth, detections = case
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    metric = CocoMetric(tmp_path / "truth.json")
    made = predictions(truth, detections)
    metric.update(made)
    metric.save(tmp_path / "new" / "predictions.json")
    saved = json.loads((tmp_path / "new" / "predictions.json").read_text())
    assert saved == [row for prediction in made for row in prediction.to_coco()]
    scores, protocol = evaluate(tmp_path / "new" / "predictions.json", tmp_path / "truth.json")
    assert scores == metric.compute() and protocol == metric.protocol()


def test_metrics_by_name(case, tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(case[0]))
    asked = []
    data = SimpleNamespace(index=lambda split: asked.append(split) or CocoIndex.open(tmp_path / "truth.json"))
    assert len(create_metric("boxes", data).truth) == 3
    create_metric("masks", data, split="test")
    assert asked == ["val", "test"]
    with pytest.raises(ValueError, match="no metric for 'boxs'; did you mean 'boxes'"):
        create_metric("boxs", data)


def _process(rank, port, truth, shares, folder):
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(shares))
    metric = CocoMetric(truth)
    metric.update(shares[rank])
    scores = metric.compute()
    metric.save(folder / "predictions.json")
    (folder / f"{rank}.json").write_text(json.dumps([scores, metric.protocol()]))
    dist.destroy_process_group()


def test_processes_count_each_image_once(case, tmp_path):
    truth, detections = case
    made = predictions(truth, detections)
    shares = [made[:2], made[1:], []]  # the second image twice; the third process has nothing
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.set_forkserver_preload(["vitdet.metrics"])  # imports torch once instead of three times
    mp.start_processes(_process, (port, truth, shares, tmp_path), nprocs=3, start_method="forkserver")
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert results[0] == results[1] == results[2]
    scores, protocol = results[0]
    wanted = pycocotools(truth, detections)[2]
    np.testing.assert_allclose([scores[name] for name in TWELVE], wanted, rtol=0, atol=1e-10)
    assert "1 images dropped: another process had them too" in protocol
    assert len(json.loads((tmp_path / "predictions.json").read_text())) == len(detections)
