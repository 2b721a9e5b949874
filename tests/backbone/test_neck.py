"""Necks against torch's own convolutions, and where their levels lie in the image."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitdet.backbone import Backbone, ConvStem, CSPNeck, Projector, Pyramid
from vitdet.backbone.necks.convolutions import ConvNorm, FrozenBatchNorm
from vitdet.backbone.necks.hybrid import resize
from vitdet.backbone.necks.simple import Expand, MaxPool, Merge


def nchw(x):
    return x.permute(0, 3, 1, 2)


def test_expand_is_a_transposed_convolution():
    layer, x = Expand(6, 4), torch.randn(2, 3, 5, 6)
    weight = layer.proj.weight.view(2, 2, 4, 6).permute(3, 2, 0, 1)  # (2*2*C, c) -> (c, C, 2, 2)
    expected = F.conv_transpose2d(nchw(x), weight, stride=2) + layer.proj.bias.view(2, 2, 4).permute(2, 0, 1).repeat(
        1, 3, 5
    )
    torch.testing.assert_close(nchw(layer(x)), expected)


@pytest.mark.parametrize("grid", [(4, 6), (3, 6), (4, 5), (3, 5), (1, 1)])
def test_merge_is_a_strided_convolution(grid):
    layer, x = Merge(6, 4), torch.randn(2, *grid, 6)
    weight = layer.proj.weight.view(4, 2, 2, 6).permute(0, 3, 1, 2)  # (C, 2*2*c) -> (C, c, 2, 2)
    padded = F.pad(nchw(x), (0, grid[1] % 2, 0, grid[0] % 2))
    torch.testing.assert_close(nchw(layer(x)), F.conv2d(padded, weight, layer.proj.bias, stride=2))


def test_max_pool_keeps_the_last_row():
    x = torch.arange(15.0).view(1, 3, 5, 1)
    assert MaxPool()(x)[0, ..., 0].tolist() == [[6, 8, 9], [11, 13, 14]]


@pytest.mark.parametrize("cls", [Projector, Pyramid])
def test_levels_cover_the_image(cls):
    """What a patch holds appears in every level around the place where `Level` says that patch is."""
    torch.manual_seed(0)
    strides = [4, 8, 16, 32]
    neck = cls(8, 1, 16, strides, 8, {}, depth=0).eval()
    x = torch.randn(1, 5, 7, 8)
    changed = x.clone()
    changed[0, 3, 4] += 1  # pixels 48-63 down, 64-79 across
    with torch.no_grad():
        for stride, a, b in zip(strides, neck([x], []), neck([changed], [])):
            moved = ((a - b).abs().sum(-1)[0] > 1e-6).nonzero()
            rows, columns = moved.T
            assert len(moved) == max(1, (16 // stride) ** 2)
            assert ((rows + 0.5) * stride).mean() == pytest.approx(56 if stride <= 16 else 48)
            assert ((columns + 0.5) * stride).mean() == pytest.approx(72 if stride <= 16 else 80)


def test_stem_maps_reach_the_levels_of_their_stride():
    options = {"model_args": {"embed_dim": 32, "num_heads": 2}, "depth": 1, "out_channels": 16}
    stem = partial(ConvStem, width=8)
    with_taps = Backbone("vit_tiny_patch16_224", **options, stem=stem, out_strides=[4, 8, 16])
    assert sorted(with_taps.neck.laterals) == ["0", "1"]  # stride 16 is the trunk's own
    assert [layer.in_features for layer in with_taps.neck.laterals.values()] == [16, 32]
    without = Backbone("vit_tiny_patch16_224", **options, stem=partial(stem, lateral=False), out_strides=[4, 8, 16])
    assert len(without.neck.laterals) == 0
    wide = Backbone("vit_tiny_patch16_224", **options, stem=stem, patch_size=32, out_strides=[8, 16, 32])
    assert sorted(wide.neck.laterals) == ["0", "1"]
    # fine detail of an image gets to the finest level past the trunk
    image = torch.zeros(1, 3, 32, 32)
    detail = image.clone()
    detail[..., 9, 9] = 1
    for backbone in (with_taps, without):
        torch.nn.init.zeros_(backbone.trunk.patch_embed.proj.weight)
    assert not torch.equal(with_taps(image)[0].x, with_taps(detail)[0].x)
    assert torch.equal(without(image)[0].x, without(detail)[0].x)


def test_default_strides_follow_the_patch_size():
    small = {"model_args": {"embed_dim": 32, "num_heads": 2}, "depth": 1}
    assert Backbone("vit_small_patch14_dinov2", **small).strides == [7, 14, 28]
    assert Backbone("vit_tiny_patch16_224", **small, neck=Pyramid).strides == [4, 8, 16, 32]


@pytest.mark.parametrize("step", [1, -1])
def test_resize_is_bilinear(step):
    x = torch.randn(2, 4, 6, 3)
    expected = F.interpolate(nchw(x), scale_factor=2.0**step, mode="bilinear", align_corners=False)
    torch.testing.assert_close(nchw(resize(x, step)), expected)
    assert resize(x[:, :3, :5], -1).shape[1:3] == (2, 3)


def test_frozen_batch_norm_is_batch_norm_in_inference_and_learns_its_scale_and_shift():
    own, theirs = FrozenBatchNorm(6), nn.BatchNorm2d(6)
    state = {name: torch.rand(6) + 0.5 for name in own.state_dict()}
    own.load_state_dict(state)
    theirs.load_state_dict({**state, "num_batches_tracked": torch.tensor(1)})
    x, weight = torch.randn(2, 3, 5, 6), torch.randn(2, 3, 5, 6)
    found, wanted = own.train()(x), theirs.eval()(nchw(x))
    torch.testing.assert_close(nchw(found), wanted)
    (found * weight).sum().backward()
    (wanted * nchw(weight)).sum().backward()
    torch.testing.assert_close(own.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(own.bias.grad, theirs.bias.grad)


@pytest.mark.parametrize(("channels", "halved"), [(512, False), (768, True)])
def test_csp_halves_wide_taps_before_they_grow(channels, halved):
    """As LW-DETR's projector: channels of the taps after resizing, and what resizes them."""
    with torch.device("meta"):
        neck = CSPNeck(channels, 2, 16, [8, 16, 32], 64, {}, norm="frozen_batch")
    grown = [[type(layer) for layer in tap] for tap in neck.resize[0].each]
    assert grown == [[ConvNorm, Expand] if halved else [Expand]] * 2
    inputs = [block.enter.conv.in_features for block in neck.refine]
    assert inputs == [2 * channels // (4 if halved else 2), 2 * channels, 2 * channels]


def test_position_embeddings_are_resampled_without_antialiasing_if_asked():
    options = {"model_args": {"embed_dim": 32, "num_heads": 2}, "depth": 1, "neck": None}
    backbone = Backbone("vit_tiny_patch16_224", **options, trunk={"pos_antialias": False})
    table = torch.randn_like(backbone.trunk.pos_embed)
    backbone.trunk.pos_embed.data.copy_(table)
    native = table[:, 1:].unflatten(1, (14, 14)).permute(0, 3, 1, 2)  # (1, 1 + 14*14, C) -> (1, C, 14, 14)
    wanted = F.interpolate(native, (5, 20), mode="bicubic").flatten(2).transpose(1, 2)
    torch.testing.assert_close(backbone.trunk._position_table((5, 20))[:, 1:], wanted)
