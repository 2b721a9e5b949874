"""What every detection head must hold."""

import copy

import pytest
import torch

from vitdet.boxes import cxcywh_to_xyxy, pairwise_iou
from vitdet.config import build, config_of
from vitdet.heads import DEIMHead, DETRHead, PlainDETRHead
from vitdet.structures import Features, Level

SMALL = {"dim": 32, "num_queries": 12, "ffn_dim": 64, "num_heads": 4, "num_layers": 2}
HEADS = {
    "detr": (DETRHead, {}),
    "detr-dense": (DETRHead, {"dense_aux": True, "groups": 2}),
    "detr-lw": (
        DETRHead,
        {"content": "learned", "refine": "fixed", "class_loss": "ia_bce", "groups": 3, "denoising": 0},
    ),
    "detr-focal": (DETRHead, {"class_loss": "focal", "groups": 2, "num_points": [4, 2]}),
    "detr-masks": (DETRHead, {"masks": True, "mask_points": 64}),
    "detr-rf": (
        DETRHead,
        {
            **{"content": "learned", "refine": "fixed", "class_loss": "ia_bce", "groups": 2, "denoising": 0},
            **{"group_proposals": True, "learned_reference": True, "anchor_fraction": 0.05, "anchor_margin": 0.01},
            **{"distinct": None, "cross_heads": 8, "masks": True, "mask_branch": "refined", "mask_points": 64},
        },
    ),
    "deim": (DEIMHead, {"num_points": [3, 2]}),
    "plain": (PlainDETRHead, {}),
}

SIZES = [(64, 96), (40, 50), (80, 32)]


@pytest.fixture(params=HEADS)
def head(request):
    cls, options = HEADS[request.param]
    return cls([32, 32], [8, 16], 3, **SMALL, **options)


def _grads(head, features, targets):
    head.zero_grad()
    head.total(head.loss(head(features, targets), targets)).backward()
    return {name: p.grad for name, p in head.named_parameters()}


def _apart(make_targets, counts):
    """Objects that do not lie over each other: two of one class that share 0.7 of their boxes are hard to tell apart, which is not what is asked here."""
    while True:
        targets = make_targets(SIZES, counts)
        boxes = [cxcywh_to_xyxy(target.boxes_cxcywh) for target in targets]
        if all(pairwise_iou(one, one).triu(1).max() < 0.2 for one in boxes if len(one)):
            return targets


def test_overfits_one_batch(head, make_features, make_targets):
    features, targets = make_features(SIZES), _apart(make_targets, [3, 0, 2])
    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3)
    steps = (
        300 if getattr(head, "denoising", None) else 600
    )  # with 300, the plain one left an object unfound for four of six seeds
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        head.total(head.loss(head(features, targets), targets)).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    head.eval()
    with torch.no_grad():
        predictions = head.predict(head(features), SIZES)
    for prediction, target, (height, width) in zip(predictions, targets, SIZES):
        truth = cxcywh_to_xyxy(target.boxes_cxcywh) * torch.tensor([width, height, width, height])
        found = prediction.boxes_xyxy[: len(truth)]
        iou, which = pairwise_iou(truth, found).max(1) if len(truth) else (torch.ones(0), torch.zeros(0).long())
        assert (iou > 0.7).all() and sorted(which.tolist()) == list(range(len(truth)))
        assert (prediction.labels[which] == target.labels).all()
        assert (prediction.scores[len(truth) :] < 0.5).all()


@pytest.mark.parametrize("counts", [(3, 0, 2), (0, 0, 0), (40, 1, 0)])
def test_every_parameter_has_a_finite_gradient_whatever_the_targets(head, make_features, make_targets, counts):
    grads = _grads(head, make_features(SIZES), make_targets(SIZES, counts))
    assert not [name for name, grad in grads.items() if grad is None]
    assert all(grad.isfinite().all() for grad in grads.values())


def test_degenerate_boxes_give_finite_gradients(head, make_features, make_targets):
    targets = make_targets(SIZES, [3, 1, 0])
    targets[0].boxes_cxcywh = torch.tensor([[0.0, 0.0, 1e-6, 1e-6], [1.0, 1.0, 1e-3, 1e-3], [0.5, 0.5, 1.0, 1.0]])
    assert all(grad.isfinite().all() for grad in _grads(head, make_features(SIZES), targets).values())


