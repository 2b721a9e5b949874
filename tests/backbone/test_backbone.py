"""What must hold for every backbone: images do not meet, options do what they say."""

import copy
import io
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vitdet.backbone import (
    Backbone,
    ConvStem,
    CSPNeck,
    HybridNeck,
    Pyramid,
    TrunkOptions,
    create_backbone,
)
from vitdet.config import build, config_of

SMALL = {"model_args": {"embed_dim": 32, "num_heads": 2}, "depth": 3}
TINY = "vit_tiny_patch16_224"
NARROW = partial(ConvStem, width=8)
ADAPTER = {"class_path": "vitdet.SpatialAdapter", "init_args": {"width": 4}}

SETUPS = {
    "plain": (TINY, {}),
    "windows": (TINY, {"trunk": {"windows": 3}}),
    "window prefixes": ("vit_small_patch14_reg4_dinov2", {"trunk": {"windows": "2x2", "window_prefix": "window"}}),
    "rope windows": ("vit_small_patch16_dinov3", {"trunk": TrunkOptions(windows=2)}),
    "mixed rope": ("vit_small_patch16_rope_mixed_224", {"trunk": TrunkOptions(windows=3)}),
    "conv stem": (TINY, {"stem": NARROW, "out_strides": [4, 8, 16, 32, 64]}),
    "conv stem 32": (TINY, {"stem": NARROW, "patch_size": 32, "out_strides": [8, 16, 32]}),
    "conv stem 8": (TINY, {"stem": NARROW, "patch_size": 8}),
    "pyramid": (TINY, {"neck": Pyramid, "out_channels": 16}),
    "adapter": (TINY, {"stem": ADAPTER, "out_strides": [8, 16, 32]}),
    "hybrid": (
        "vit_small_patch16_dinov3",
        {"stem": ADAPTER, "neck": partial(HybridNeck, ffn_dim=32), "out_blocks": [0, 1, 2]},
    ),
    "hybrid of one tap": (TINY, {"neck": HybridNeck, "out_strides": [4, 8, 16, 32, 64]}),
    "csp": (TINY, {"neck": partial(CSPNeck, norm="frozen_batch"), "trunk": {"pos_antialias": False}}),
    "relative position": (TINY, {"trunk": {"relative_position": 4}}),
    "relative position, windows": (TINY, {"trunk": {"relative_position": 6, "windows": 3, "global_blocks": [0]}}),
    "relative position, four windows": (
        TINY,
        {"trunk": {"relative_position": 6, "windows": "2x2", "window_prefix": "window"}},
    ),
    "no neck": (TINY, {"neck": None, "out_blocks": [0, -1]}),
}


