"""What every head that segments must hold."""

import pytest
import torch

from vitdet.config import build, config_of
from vitdet.handshake import Labels
from vitdet.heads import DETRHead, MaskDecoderHead, SemanticHead
from vitdet.heads.mask.inference import class_scores, instances, mask_boxes, panoptic, semantic
from vitdet.heads.mask.pixels import PixelBranch, extents, full_size
from vitdet.heads.semantic import label_map
from vitdet.losses.masks import important_points, mask_costs, mask_losses, mask_points, sample_points
from vitdet.masks import VOID
from vitdet.progress import Progress
from vitdet.structures import Features, Level

SMALL = {"dim": 32, "num_queries": 12, "ffn_dim": 64, "num_heads": 4, "num_layers": 3, "num_points": 128}
HEADS = {
    "instances": (MaskDecoderHead, {**SMALL, "task": "instances"}),
    "semantic": (MaskDecoderHead, {**SMALL, "task": "semantic"}),
    "panoptic": (MaskDecoderHead, {**SMALL, "task": "panoptic"}),
    "linear": (SemanticHead, {}),
    "mixed": (SemanticHead, {"dim": 24}),
}
SIZES = [(64, 96), (40, 50), (80, 32)]


@pytest.fixture(params=HEADS)
def head(request):
    cls, options = HEADS[request.param]
    return cls([32, 32], [8, 16], 3, **options)


def _grads(head, features, targets):
    head.zero_grad()
    head.total(head.loss(head(features, targets), targets)).backward()
    return {name: p.grad for name, p in head.named_parameters()}


@pytest.mark.parametrize("counts", [(3, 0, 2), (0, 0, 0), (40, 1, 0)])
def test_every_parameter_has_a_finite_gradient_whatever_the_targets(head, make_features, make_targets, counts):
    grads = _grads(head, make_features(SIZES), make_targets(SIZES, counts))
    assert not [name for name, grad in grads.items() if grad is None]
    assert all(grad.isfinite().all() for grad in grads.values())


def test_losses_are_float32_under_autocast(head, make_features, make_targets):
    features, targets = make_features(SIZES), make_targets(SIZES, [3, 0, 2])
    with torch.autocast("cpu", torch.bfloat16):
        losses = head.loss(head(features, targets), targets)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(loss.isfinite() for loss in losses.values())


def test_an_image_does_not_see_the_others(head, make_features):
    head.eval()
    features = make_features(SIZES)
    with torch.no_grad():
        together = head.predict(head(features), SIZES)
        for i, size in enumerate(SIZES):
            alone = [Level(v.x.split(v.lengths)[i], [v.grids[i]], v.stride) for v in features]
            (prediction,) = head.predict(head(Features(alone, [size])), [size])
            torch.testing.assert_close(prediction.scores, together[i].scores, atol=1e-5, rtol=1e-5)
            for name in ("semantic", "panoptic", "masks"):
                one, other = getattr(prediction, name), getattr(together[i], name)
                assert (one is None) == (other is None)
                if one is not None:  # a pixel on the line between two may fall to either side
                    assert one.shape == other.shape and (one != other).float().mean() < 1e-3


def test_predictions_are_of_the_original_size(head, make_features):
    head.eval()
    originals = [(64, 48), (10, 300), (7, 9)]
    for prediction, size in zip(head.predict(head(make_features(SIZES)), originals), originals):
        maps = [v for v in (prediction.semantic, prediction.panoptic, prediction.masks) if v is not None]
        assert maps and all(tuple(v.shape[-2:]) == size for v in maps)
        assert (prediction.scores.diff() <= 0).all() or head.task == "panoptic"


def test_rebuilds_from_its_config_and_weights(head, make_features):
    kind = head.kinds[0] if head.kinds else "semantic"
    head.prepare(Progress(), Labels(kind, ("a", "b", "c"), (True, False, False)))
    twin = build(config_of(head))
    twin.load_state_dict(head.state_dict())
    assert twin.task == head.task and twin.things.tolist() == [True, False, False]


