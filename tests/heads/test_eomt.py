"""The mask transformer inside the ViT."""

import pytest
import torch

from vitdet.backbone import Backbone
from vitdet.backbone.attention import attend
from vitdet.heads import EoMTHead
from vitdet.losses.segmentation import MaskOutputs
from vitdet.progress import Progress

TINY = {"model_args": {"embed_dim": 32, "num_heads": 2}, "depth": 4, "neck": None}
SIZES = [(64, 96), (40, 50), (64, 96)]
ROPE = "eva02_tiny_patch14_224"


def build(name="vit_tiny_patch16_224", task="panoptic", **options):
    torch.manual_seed(0)
    backbone = Backbone(name, tail=2, **TINY)
    return backbone, EoMTHead(
        backbone.out_channels, backbone.strides, 3, task=task, num_queries=8, num_points=64, **options
    )


def at(done):
    """How far a training is."""
    progress = Progress()
    progress.done = done
    return progress


def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, *size, generator=generator) for size in SIZES]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", ROPE, "vit_small_patch14_reg4_dinov2"])
def test_the_blocks_left_to_the_head_give_the_whole_vit(name):
    torch.manual_seed(0)
    whole = Backbone(name, **{**TINY, "out_blocks": [3]})
    part = Backbone(name, tail=2, **TINY)
    part.load_state_dict(whole.state_dict())
    features = part(images())
    rest, x = features.unfinished, features.unfinished.x
    for i in range(len(rest.blocks)):
        x = rest.run(i, x, added=0)
    parts = [one[rest.num_prefix :] for one in rest.norm(x).split(rest.lengths)]
    wanted = whole(images())[0]
    for place, one in zip(rest.order, parts):
        torch.testing.assert_close(one, wanted.x.split(wanted.lengths)[place], atol=1e-5, rtol=1e-5)


def test_allowed_is_a_mask_for_each_sequence():
    lengths = [5, 3, 5]
    q, k, v = (torch.randn(13, 2, 4) for _ in range(3))
    allowed = [torch.rand(n, n) > 0.4 for n in lengths]
    for one in allowed:
        one.fill_diagonal_(True)
    out = attend(q, k, v, lengths, allowed=allowed)
    mask = torch.block_diag(*(one.float() for one in allowed)).bool()
    dense = torch.nn.functional.scaled_dot_product_attention(*(t.transpose(0, 1) for t in (q, k, v)), attn_mask=mask)
    torch.testing.assert_close(out, dense.transpose(0, 1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("counts", [(2, 0, 1), (0, 0, 0)])
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", ROPE])
def test_every_parameter_has_a_finite_gradient(name, progress, counts, make_targets):
    backbone, head = build(name)
    head.prepare(at(progress))
    targets = make_targets(SIZES, counts)
    head.total(head.loss(head(backbone(images()), targets), targets)).backward()
    for module in (backbone, head):
        missing = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not missing


def test_an_image_does_not_see_the_others():
    backbone, head = build()
    backbone.eval(), head.eval()
    with torch.no_grad():
        together = head(backbone(images()))
        for i, image in enumerate(images()):
            alone = head(backbone([image]))
            torch.testing.assert_close(alone.logits[:, 0], together.logits[:, i], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(alone.pixels[-1].maps()[0], together.pixels[-1].maps()[i], atol=1e-4, rtol=1e-4)


def test_masks_hold_queries_back_less_and_less():
    backbone, head = build(annealing=(0.2, 0.8))  # the first block's part ends at 0.35, the last one's starts at 0.65
    features = backbone(images())

    def held(progress, depth):
        head.prepare(at(progress))
        rest = features.unfinished
        x = head._with_queries(rest.x, rest.lengths)
        prediction = head._predictions(rest.norm(x), [8 + n for n in rest.lengths], features)
        allowed = head._allowed(prediction, features, depth)
        return 0.0 if allowed is None else sum((~one).float().sum().item() for one in allowed)

    assert held(0.0, 0.0) == held(0.2, 0.0) > held(0.28, 0.0) > held(0.35, 0.0) == 0
    assert held(0.0, 1.0) == held(0.65, 1.0) > held(0.73, 1.0) > held(0.8, 1.0) == 0
    head.annealing = (0.0, 0.0)
    assert held(0.0, 0.0) == 0  # given up from the start
    assert len(head(features).logits) == 1 + len(features.unfinished.blocks)
    assert (
        len(head.eval()(features).logits) == 1
    )  # in inference there is nothing to hold back, and nothing else to predict


def test_it_says_what_backbone_it_needs():
    backbone = Backbone("vit_tiny_patch16_224", **TINY)
    head = EoMTHead([32], [16], 3)
    with pytest.raises(ValueError, match=r"backbone\.tail"):
        head(backbone(images()))
    with pytest.raises(ValueError, match="tail is 4"):
        Backbone("vit_tiny_patch16_224", tail=4, **TINY)


@pytest.mark.slow
def test_overfits_one_batch(make_targets):
    backbone, head = build(task="semantic")
    targets = make_targets(SIZES, [1, 1, 1])
    for target in targets:  # an object, and what is around it
        target.masks = torch.cat([target.masks, ~target.masks])
        target.labels = torch.tensor([0, 2])
        target.boxes_cxcywh = torch.tensor([[0.5, 0.5, 1.0, 1.0]] * 2)
    parameters = [*backbone.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3)
    for step in range(150):
        head.prepare(at(step / 150))
        optimiser.zero_grad()
        outputs: MaskOutputs = head(backbone(images()), targets)
        head.total(head.loss(outputs, targets)).backward()
        optimiser.step()
    backbone.eval(), head.eval()
    for prediction, target in zip(head.predict(head(backbone(images())), SIZES), targets):
        right = (prediction.semantic == 0) == target.masks[0]
        assert right.float().mean() > 0.9