def randomise(module: nn.Module) -> nn.Module:
    """Away from initial values at which mistakes do not show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return module


def make(setup: str, **options) -> Backbone:
    name, fixed = SETUPS[setup]
    return randomise(Backbone(name, **SMALL, **({"out_channels": 24} | fixed | options)))


@pytest.fixture(scope="module", params=list(SETUPS))
def backbone(request) -> Backbone:
    return make(request.param).eval()


sizes = st.lists(st.tuples(st.integers(1, 100), st.integers(1, 100)), min_size=1, max_size=4)


@given(sizes, st.randoms(use_true_random=False))
@settings(max_examples=8, deadline=None)
def test_an_image_does_not_depend_on_its_batch(backbone, sizes, random):
    sizes = [*sizes, random.choice(sizes)]  # two of one grid
    images = [torch.randn(3, h, w, generator=torch.Generator().manual_seed(h * w)) for h, w in sizes]
    with torch.no_grad():
        together = backbone(images)
        for i, image in enumerate(images):
            for level, alone in zip(together, backbone(image[None])):
                assert alone.grids == [level.grids[i]]
                torch.testing.assert_close(level.maps()[i], alone.maps()[0], atol=1e-5, rtol=1e-5)


@given(sizes)
@settings(max_examples=8, deadline=None)
def test_padding_goes_to_the_next_patch_and_no_further(backbone, sizes):
    images = [torch.randn(3, h, w) for h, w in sizes]
    p = backbone.patch_size
    padded = [nn.functional.pad(image, (0, -w % p, 0, -h % p)) for image, (h, w) in zip(images, sizes)]
    with torch.no_grad():
        found, expected = backbone(images), backbone(padded)
    assert found.sizes == sizes
    assert len(found) == len(backbone.strides) == len(backbone.out_channels)
    for level, other, stride, channels in zip(found, expected, backbone.strides, backbone.out_channels):
        assert (level.stride, level.x.shape[1]) == (stride, channels)
        assert level.grids == [(-(-(-(-h // p) * p) // stride), -(-(-(-w // p) * p) // stride)) for h, w in sizes]
        torch.testing.assert_close(level.x, other.x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("setup", SETUPS)
def test_every_parameter_is_trained(setup):
    """So that DDP need not look for unused ones."""
    backbone = make(setup, drop_path=0.0).train()
    features = backbone([torch.randn(3, 70, 90), torch.randn(3, 64, 33)])
    sum((level.x * torch.randn_like(level.x)).sum() for level in features).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_windows_bound_what_a_patch_sees():
    backbone = randomise(
        Backbone("vit_base_patch16_siglip_224", **SMALL, trunk=TrunkOptions(windows="2x2", global_blocks=[]), neck=None)
    ).eval()
    image = torch.randn(1, 3, 5 * 16, 4 * 16)
    changed = image.clone()
    changed[..., :16, :16] += 1  # patch (0, 0): its window has rows 0-2, columns 0-1
    with torch.no_grad():
        moved = (backbone(image)[0].dense()[0] - backbone(changed)[0].dense()[0]).abs().sum(dim=(0, 1)) > 1e-6
    expected = torch.zeros(5, 4, dtype=torch.bool)
    expected[:3, :2] = True
    assert torch.equal(moved, expected)


@pytest.mark.parametrize("name", [TINY, "vit_small_patch16_dinov3"])
def test_one_window_with_its_prefix_is_global_attention(name):
    plain = randomise(Backbone(name, **SMALL)).eval()
    windowed = Backbone(name, **SMALL, trunk=TrunkOptions(windows=99, window_prefix="window", global_blocks=[])).eval()
    windowed.load_state_dict(plain.state_dict())
    images = [torch.randn(3, 50, 70), torch.randn(3, 33, 20)]
    with torch.no_grad():
        for level, expected in zip(windowed(images), plain(images)):
            torch.testing.assert_close(level.x, expected.x, atol=1e-5, rtol=1e-5)


def test_window_prefixes_are_rf_detrs():
    """Windows as a batch dimension, the class token repeated for each: what RF-DETR's windowed DINOv2 computes."""
    options = {"model_args": {"embed_dim": 32, "num_heads": 2}, "depth": 2, "neck": None, "out_blocks": [1]}
    plain = randomise(Backbone(TINY, **options)).eval()
    windows = TrunkOptions(windows="2x2", window_prefix="window", global_blocks=[1])
    windowed = Backbone(TINY, **options, trunk=windows).eval()
    windowed.load_state_dict(plain.state_dict())
    trunk = plain.trunk
    image = torch.randn(1, 3, 64, 96)  # 4×6 patches, so windows of 2×3
    with torch.no_grad():
        found = windowed(image)[0].maps()[0]
        x = trunk._with_prefix(trunk.patch_embed(image)[0], (4, 6))[0]
        windows = x[1:].view(2, 2, 2, 3, 32).transpose(1, 2).reshape(4, 6, 32)
        x = torch.cat([x[:1].expand(4, 1, 32), windows], dim=1).reshape(4 * 7, 32)
        x = trunk.blocks[0](x, [7] * 4, [28])
        x = trunk.norm(trunk.blocks[1](x, [28], [28])).view(4, 7, 32)[:, 1:]
        expected = x.reshape(2, 2, 2, 3, 32).transpose(1, 2).reshape(4, 6, 32).permute(2, 0, 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("setup", ["plain", "rope windows"])
def test_grad_checkpointing_changes_nothing(setup):
    backbone = make(setup, drop_path=0.5).train()
    images = [torch.randn(3, 40, 60), torch.randn(3, 64, 33)]

    def gradients(enabled: bool):
        backbone.trunk.grad_checkpointing = enabled
        backbone.zero_grad()
        torch.manual_seed(1)
        sum(level.x.square().sum() for level in backbone(images)).backward()
        return [parameter.grad.clone() for parameter in backbone.parameters()]

    for got, expected in zip(gradients(True), gradients(False)):
        torch.testing.assert_close(got, expected)


def test_drop_path_drops_whole_images():
    block = randomise(Backbone(TINY, **SMALL, drop_path=0.5)).trunk.blocks[-1].train()
    lengths, outcomes = [3, 5, 4] * 20, set()
    x = torch.randn(sum(lengths), 32)
    for part, before in zip(block(x, lengths, lengths).split(lengths), x.split(lengths)):
        unchanged = (part == before).all(dim=1)
        assert unchanged.all() or not unchanged.any()
        outcomes.add(bool(unchanged.all()))
    assert outcomes == {True, False}
    branch, kept = torch.ones(400, 8), []
    for lengths in ([4] * 100, [3, 5] * 50):
        kept.append(block.drop_path(branch, lengths)[:, 0])
    assert set(torch.cat(kept).tolist()) == {0.0, 2.0}  # scaled, so that the expectation stays


@pytest.mark.parametrize(("freeze", "frozen_blocks"), [(0, 0), (2, 2), (-1, 3), ("all", 3)])
def test_freeze(freeze, frozen_blocks):
    backbone = make("plain", freeze=freeze, drop_path=0.5).train()
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    for i, block in enumerate(backbone.trunk.blocks):
        assert block.training == (i >= frozen_blocks)
        assert any(name.startswith(f"trunk.blocks.{i}.") for name in trained) == (i >= frozen_blocks)
    for name in ("trunk.patch_embed.proj.weight", "trunk.pos_embed", "trunk.cls_token"):
        assert (name in trained) == (freeze == 0)
    assert ("trunk.norm.weight" in trained) == (freeze not in (-1, "all"))
    assert any(name.startswith("neck.") for name in trained)
    sum(level.x.square().sum() for level in backbone([torch.randn(3, 40, 60)])).backward()
    assert {name for name, parameter in backbone.named_parameters() if parameter.grad is not None} == trained


def test_a_changed_position_embedding_is_seen():
    """The resampled tables are kept only while the parameter stays what it was."""
    backbone = make("plain").eval()
    images = torch.randn(1, 3, 40, 60)
    with torch.inference_mode():
        before = backbone(images)[0].x.clone()
    with torch.no_grad():
        assert torch.equal(backbone(images)[0].x, before)
        backbone.trunk.pos_embed += torch.randn_like(backbone.trunk.pos_embed)
        after = backbone(images)[0].x
    assert not torch.allclose(before, after)
    fresh = copy.deepcopy(backbone)
    fresh.trunk._tables.clear()
    assert torch.equal(fresh(images)[0].x, after)


@pytest.mark.parametrize("setup", SETUPS)
def test_tables_made_at_inference_serve_training(setup):
    backbone = make(setup)
    images = torch.randn(
        1, 3, 16 * 7, 16 * 11 + 3 * list(SETUPS).index(setup)
    )  # sizes that no other test has made tables for
    with torch.inference_mode():
        backbone(images)
    backbone(images)[0].x.sum().backward()


def test_layer_ids_and_no_weight_decay():
    backbone = make("conv stem")
    ids = backbone.layer_ids()
    assert set(ids) == {name for name, _ in backbone.named_parameters()}
    assert ids["trunk.pos_embed"] == ids["trunk.patch_embed.proj.weight"] == ids["trunk.cls_token"] == 0
    assert [ids[f"trunk.blocks.{i}.mlp.fc1.weight"] for i in range(3)] == [1, 2, 3]
    assert {i for name, i in ids.items() if name.startswith(("neck.", "trunk.norm."))} == {4}
    assert backbone.num_layers == 5
    assert backbone.no_weight_decay() == {"trunk.pos_embed", "trunk.cls_token"}
    assert "trunk.rope.freqs" in make("mixed rope").no_weight_decay()


def test_blocks_behind_the_last_tap_are_dropped():
    assert len(Backbone(TINY, **SMALL, out_blocks=[1]).trunk.blocks) == 2
    assert Backbone(TINY, model_args={"embed_dim": 32, "num_heads": 2}, depth=12).trunk.taps == (2, 5, 8, 11)


@pytest.mark.parametrize("setup", SETUPS)
def test_rebuilt_from_its_own_config(setup):
    backbone = make(setup).eval()
    again = build(config_of(backbone)).eval()
    buffer = io.BytesIO()
    torch.save(backbone.state_dict(), buffer)
    buffer.seek(0)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    images = torch.randn(1, 3, 40, 60)
    assert all(torch.equal(a.x, b.x) for a, b in zip(again(images), backbone(images)))


def test_bad_images_are_refused():
    backbone = make("plain")
    for images, message in [
        ([], "no images"),
        (torch.randn(3, 32, 32), r"wanted \(B, 3, H, W\)"),
        ([torch.zeros(3, 32, 32, dtype=torch.uint8)], "uint8; wanted"),
        ([torch.randn(32, 32)], r"got an image \(32, 32\)"),
        ([torch.randn(3, 0, 32)], r"\(3, 0, 32\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            backbone(images)


def test_create_backbone_is_backbone():
    assert create_backbone(TINY, **SMALL).init_args == Backbone(TINY, **SMALL).init_args


@pytest.mark.parametrize("setup", ["plain", "windows", "rope windows", "conv stem"])
def test_exports_as_one_graph(setup):
    backbone = make(setup).eval()
    images = torch.randn(
        2, 3, 7 * 16, 11 * 16
    )  # a grid that no other test uses: tracing must not leave its tensors in a cache
    program = torch.export.export(Levels(backbone), (images,))
    for got, level in zip(program.module()(images), backbone(images)):
        torch.testing.assert_close(got, level.x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("setup", SETUPS)
def test_autocast(setup):
    backbone = make(setup).train()
    images = [torch.randn(3, 40, 60), torch.randn(3, 33, 20)]
    with torch.autocast("cpu", torch.bfloat16):
        features = backbone(images)
    for level, expected in zip(features, backbone(images)):
        difference = (level.x.float() - expected.x).norm() / expected.x.norm()
        assert difference < 0.05
    sum(level.x.float().square().sum() for level in features).backward()


class Levels(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images):
        return [level.x for level in self.backbone(images)]


def test_most_filters_of_the_convolutional_stem_start_blind_to_flat_colour():
    stem = Backbone(TINY, **SMALL, stem=NARROW).trunk.patch_embed
    flat = torch.rand(1, 3, 1, 1).expand(1, 3, 32, 32)
    answers = stem.convs[0](flat)[0, :, 1:-1, 1:-1].abs().amax((1, 2))  # (8,), away from the border
    assert (answers < 1e-5).sum() == 6 and (answers > 1e-3).sum() == 2