def _fit(head, features, targets, steps=300):
    optimiser = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        head.total(head.loss(head(features, targets), targets)).backward()
        optimiser.step()
    head.eval()
    with torch.no_grad():
        return head.predict(head(features), [target.size for target in targets])


def _iou(a, b):
    return ((a & b).sum() / (a | b).sum().clamp(min=1)).item()


@pytest.mark.parametrize("name", ["semantic", "panoptic", "mixed"])
def test_overfits_one_batch(name, make_features, make_targets):
    cls, options = HEADS[name]
    head = cls([32, 32], [8, 16], 3, **options)
    targets = make_targets(SIZES, [3, 1, 2])
    for target in targets:  # a background of its own class, so that every pixel has one; later segments lie on top
        target.masks[-1] = True
        target.labels[-1] = 2
        for t in range(len(target.labels)):
            target.masks[t] &= ~target.masks[:t].any(0)
        keep = target.masks.flatten(1).any(1)
        target.masks, target.labels, target.boxes_cxcywh = (
            target.masks[keep],
            target.labels[keep],
            target.boxes_cxcywh[keep],
        )
    for prediction, target in zip(_fit(head, make_features(SIZES), targets), targets):
        found = prediction.semantic
        if found is None:
            found = prediction.labels[prediction.panoptic.long() - 1].where(prediction.panoptic > 0, VOID)
        assert (found.long() == label_map(target)).float().mean() > 0.9


@pytest.mark.parametrize("cls", [MaskDecoderHead, DETRHead])
def test_finds_the_instances_of_one_batch(cls, make_features, make_targets):
    options = {**SMALL, "task": "instances"} if cls is MaskDecoderHead else {**SMALL, "masks": True}
    if cls is DETRHead:
        options["mask_points"] = options.pop("num_points")
    head = cls([32, 32], [8, 16], 3, **options)
    targets = make_targets(SIZES, [3, 1, 2])
    for prediction, target in zip(_fit(head, make_features(SIZES), targets), targets):
        for label, mask in zip(target.labels, target.masks):
            same = prediction.masks[:4][prediction.labels[:4] == label]
            assert max(_iou(one, mask) for one in same) > 0.6


def test_a_detection_head_with_masks_gives_those_of_its_boxes(make_features, make_targets):
    head = DETRHead([32, 32], [8, 16], 3, dim=32, num_queries=12, num_heads=4, masks=True, mask_points=64).eval()
    (prediction, _, _) = head.predict(head(make_features(SIZES)), SIZES)
    assert prediction.masks.shape == (12, 64, 96) and prediction.masks.dtype == torch.bool
    targets = make_targets(SIZES, [1, 0, 0])
    targets[0].masks = None
    with pytest.raises(ValueError, match="masks"):
        head.train().loss(head(make_features(SIZES), targets), targets)


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
    found = panoptic(scores, take, (2, 4), things, threshold=0.5, overlap=0.8)
    assert found.panoptic.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]  # the top row wins nothing, so it is dropped
    assert found.labels.tolist() == [0, 1] and found.boxes_xyxy.tolist() == [[0, 0, 2, 2], [2, 0, 4, 2]]
    assert semantic(class_scores(scores, take, (2, 4)), (2, 4)).semantic.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]
    best = instances(scores, take, (2, 4), 2)
    assert best.labels.tolist() == [0, 1] and torch.equal(best.masks, masks[:2] > 0)
    both = panoptic(
        torch.tensor([[0.0, 0.9], [0.0, 0.8], [0.1, 0.0]]), take, (2, 4), things, threshold=0.5, overlap=0.8
    )
    assert both.panoptic.unique().tolist() == [1] and both.labels.tolist() == [1]  # stuff is merged
    none = panoptic(scores * 0.1, take, (2, 4), things, threshold=0.5, overlap=0.8)
    assert none.panoptic.tolist() == [[0] * 4] * 2 and len(none) == 0


def test_mask_boxes():
    masks = torch.zeros(2, 5, 6, dtype=torch.bool)
    masks[0, 1:4, 2:3] = True
    assert mask_boxes(masks).tolist() == [[2, 1, 3, 4], [0, 0, 0, 0]]
