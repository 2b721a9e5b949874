"""The packed trunk against timm's own forward, family by family."""

from functools import partial

import pytest
import timm
import torch
from timm.layers import resample_patch_embed
from torch import nn

from vitdet.backbone import Backbone, ConvStem, CSPNeck, HybridNeck, Pyramid, SpatialAdapter

SIZES = {"embed_dim": 64, "num_heads": 2}
SMALL = {"model_args": SIZES, "depth": 2}

# one name per difference that the constructors settle
FAMILIES = [
    "vit_tiny_patch16_224",  # augreg: class token inside the position embedding
    "deit_tiny_distilled_patch16_224",  # a distillation token
    "deit3_small_patch16_224",  # no_embed_class, layer scale
    "vit_base_patch16_224.mae",
    "vit_base_patch16_clip_224",  # norm before the blocks, no patch bias
    "vit_base_patch16_siglip_256",  # no class token, attention pool
    "vit_base_patch16_siglip_gap_256.v2_webli",
    "vit_small_patch16_224.dino",
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",  # registers
    "flexivit_small",
    "vit_medium_patch16_reg4_gap_256",  # final norm behind the pool
    "vit_base_patch16_rope_224",  # axial RoPE
    "vit_small_patch16_rope_mixed_224",  # learned RoPE for each block and head
    "vit_small_patch16_rope_mixed_ape_224",
    "eva02_tiny_patch14_224",  # SwiGLU, RoPE with a reference grid
    "eva02_base_patch16_clip_224",  # separate q, k, v and a norm inside attention
    "eva_giant_patch14_224",
    "vit_small_patch16_dinov3",  # registers, RoPE of normalised coordinates
    "vit_small_patch16_dinov3_qkvb",
    "vit_pe_core_tiny_patch16_384",
    "eva02_enormous_patch14_clip_224",  # post-norm
    "vit_base_patch16_sapiens2",  # grouped-query attention, RMS norm
]
NEW = {"vit_base_patch16_sapiens2"}  # not in the oldest timm that is allowed
EXTRA = {"vit_base_patch16_sapiens2": {"num_kv_heads": 1}}
FAMILIES = [name for name in FAMILIES if name not in NEW or timm.is_model(name)]


