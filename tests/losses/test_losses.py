"""Losses against torchvision, hand-computed values and one another."""

import math

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from vitdet.boxes import cxcywh_to_xyxy
from vitdet.losses import Objects, box_losses, classification_loss, set_losses


def test_focal_equals_torchvision():
    logits = torch.randn(20, 5) * 3
    matched, labels = torch.tensor([3, 7, 11]), torch.tensor([0, 4, 2])
    one_hot = torch.zeros_like(logits)
    one_hot[matched, labels] = 1
    ours = classification_loss("focal", logits, matched, labels, torch.rand(3))
    torch.testing.assert_close(ours, sigmoid_focal_loss(logits, one_hot).sum(1))


@pytest.mark.parametrize(
    ("kind", "gamma", "positive"),
    [
        ("mal", 1.5, lambda p, u: -(u**1.5) * math.log(p) - (1 - u**1.5) * math.log(1 - p)),
        ("ia_bce", 2.0, lambda p, u: -(t := p**0.25 * u**0.75) * math.log(p) - (1 - t) * math.log(1 - p)),
    ],
)
def test_iou_aware_losses_by_hand(kind, gamma, positive):
    p, q, u = 0.7, 0.2, 0.6  # scores of an object and of background, IoU of the object's box
    logits = torch.tensor([[p], [q]]).logit()
    loss = classification_loss(kind, logits, torch.tensor([0]), torch.tensor([0]), torch.tensor([u]))
    torch.testing.assert_close(loss, torch.tensor([positive(p, u), -(q**gamma) * math.log(1 - q)]))


@pytest.mark.parametrize("kind", ["focal", "ia_bce", "mal"])
def test_extreme_logits_stay_finite(kind):
    logits = torch.tensor([[-200.0], [200.0], [-200.0], [200.0]], requires_grad=True)
    loss = classification_loss(kind, logits, torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([0.0, 1.0]))
    loss.sum().backward()
    assert loss.isfinite().all() and logits.grad.isfinite().all()


def test_unknown_class_loss_names_the_choices():
    with pytest.raises(ValueError, match="focal, ia_bce, mal"):
        classification_loss("bce", torch.zeros(1, 1), torch.tensor([0]), torch.tensor([0]), torch.ones(1))


def test_box_losses_equal_torchvision():
    a, b = torch.rand(30, 4) + 0.01, torch.rand(30, 4) + 0.01
    l1, giou, _ = box_losses(a, b)
    torch.testing.assert_close(l1, (a - b).abs().sum(1))
    torch.testing.assert_close(
        giou, generalized_box_iou_loss(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)), atol=1e-5, rtol=1e-5
    )


def test_all_layers_in_one_pass_equal_one_layer_at_a_time():
    L, N, K = 3, 12, 4
    logits, boxes = torch.randn(L, N, K), torch.rand(L, N, 4) + 0.01
    truth = Objects(torch.rand(5, 4) + 0.01, torch.randint(K, (5,)))
    where = torch.stack([torch.randperm(N)[:5] for _ in range(L)])
    matched = (where + torch.arange(L)[:, None] * N).flatten()
    objects = torch.arange(5).repeat(L)
    together = set_losses(logits, boxes, matched, objects, truth, torch.tensor(5.0), class_loss="mal")
    for layer in range(L):
        alone = set_losses(
            logits[[layer]], boxes[[layer]], where[layer], torch.arange(5), truth, torch.tensor(5.0), class_loss="mal"
        )
        for name in together:
            torch.testing.assert_close(together[name][layer], alone[name][0])


def test_one_pixel_and_border_boxes_have_finite_gradients():
    boxes = torch.tensor([[1e-8, 1e-8, 1e-8, 1e-8], [1.0, 1.0, 1e-4, 1e-4], [0.5, 0.5, 1.0, 1.0]], requires_grad=True)
    target = torch.tensor([[0.0, 0.0, 1e-3, 1e-3], [1.0, 1.0, 1e-3, 1e-3], [0.5, 0.5, 1.0, 1.0]])
    l1, giou, iou = box_losses(boxes, target)
    (l1 + giou).sum().backward()
    assert boxes.grad.isfinite().all() and iou.isfinite().all()
    assert giou[2].item() == pytest.approx(0, abs=1e-6)
