"""Boxes as distributions of their edges, and which object teaches a query."""

import pytest
import torch

from vitdet.boxes import cxcywh_to_xyxy
from vitdet.heads import DEIMHead
from vitdet.heads.deim.criterion import most_frequent
from vitdet.heads.deim.edges import BINS, boxes_from_edges, distances, distillation_losses, edges_from_boxes
from vitdet.heads.deim.edges import fine_grained_losses as fgl


def test_distances_grow_from_the_middle():
    values = distances()
    assert len(values) == BINS + 1 and values[BINS // 2] == 0 and torch.allclose(values, -values.flip(0))
    steps = values.diff()[BINS // 2 : -1]
    assert (steps.diff() > 0).all() and values[-1] == pytest.approx(4) and values[-2] == pytest.approx(2)


def sure(lower, share):
    """Logits `(M, 4, n)` of the two distances that an edge lies between."""
    p = torch.full((*lower.shape, BINS + 1), 1e-12)
    p.scatter_(-1, lower[..., None], 1 - share[..., None]).scatter_(-1, lower[..., None] + 1, share[..., None])
    return p.clamp(min=1e-12).log()


def test_boxes_are_what_their_edges_say():
    references = torch.tensor([[0.5, 0.5, 0.2, 0.4]]).repeat(50, 1)
    wanted = references + 0.3 * (torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.2
    edges = sure(*edges_from_boxes(wanted, references))
    torch.testing.assert_close(boxes_from_edges(edges, references), wanted, atol=1e-5, rtol=1e-4)
    uniform = torch.zeros(50, 4, BINS + 1)
    torch.testing.assert_close(boxes_from_edges(uniform, references), references)
    ious = torch.ones(1, 50)
    assert fgl(edges[None], references, wanted, ious) < fgl(uniform[None], references, wanted, ious)


def test_a_box_out_of_reach_gets_the_outermost_distance():
    reference = torch.tensor([[0.5, 0.5, 0.01, 0.01]])
    lower, share = edges_from_boxes(torch.tensor([[0.5, 0.5, 1.0, 1.0]]), reference)
    assert (lower == BINS - 1).all() and (share == 1).all()
    lower, share = edges_from_boxes(torch.tensor([[0.9, 0.5, 0.01, 0.01]]), reference)
    assert (lower[0, 0], share[0, 0]) == (0, 0)
    low, high = cxcywh_to_xyxy(boxes_from_edges(sure(lower, share), reference)).split(2, dim=1)
    assert low[0, 0] > 0.5 and high[0, 0] > low[0, 0]


def test_a_layer_like_the_last_has_nothing_to_learn():
    last, scores, matched = torch.randn(1, 6, 4, BINS + 1), torch.rand(6), torch.tensor([1, 4])
    edges = torch.cat([last, torch.randn_like(last), last])
    losses = distillation_losses(edges, scores, matched, torch.rand(3, 2))
    assert losses[0].abs() < 1e-5 and losses[1] > 0
    assert distillation_losses(edges[:, :0], scores[:0], matched[:0], torch.rand(3, 0)).tolist() == [0, 0]


def test_each_query_once_with_its_most_frequent_object():
    queries, objects = torch.tensor([7, 3, 7, 3, 7, 0]), torch.tensor([2, 1, 4, 0, 4, 5])
    found = most_frequent(queries, objects)
    assert [one.tolist() for one in found] == [[0, 3, 7], [5, 0, 4]]
    assert [len(one) for one in most_frequent(queries[:0], objects[:0])] == [0, 0]


def test_one_layer_is_enough(make_features, make_targets):
    head = DEIMHead([32, 32], [8, 16], 3, dim=32, num_queries=12, num_layers=1, num_heads=4, ffn_dim=32)
    sizes = [(64, 96), (40, 50)]
    targets = make_targets(sizes, [3, 1])
    losses = head.loss(head(make_features(sizes), targets), targets)
    head.total(losses).backward()
    assert losses["aux_ddf"] == 0 and all(p.grad is not None for p in head.parameters())
