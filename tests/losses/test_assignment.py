"""Matching against brute force; one-to-many assignment against its definition."""

import itertools
import logging

import pytest
import torch
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss

from vitdet.boxes import cxcywh_to_xyxy, pairwise_iou
from vitdet.losses import assign_aligned, match
from vitdet.losses.assign import _warn_too_many
from vitdet.structures import Target

SIZE = (64, 64)


def _target(count, num_classes=3):
    return Target(torch.rand(count, 4) * 0.5 + 0.1, torch.randint(num_classes, (count,)), SIZE, SIZE)


def _cost(logits, boxes, target):
    """The cost of DETR with focal classification, written the long way."""
    cost = torch.zeros(len(logits), len(target.labels))
    for q, t in itertools.product(range(len(logits)), range(len(target.labels))):
        z = logits[q, target.labels[t]]
        yes = sigmoid_focal_loss(z, torch.ones(()), alpha=0.25, gamma=2)
        no = sigmoid_focal_loss(z, torch.zeros(()), alpha=0.25, gamma=2)
        giou = generalized_box_iou(cxcywh_to_xyxy(boxes[[q]]), cxcywh_to_xyxy(target.boxes_cxcywh[[t]]))[0, 0]
        cost[q, t] = 2 * (yes - no) + 5 * (boxes[q] - target.boxes_cxcywh[t]).abs().sum() - 2 * giou
    return cost


def test_each_layer_group_and_image_is_matched_at_the_least_cost():
    L, B, G, Q, K = 2, 3, 2, 5, 3
    logits, boxes = torch.randn(L, B, G, Q, K), torch.rand(L, B, G, Q, 4) * 0.5 + 0.1
    targets = [_target(3), _target(0), _target(2)]
    queries, objects = match(logits, boxes, targets)
    assert len(queries) == L * G * (3 + 0 + 2)
    first = [0, 3, 3]
    for layer, b, g in itertools.product(range(L), range(B), range(G)):
        start = ((layer * B + b) * G + g) * Q
        mine = (queries >= start) & (queries < start + Q)
        cost = _cost(logits[layer, b, g], boxes[layer, b, g], targets[b])
        T = cost.shape[1]
        least = min(sum(cost[q, t] for t, q in enumerate(p)) for p in itertools.permutations(range(Q), T)) if T else 0
        found = cost[queries[mine] - start, objects[mine] - first[b]].sum()
        assert float(found) == pytest.approx(float(least), abs=1e-5)
        assert sorted((objects[mine] - first[b]).tolist()) == list(range(T))


def test_no_objects_at_all():
    queries, objects = match(torch.randn(1, 2, 1, 4, 3), torch.rand(1, 2, 1, 4, 4), [_target(0), _target(0)])
    assert queries.shape == objects.shape == (0,) and queries.dtype == torch.long


def test_more_objects_than_queries_warns_once_and_matches_all_queries(caplog):
    _warn_too_many.cache_clear()
    with caplog.at_level(logging.WARNING, logger="vitdet"):
        for _ in range(2):
            queries, _ = match(torch.randn(1, 1, 1, 4, 3), torch.rand(1, 1, 1, 4, 4) + 0.1, [_target(7)])
    assert sorted(queries.tolist()) == [0, 1, 2, 3]
    assert len(caplog.records) == 1 and "num_queries=4" in caplog.text


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_predictions_that_are_not_finite_are_matched_last(value):
    boxes = torch.rand(1, 1, 1, 4, 4) + 0.1
    boxes[0, 0, 0, 2, 1] = value
    logits = torch.randn(1, 1, 1, 4, 3)
    queries, objects = match(logits, boxes, [_target(2)])
    rest = [0, 1, 3]
    expected, _ = match(logits[..., rest, :], boxes[..., rest, :], [_target(2)])
    assert sorted(objects.tolist()) == [0, 1] and set(queries.tolist()) == {rest[i] for i in expected}
    everywhere = match(torch.full_like(logits, value), torch.full_like(boxes, value), [_target(2)])
    assert sorted(everywhere[1].tolist()) == [0, 1]


def test_aligned_tokens_lie_inside_and_are_the_best():
    ys, xs = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    centres = (torch.stack([xs, ys], -1).flatten(0, 1) + 0.5) / 8
    boxes = torch.cat([centres, torch.rand(64, 2) * 0.3 + 0.1], 1)
    logits = torch.randn(64, 3)
    truth = torch.tensor([[0.3, 0.3, 0.4, 0.4], [0.75, 0.75, 0.3, 0.3], [0.51, 0.02, 0.01, 0.01]])
    labels = torch.tensor([0, 2, 1])
    tokens, owner = assign_aligned(logits, boxes, centres, labels, truth, topk=4)
    xyxy = cxcywh_to_xyxy(truth)
    ious = pairwise_iou(cxcywh_to_xyxy(boxes), xyxy)
    for t in (0, 1):
        inside = ((centres > xyxy[t, :2]) & (centres < xyxy[t, 2:])).all(1)
        score = logits[:, labels[t]].sigmoid() ** 0.5 * ious[:, t] ** 4
        best = score.masked_fill(~inside, -1).topk(4).indices
        assert set(tokens[owner == t].tolist()) == set(best.tolist())
    nearest = (centres - truth[2, :2]).norm(dim=1).argmin()
    assert tokens[owner == 2].tolist() == [nearest]  # covers no centre: the nearest token is its own
    assert len(set(tokens.tolist())) == len(tokens)


def test_no_object_no_assignment():
    tokens, owner = assign_aligned(
        torch.zeros(4, 2), torch.rand(4, 4), torch.rand(4, 2), torch.zeros(0).long(), torch.zeros(0, 4)
    )
    assert len(tokens) == len(owner) == 0
