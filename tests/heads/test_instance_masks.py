"""From pixel features and queries to masks, and from masks to predictions."""

import torch

from vitdet.heads.masks.inference import MaskRules, class_scores, instances, mask_boxes, panoptic, semantic
from vitdet.heads.masks.pixels import PixelBranch, full_size
from vitdet.losses.points import extents, important_points, mask_costs, mask_losses, mask_points, sample_points


def test_points_give_the_logits_of_the_whole_mask():
    """Sampling features and then multiplying is multiplying and then sampling."""
    pixels, embeddings, points = torch.randn(8, 6, 9), torch.randn(5, 8), torch.rand(40, 2)
    masks = torch.einsum("qc,chw->qhw", embeddings, pixels)
    torch.testing.assert_close(
        embeddings @ sample_points(pixels, points), sample_points(masks, points), atol=1e-5, rtol=1e-5
    )


def test_full_size_is_interpolate_where_the_image_fills_its_map():
    maps = torch.randn(3, 5, 7)
    wanted = torch.nn.functional.interpolate(maps[None], size=(23, 31), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(full_size(maps, (23, 31), (1.0, 1.0)), wanted, atol=1e-5, rtol=1e-5)


def test_padding_is_not_part_of_the_mask(make_features):
    """A map that says the x of each pixel, in an image narrower than its grid, gives the x of each pixel."""
    features = make_features([(40, 50)])  # 3 × 4 patches of 16: 64 wide
    level = PixelBranch(32, 8, 4)(features)
    (h, w) = level.grids[0]
    ramp = ((torch.arange(w) + 0.5) * level.stride).expand(1, h, w)
    (extent,) = extents(level, features.sizes)
    out = full_size(ramp, (40, 50), extent)[0]
    torch.testing.assert_close(out[:, 2:-2], (torch.arange(50) + 0.5).expand(40, 50)[:, 2:-2], atol=1e-3, rtol=0)


def test_costs_are_the_losses_of_every_pair():
    logits, truth = torch.randn(5, 30) * 3, (torch.rand(4, 30) > 0.5).float()
    bce, dice = mask_costs(logits, truth)
    for t in range(4):
        one = mask_losses(logits, truth[t].expand(5, -1))
        torch.testing.assert_close(bce[:, t], one[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(dice[:, t], one[1], atol=1e-5, rtol=1e-5)


def test_important_points_are_the_uncertain_ones():
    logits = torch.randn(3, 90)
    chosen = important_points(logits, 40)
    assert chosen.shape == (3, 40) and all(len(set(row.tolist())) == 40 for row in chosen)
    uncertain = logits.gather(1, chosen[:, 10:]).abs().amax(1)
    left_out = torch.ones_like(logits).scatter(1, chosen, 0).bool()
    assert all(uncertain[i] <= logits[i][left_out[i]].abs().min() for i in range(3))


def test_small_objects_get_as_many_points_as_large_ones():
    boxes = torch.tensor([[0.5, 0.5, 0.9, 0.9], [0.1, 0.1, 0.02, 0.02], [1.0, 1.0, 0.1, 0.1], [0.3, 0.8, 0.0, 0.0]])
    points = mask_points(6000, boxes)
    assert points.shape == (6000, 2) and (points >= 0).all() and (points < 1).all()
    around = (points[:, None] - boxes[:, :2]).abs() <= 0.75 * boxes[:, 2:] + 1e-6  # (P, T, 2)
    anywhere, near = around.all(-1)[::2], around.all(-1)[1::2]
    assert near.any(1).all()
    for k in (1, 2, 3):  # a quarter of the half belongs to each
        assert 600 < near[:, k].sum() < 900 and anywhere[:, k].sum() < 100
    assert mask_points(11, boxes).shape == mask_points(11, boxes[:0]).shape == (11, 2)


def test_inference_by_hand():
    inf = 20.0
    masks = torch.full((3, 2, 4), -inf)
    masks[0, :, :2], masks[1, :, 2:], masks[2, 0, :] = inf, inf, inf  # left half, right half, top row
    scores = torch.tensor([[0.9, 0.0], [0.0, 0.8], [0.6, 0.0]])
    take = lambda rows: masks[rows]  # noqa: E731
    things = torch.tensor([True, False])
    found = panoptic(scores, take, (2, 4), things, MaskRules())
    assert found.panoptic.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]  # the top row wins nothing, so it is dropped
    assert found.labels.tolist() == [0, 1] and found.boxes_xyxy.tolist() == [[0, 0, 2, 2], [2, 0, 4, 2]]
    assert semantic(class_scores(scores, take, (2, 4)), (2, 4)).semantic.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]
    best = instances(scores, take, (2, 4), 2)
    assert best.labels.tolist() == [0, 1] and torch.equal(best.masks, masks[:2] > 0)
    both = panoptic(torch.tensor([[0.0, 0.9], [0.0, 0.8], [0.1, 0.0]]), take, (2, 4), things, MaskRules())
    assert both.panoptic.unique().tolist() == [1] and both.labels.tolist() == [1]  # stuff is merged
    none = panoptic(scores * 0.1, take, (2, 4), things, MaskRules())
    assert none.panoptic.tolist() == [[0] * 4] * 2 and len(none) == 0


def test_mask_boxes():
    masks = torch.zeros(2, 5, 6, dtype=torch.bool)
    masks[0, 1:4, 2:3] = True
    assert mask_boxes(masks).tolist() == [[2, 1, 3, 4], [0, 0, 0, 0]]
