"""Packed deformable sampling against grid_sample, and the anchors' geometry."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torchvision.ops import nms

from vitdet.boxes import cxcywh_to_xyxy
from vitdet.heads.layers import shift_boxes
from vitdet.heads.queries.deformable import DeformableAttention, Memory, _WeightedSum, sample
from vitdet.heads.queries.selection import QuerySelection, Selection, anchors, image_tokens, tokens_inside
from vitdet.structures import Features, Level


def _by_grid_sample(value, features, images, locations, weights):
    """The usual implementation, one image and level at a time."""
    Q, A = weights.shape[:2]
    out = torch.zeros(Q, A, value.shape[-1])
    offset = 0
    for index, level in enumerate(features):
        for image, (h, w) in enumerate(level.grids):
            table = value[offset : offset + h * w].permute(1, 2, 0).unflatten(2, (h, w))  # (h*w, A, D) -> (A, D, h, w)
            offset += h * w
            mine = images == image
            height, width = features.sizes[image]
            covered = torch.tensor([width / (w * level.stride), height / (h * level.stride)])
            at = locations[mine, :, index].transpose(0, 1) * covered * 2 - 1  # (A, q, points, 2)
            got = F.grid_sample(
                table, at, mode="bilinear", padding_mode="zeros", align_corners=False
            )  # (A, D, q, points)
            out[mine] += (got * weights[mine, :, index].transpose(0, 1).unsqueeze(1)).sum(-1).permute(2, 0, 1)
    return out.flatten(1)


def test_ragged_maps_equal_grid_sample_forward_and_backward(make_features):
    features = make_features([(70, 100), (33, 128), (16, 16)], channels=8)
    N, A, D, Q, P = sum(len(level.x) for level in features), 2, 4, 25, 3
    value = torch.randn(N, A, D, requires_grad=True)
    images = torch.randint(3, (Q,))
    locations = (torch.rand(Q, A, 2, P, 2) * 1.4 - 0.2).requires_grad_()  # some points fall outside
    weights = torch.rand(Q, A, 2, P, requires_grad=True)
    inputs = (value, locations, weights)
    levels = torch.tensor([0] * P + [1] * P)
    ours = sample(value, Memory(value, features), images, levels, locations.flatten(2, 3), weights.flatten(2))
    theirs = _by_grid_sample(value, features, images, locations, weights)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    upstream = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream)):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_weighted_sum_gradient():
    table = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    index = torch.randint(6, (4, 5))  # row 6 is never used
    assert gradcheck(_WeightedSum.apply, (table, index, weights))


def test_levels_may_have_points_of_their_own(make_features):
    """As many everywhere is the special case; points of weight 0 are as good as none."""
    features = make_features([(64, 48)], channels=16)
    x = torch.cat([level.x for level in features])
    few, many = (DeformableAttention(16, num_levels=2, num_heads=2, num_points=n, projected=False) for n in ([3, 1], 3))
    assert few(x[:1], torch.rand(1, 4), torch.zeros(1, dtype=torch.long), Memory(x, features)).shape == (1, 16)
    q, boxes, images = torch.randn(5, 16), torch.rand(5, 4), torch.zeros(5, dtype=torch.long)
    with torch.no_grad():
        few.offsets.weight.normal_(0, 0.1), few.weights.weight.normal_()
        used = torch.tensor([0, 1, 2, 3, 6, 7, 8, 9])  # of 2 heads with 3 + 3 points each, the first 3 + 1
        many.weights.bias.fill_(-1e4)
        many.weights.weight[used], many.weights.bias[used] = few.weights.weight, few.weights.bias
        scale = torch.tensor([1.0, 1.0, 1.0, 3.0] * 2)[
            :, None, None
        ]  # in units of a box's size over the number of points
        for name in ("weight", "bias"):
            theirs, ours = getattr(many.offsets, name).view(12, 2, -1), getattr(few.offsets, name).view(8, 2, -1)
            theirs[used] = scale * ours
        found = few(q, boxes, images, Memory(x, features))
    torch.testing.assert_close(found, many(q, boxes, images, Memory(x, features)), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="there are 3 levels"):
        DeformableAttention(16, num_levels=3, num_heads=8, num_points=[3, 1])


def test_no_queries(make_features):
    features = make_features([(32, 32)], channels=16)
    attention = DeformableAttention(16, num_levels=2, num_heads=2, num_points=4)
    x = torch.cat([level.x for level in features])
    out = attention(torch.zeros(0, 16), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), Memory(x, features))
    out.sum().backward()
    assert out.shape == (0, 16) and attention.value.weight.grad is not None


def test_anchors_are_centred_on_tokens_and_have_a_size_in_pixels(make_features):
    features = make_features([(48, 80), (20, 32)], strides=(16,))
    boxes, images = anchors(features, device="cpu", scale=4.0, fraction=None)
    assert images.tolist() == [0] * 15 + [1] * 4
    width, height = 80, 48
    pixels = boxes[7] * torch.tensor([width, height, width, height])  # row 1, column 2
    torch.testing.assert_close(pixels, torch.tensor([40.0, 24.0, 64.0, 64.0]))
    torch.testing.assert_close(boxes[-1] * torch.tensor([32, 20, 32, 20]), torch.tensor([24.0, 24.0, 64.0, 64.0]))


def test_queries_start_from_proposals_that_do_not_overlap(make_features):
    selection = QuerySelection(32, 3, num_queries=6, options=Selection()).eval()
    group = selection.groups[0]
    torch.nn.init.normal_(group.classify.weight)
    features = make_features([(96, 96), (64, 64)])
    x = torch.cat([level.x for level in features])
    boxes, images = anchors(features, "cpu", scale=4.0, fraction=None)
    proposals = selection(x, features)
    scores = group.classify(group.project(x)).amax(-1)
    for b in range(2):
        mine = images == b
        order = scores[mine].argsort(descending=True)[: 3 * 6]
        corners = cxcywh_to_xyxy(shift_boxes(boxes[mine][order], group.box(group.project(x)[mine][order])))
        kept = nms(corners, scores[mine][order], 0.7)[:6]
        found = cxcywh_to_xyxy(proposals.boxes_cxcywh[b, 0])
        torch.testing.assert_close(found[: len(kept)], corners[kept], atol=1e-6, rtol=1e-5)
        best = scores[mine].max()
        assert proposals.logits[b].amax().item() == pytest.approx(best.item(), abs=1e-5)


@given(st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=3))
def test_tokens_of_each_image_and_those_inside_of_it(sizes):
    levels = []
    for stride in (8, 16, 32):
        grids = [(max(1, -(-h // 16) * 16 // stride), max(1, -(-w // 16) * 16 // stride)) for h, w in sizes]
        levels.append(Level(torch.zeros(sum(h * w for h, w in grids), 1), grids, stride))
    features = Features(levels, sizes)
    boxes, images = anchors(features, "cpu", scale=4.0, fraction=None)
    for i, (mine, inside) in enumerate(zip(image_tokens(features, "cpu"), tokens_inside(features))):
        assert torch.equal(mine, (images == i).nonzero().squeeze(1))
        assert inside == max(1, (boxes[mine, :2] <= 1 + 1e-6).all(-1).sum().item())