def randomise(model: nn.Module) -> nn.Module:
    """Away from initial values at which mistakes do not show: zero biases, unit norms, layer scales of 1e-5."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def pair(name: str, **options) -> tuple[nn.Module, Backbone]:
    """A timm model and a backbone with the same random weights."""
    sizes = {**SIZES, **EXTRA.get(name, {})}
    backbone = Backbone(name, depth=2, out_blocks=[0, 1], neck=None, model_args=sizes, **options).eval()
    model = randomise(timm.create_model(name, **sizes, depth=2, num_classes=0, dynamic_img_size=True))
    state = {rename(key): value for key, value in model.state_dict().items()}
    missing = backbone.trunk.load_state_dict(state, strict=False).missing_keys
    assert not missing
    if isinstance(model.norm, nn.Identity):
        model.norm = model.fc_norm
    return model, backbone


def rename(key: str) -> str:
    for i in "12":
        key = key.replace(f"gamma_{i}", f"ls{i}.gamma")
    return key.replace("fc_norm.", "norm.")


@pytest.mark.parametrize("name", FAMILIES)
def test_equals_timm(name):
    model, backbone = pair(name)
    patch, native = backbone.patch_size, backbone.trunk.native_grid
    with torch.no_grad():
        for h, w in [native, (3, 5)] if max(native) <= 20 else [(3, 5), (6, 4)]:
            images = torch.randn(2, 3, h * patch, w * patch)
            expected = model.forward_intermediates(images, norm=True, intermediates_only=True)
            features = backbone(images)
            assert [level.grids for level in features] == [[(h, w)] * 2] * 2
            for level, tap in zip(features, expected):
                torch.testing.assert_close(level.dense()[0], tap, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "vit_small_patch16_rope_mixed_224", "vit_small_patch16_dinov3"]
)
def test_gradients_equal_timm(name):
    """At a grid that is not the native one, so that resampled positions and RoPE frequencies get theirs, too."""
    model, backbone = pair(name)
    images = torch.randn(2, 3, 48, 80)
    weight = torch.randn(2, model.embed_dim, 3, 5)
    (model.forward_intermediates(images, norm=True, intermediates_only=True)[1] * weight).sum().backward()
    (backbone(images)[1].dense()[0] * weight).sum().backward()
    found = dict(backbone.trunk.named_parameters())
    compared = 0
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[rename(key)].grad, parameter.grad, atol=1e-4, rtol=1e-4)
            compared += 1
    assert compared == len(found)


def test_native_size_and_normalisation_are_timms():
    backbone = Backbone("vit_base_patch16_clip_224", **SMALL)
    config = timm.get_pretrained_cfg("vit_base_patch16_clip_224")
    assert (tuple(backbone.mean), tuple(backbone.std)) == (config.mean, config.std)
    assert backbone.channels == 64


def test_patch_size_resamples_the_kernel_and_keeps_the_positions(tmp_path):
    model = randomise(timm.create_model("vit_tiny_patch16_224", **SIZES, depth=2, num_classes=0))
    path = tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    backbone = Backbone("vit_tiny_patch16_224", **SMALL, checkpoint=str(path), patch_size=8)
    expected = resample_patch_embed(model.patch_embed.proj.weight, [8, 8])
    torch.testing.assert_close(backbone.trunk.patch_embed.proj.weight, expected)
    torch.testing.assert_close(backbone.trunk.pos_embed, model.pos_embed)
    assert backbone(torch.randn(1, 3, 20, 32))[1].grids == [(3, 4)]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_tinny_patch16_224", {}, "near it: vit_tiny_patch16_224"),
        ("swin_tiny_patch4_window7_224", {}, "supported are the plain ViTs"),
        ("convnext_tiny", {}, "supported are the plain ViTs"),
        ("vit_base_r50_s16_224", {}, "supported are the plain ViTs"),
        ("vit_base_patch16_xp_224", {}, "ParallelScalingBlock"),
        ("vit_base_patch16_18x2_224", {}, "ParallelThingsBlock"),
        ("vit_tiny_patch16_224", {"model_args": {"mlp_ration": 2}}, "mlp_ration"),
        ("vit_tiny_patch16_224", {"model_args": {"patch_drop_rate": 0.5}}, "patch_drop_rate"),
        ("vit_tiny_patch16_224", {"model_args": {"in_chans": 1}}, "model_args is .*without .*in_chans"),
        ("vit_tiny_patch16_224", {"model_args": {"pretrained": True}}, "model_args is .*without .*pretrained"),
        ("vit_tiny_patch16_224", {"model_args": {1: 2}}, "model_args is .*; wanted arguments"),
        ("vit_tiny_patch16_224", {"out_blocks": [0, 5]}, "blocks are 0 to 1"),
        ("vit_tiny_patch16_224", {"out_blocks": [1, -1]}, "at most once"),
        (
            "vit_tiny_patch16_224",
            {"stem": "convs"},
            "stem is 'convs'; wanted a stem, ConvStem or SpatialAdapter, or null",
        ),
        ("vit_tiny_patch16_224", {"neck": "fpn"}, "neck is 'fpn'; wanted a neck, such as Projector, .* or null"),
        ("vit_tiny_patch16_224", {"out_strides": [8, 12]}, "choose among 4, 8, 16, 32"),
        ("vit_tiny_patch16_224", {"neck": None, "out_strides": [8]}, "need a neck"),
        ("vit_tiny_patch16_224", {"neck": Pyramid, "out_blocks": [0, 1]}, "reads one tap"),
        (
            "vit_tiny_patch16_224",
            {"neck": partial(CSPNeck, norm="batch")},
            "norm is 'batch'; wanted layer or frozen_batch",
        ),
        ("vit_tiny_patch16_224", {"trunk": {"windows": "2by2"}}, "windows is '2by2'"),
        ("vit_tiny_patch16_224", {"trunk": {"windows": 7, "global_blocks": []}}, "prefix tokens never meet"),
        ("vit_tiny_patch16_224", {"trunk": {"global_blocks": [0]}}, "needs windows"),
        ("vit_tiny_patch16_224", {"freeze": 3}, "from 0 to 2"),
        ("vit_small_patch14_dinov2", {"stem": ConvStem, "model_args": {"img_size": 56}}, "power of two"),
        (
            "vit_small_patch14_dinov2",
            {"stem": SpatialAdapter, "model_args": {"img_size": 56}},
            "the neck's, .* use none",
        ),
        ("vit_tiny_patch16_224", {"stem": SpatialAdapter, "neck": None}, "need a neck"),
        ("vit_tiny_patch16_224", {"neck": HybridNeck, "out_strides": [8, 32]}, "doubles them, as in 8, 16, 32"),
        ("vit_tiny_patch16_224", {"neck": HybridNeck, "out_blocks": [0, 1]}, "2 out_blocks for 3 levels"),
    ],
)
def test_errors_say_what_is_wrong(name, options, message):
    with pytest.raises(ValueError, match=message):
        Backbone(name, **(SMALL | options) if "model_args" not in options else options | {"depth": 2})


def test_attention_that_is_no_softmax_is_refused():
    if "diff" not in getattr(timm.models.vision_transformer, "ATTN_LAYERS", {}):
        return  # a timm without it cannot build one
    with pytest.raises(ValueError, match="Block with DiffAttention"):
        Backbone("vit_tiny_patch16_224", depth=2, model_args={**SIZES, "attn_layer": "diff"})