def test_an_image_does_not_see_the_others(head, make_features):
    head.eval()
    features = make_features(SIZES)
    with torch.no_grad():
        together = head.predict(head(features), SIZES)
        for i, size in enumerate(SIZES):
            alone = Features(
                [Level(level.x.split(level.lengths)[i], [level.grids[i]], level.stride) for level in features], [size]
            )
            (prediction,) = head.predict(head(alone), [size])
            torch.testing.assert_close(prediction.scores, together[i].scores, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(prediction.boxes_xyxy, together[i].boxes_xyxy, atol=1e-3, rtol=1e-5)


def test_predictions_are_sorted_inside_the_image_and_in_its_pixels(head, make_features):
    head.eval()
    originals = [(640, 480), (100, 3000), (7, 9)]
    for prediction, (height, width) in zip(head.predict(head(make_features(SIZES)), originals), originals):
        assert (prediction.scores.diff() <= 0).all() and len(prediction) == SMALL["num_queries"]
        low, high = prediction.boxes_xyxy[:, :2], prediction.boxes_xyxy[:, 2:]
        assert (low >= 0).all() and (high <= torch.tensor([width, height]) + 1e-3).all() and (low <= high).all()


def test_an_image_smaller_than_a_patch(head, make_features, make_targets):
    grads = _grads(head, make_features([(5, 3), (64, 64)]), make_targets([(5, 3), (64, 64)], [1, 2]))
    assert all(grad.isfinite().all() for grad in grads.values())


def test_losses_are_float32_under_autocast(head, make_features, make_targets):
    features, targets = make_features(SIZES), make_targets(SIZES, [3, 0, 2])
    with torch.autocast("cpu", torch.bfloat16):
        losses = head.loss(head(features, targets), targets)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(loss.isfinite() for loss in losses.values())


def test_rebuilds_from_its_config(head, make_features):
    twin = build(config_of(head))
    twin.load_state_dict(head.state_dict())
    features = make_features(SIZES)
    head.eval(), twin.eval()
    torch.testing.assert_close(twin(features).logits, head(features).logits)


def test_a_term_without_a_weight_is_an_error(head):
    with pytest.raises(KeyError, match="extra"):
        head.total({"extra": torch.ones(())})


def shapes(head, **changed):
    """The shapes in the state dict of a head that is built with other arguments."""
    with torch.device("meta"):
        return {k: v.shape for k, v in type(head)(**{**head.init_args, **changed}).state_dict().items()}


def test_rows_of_classes_and_queries_are_declared(head):
    """What grows with the number of classes, or with that of queries or groups, are just the entries that the head names."""
    before, options = shapes(head), head.init_args
    more = {
        name: shapes(head, **{name: options[name] + 1})
        for name in ("num_classes", "num_queries", "groups")
        if name in options
    }
    grown = {
        name: {key for key, shape in after.items() if shape != before.get(key, shape)} for name, after in more.items()
    }
    assert set(head.class_rows()) == grown["num_classes"] | {"things"} & set(before)
    assert all(more["num_classes"][key][0] == before[key][0] + 1 for key in head.class_rows())
    assert set(head.query_rows()) == grown.get("num_queries", set()) | grown.get("groups", set())
    assert all(more["num_queries"][key][0] == before[key][0] + head.groups for key in grown.get("num_queries", ()))


def test_unknown_loss_weight_names_the_terms():
    with pytest.raises(ValueError, match="aux_box"):
        DETRHead([8], [16], 2, dim=8, num_heads=1, loss_weights={"boxes": 1.0})


def test_denoising_queries_do_not_change_the_others(make_features, make_targets):
    head = DETRHead([32, 32], [8, 16], 3, **SMALL)
    features = make_features(SIZES)
    with_noise = head(features, make_targets(SIZES, [3, 0, 2]))
    without = copy.deepcopy(head)(features)
    torch.testing.assert_close(with_noise.logits, without.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(with_noise.boxes_cxcywh, without.boxes_cxcywh, atol=1e-5, rtol=1e-5)
    assert with_noise.noised.lengths == [6] * 10 + [4] * 10


def test_groups_do_not_see_each_other(make_features):
    torch.manual_seed(1)
    two = DETRHead([32, 32], [8, 16], 3, groups=2, **SMALL)
    features = make_features(SIZES)
    both = two.train()(features)
    first = two.eval()(features)
    assert both.logits.shape[2] == 2 and first.logits.shape[2] == 1
    torch.testing.assert_close(both.logits[:, :, :1], first.logits, atol=1e-5, rtol=1e-5)


def test_a_loss_can_be_taken_in_eval_mode(head, make_features, make_targets):
    """As for a validation loss: of one group, and of all layers."""
    targets = make_targets(SIZES, [3, 0, 2])
    with torch.no_grad():
        losses = head.eval().loss(head(make_features(SIZES), targets), targets)
    assert all(value.isfinite() for value in losses.values()) and set(losses) <= set(head.loss_weights)
