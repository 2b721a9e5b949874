"""Mean IoU by hand, and against scikit-style counting with numpy."""

import numpy as np
import pytest
import torch

from vitdet.metrics import SemanticMetric
from vitdet.structures import Prediction


def prediction(labels, image_id=0):
    empty = torch.zeros(0)
    return Prediction(
        empty.view(0, 4), empty, empty.long(), size=labels.shape, image_id=image_id, semantic=torch.from_numpy(labels)
    )


def test_by_hand():
    truth = np.array([[0, 0, 1, 255], [1, 1, 1, 255]], np.uint8)
    found = np.array([[0, 1, 1, 3], [1, 1, 3, 3]], np.uint8)
    metric = SemanticMetric(lambda i: truth, ["a", "b", "never", "only found"], total=1)
    metric.update([prediction(found)])
    scores = metric.compute()
    assert scores["IoU/a"] == 1 / 2 and scores["IoU/b"] == 3 / 5
    assert scores["IoU/never"] == -1 and scores["IoU/only found"] == 0
    assert scores["mIoU"] == pytest.approx((1 / 2 + 3 / 5 + 0) / 3)  # a class that never occurs is not averaged
    assert scores["pixel_accuracy"] == 4 / 6 and scores["mean_accuracy"] == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert "all 1 images" in metric.protocol()


def test_many_images_add_up_their_pixels():
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 5, (rng.integers(3, 9), 7)).astype(np.uint8) for _ in range(20)]
    found = [np.where(rng.random(m.shape) < 0.6, m, rng.integers(0, 5, m.shape)).astype(np.uint8) for m in maps]
    metric = SemanticMetric(lambda i: maps[i], list("abcde"), total=20)
    metric.update([prediction(f, i) for i, f in enumerate(found)])
    a, b = np.concatenate([m.ravel() for m in maps]), np.concatenate([f.ravel() for f in found])
    wanted = [((a == k) & (b == k)).sum() / ((a == k) | (b == k)).sum() for k in range(5)]
    scores = metric.compute()
    np.testing.assert_allclose([scores[f"IoU/{n}"] for n in "abcde"], wanted)


def test_mistakes_are_named():
    metric = SemanticMetric(lambda i: np.zeros((2, 3), np.uint8), ["a"], total=1)
    with pytest.raises(ValueError, match=r"image id 7: got a map of \(3, 2\)"):
        metric.update([prediction(np.zeros((3, 2), np.uint8), 7)])
    metric.update([prediction(np.zeros((2, 3), np.uint8), 7)])
    with pytest.raises(ValueError, match="twice"):
        metric.update([prediction(np.zeros((2, 3), np.uint8), 7)])
