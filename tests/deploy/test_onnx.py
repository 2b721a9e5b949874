"""Models as ONNX graphs whose batch, height and width are free, against PyTorch."""

import dataclasses
from functools import partial

import onnx
import pytest
import torch
from exported import SIZES, Exported, check_equal, detector
from timm import is_model

from vitdet import (
    Backbone,
    ConvStem,
    CSPNeck,
    DEIMHead,
    DETRHead,
    EoMTHead,
    HybridNeck,
    MaskDecoderHead,
    PlainDETRHead,
    Pyramid,
    SemanticHead,
    SpatialAdapter,
    zoo,
)
from vitdet.config import build
from vitdet.deploy.export import export_onnx
from vitdet.deploy.export.write import OPSET
from vitdet.errors import UserError

TINY = {"embed_dim": 32, "num_heads": 2}
QUERIES = {"num_classes": 5, "dim": 32, "num_queries": 12, "num_layers": 2}
SMALL = {**QUERIES, "decoder": {"num_heads": 4, "ffn_dim": 32, "num_points": 2}}


def make_backbone(name: str = "vit_tiny_patch16_224", **options) -> Backbone:
    sizes = {**TINY, **options.pop("model_args", {})}
    return Backbone(name, depth=options.pop("depth", 2), model_args=sizes, **{"out_channels": 32, **options})


def with_head(head, **options):
    """A detector of a tiny backbone and the head that `head(in_channels, strides)` makes."""
    backbone = make_backbone(**options)
    return detector(backbone, head(backbone.out_channels, backbone.strides))


HEADS = {
    "detr": lambda: with_head(partial(DETRHead, **SMALL), out_strides=[8, 16]),
    "detr, more queries than tokens, few points": lambda: with_head(
        partial(DETRHead, **{**SMALL, "num_queries": 40}, selection={"distinct": None}), out_strides=[32]
    ),
    "detr with masks": lambda: with_head(partial(DETRHead, **SMALL, masks=True), out_strides=[16]),
    "detr with refined masks": lambda: with_head(
        partial(DETRHead, **SMALL, masks={"branch": "refined"}),
        name="vit_small_patch14_dinov2",
        neck=CSPNeck,
        out_strides=[14],
    ),
    "plain detr": lambda: with_head(partial(PlainDETRHead, **QUERIES, num_heads=4, ffn_dim=32)),
    "deim": lambda: with_head(
        partial(DEIMHead, **QUERIES, num_heads=4, ffn_dim=32, num_points=[1, 2, 1]),
        stem=SpatialAdapter,
        neck=partial(HybridNeck, csp_channels=16, ffn_dim=32, num_heads=4),
    ),
    "masks": lambda: with_head(
        partial(MaskDecoderHead, **QUERIES, num_heads=4, ffn_dim=32, task="panoptic"), out_strides=[8, 16]
    ),
    "eomt": lambda: with_head(
        partial(EoMTHead, num_classes=5, num_queries=8, task="instances"), neck=None, tail=1, depth=3
    ),
    "semantic": lambda: with_head(partial(SemanticHead, num_classes=5, dim=16), stem=ConvStem, neck=Pyramid),
}


@pytest.mark.parametrize("name", HEADS)
def test_every_head(name, tmp_path):
    model = HEADS[name]()
    exported = Exported.of(model, tmp_path / "model.onnx")
    check_equal(model, exported)
    # predictions at the size of the originals: of images of two sizes, in one call
    torch.manual_seed(1)
    images, sizes = [torch.randn(3, 64, 96), torch.randn(3, 71, 52), torch.randn(3, 64, 96)], [(50, 70), (99, 70)] * 2
    expected = model.infer(images, sizes[:3])
    for found in exported.predictions(images, sizes[:3]).values():
        for got, want in zip(found, expected, strict=True):
            torch.testing.assert_close(got.scores, want.scores, rtol=0, atol=1e-4)
            torch.testing.assert_close(got.boxes_xyxy, want.boxes_xyxy, rtol=0, atol=1e-2)
            for kind in ("masks", "semantic", "panoptic"):
                value = getattr(want, kind)
                assert value is None or (getattr(got, kind) != value).float().mean() < 1e-3


ZOO = ["rf-detr-nano", "rf-detr-seg-nano", "lw-detr-tiny", "deimv2-s", "deimv2-l"]
ZOO += ["eomt-small-coco-panoptic-640", "eomt-dinov3-small-coco-panoptic-640"]


def shrunk(name: str):
    """A published model with few channels and blocks, and else as it is."""
    card = zoo.find(name)
    backbone, head = dict(card.backbone), dict(card.head)
    tail = backbone.get("tail", 0)
    trunk = {**backbone.get("trunk", {})}
    trunk |= {"global_blocks": [1]} if "global_blocks" in trunk else {}
    trunk |= {"canvas": 96} if "canvas" in trunk else {}
    backbone |= {"depth": 2 + tail, "trunk": trunk}
    backbone["model_args"] = {**backbone.get("model_args", {}), **TINY}
    backbone |= {} if tail else {"out_blocks": [0, 1], "out_channels": 32}
    if "DEIM" in card.head_class:
        backbone["out_blocks"] = [1]
        backbone["neck"] = {**backbone["neck"], "init_args": {"csp_channels": 16, "ffn_dim": 32, "num_heads": 4}}
    head |= {"num_queries": 12}
    head |= {} if tail else {"dim": 32, "num_layers": 2}
    head |= {"decoder": {**head["decoder"], "ffn_dim": 32, "cross_heads": 8}} if "decoder" in head else {}
    config = dataclasses.replace(card, backbone=backbone, head=head).config()
    made = build(config["backbone"])
    sizes = {"in_channels": made.out_channels, "strides": made.strides, "num_classes": 5}
    config["head"]["init_args"] |= sizes
    return detector(made, build(config["head"]))


QUICK = {"rf-detr-nano"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ZOO]
)
def test_every_family_of_the_zoo(name, tmp_path):
    model = shrunk(name)
    check_equal(model, Exported.of(model, tmp_path / "model.onnx"))


# one name per difference between timm's families, as in tests/backbone/test_timm.py
FAMILIES = [
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_base_patch16_clip_224",
    "vit_base_patch16_siglip_256",
    "vit_small_patch14_reg4_dinov2",
    "flexivit_small",
    "vit_medium_patch16_reg4_gap_256",
    "vit_base_patch16_rope_224",
    "vit_small_patch16_rope_mixed_ape_224",
    "eva02_tiny_patch14_224",
    "eva02_base_patch16_clip_224",
    "eva_giant_patch14_224",
    "vit_small_patch16_dinov3_qkvb",
    "vit_pe_core_tiny_patch16_384",
    "eva02_enormous_patch14_clip_224",
    "vit_base_patch16_sapiens2",
]
WINDOWS = {"windows": 3, "global_blocks": [1]}
TRUNKS = {
    "windows": WINDOWS,
    "windows of number": {**WINDOWS, "windows": "2x3", "window_prefix": "window"},
    "windows and relative positions": {**WINDOWS, "relative_position": 4},
    "relative positions": {"relative_position": 4},
    "plain bicubic": {"pos_antialias": False},
}


def linear(name: str, **options):
    """A linear classifier of the tokens of both blocks: its logits are as exact as the trunk."""
    extra = {"model_args": {"num_kv_heads": 1}} if "sapiens" in name else {}
    backbone = make_backbone(name, out_blocks=[0, 1], neck=None, **extra, **options)
    return detector(backbone, SemanticHead(backbone.out_channels, backbone.strides, 5, dim=16))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if is_model(name)])
def test_every_family_of_timm(name, tmp_path):
    model = linear(name)
    check_equal(model, Exported.of(model, tmp_path / "model.onnx", both="rope" in name))


@pytest.mark.slow
@pytest.mark.parametrize("options", TRUNKS)
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_rope_mixed_224"])
def test_every_trunk(name, options, tmp_path):
    model = linear(name, trunk=TRUNKS[options])
    check_equal(model, Exported.of(model, tmp_path / "model.onnx", both="rope" not in name))


def test_only_operators_that_all_engines_have(tmp_path):
    model = HEADS["detr with refined masks"]()
    proto = onnx.load(export_onnx(model, tmp_path / "model.onnx"))
    onnx.checker.check_model(proto)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", OPSET)]
    names = {node.op_type for node in proto.graph.node}
    assert not names & {"GridSample", "Loop", "If", "Scan"}
    free = [axis.dim_param for axis in proto.graph.input[0].type.tensor_type.shape.dim]
    assert [free[0], *free[2:]] == ["B", "H", "W"]


def test_metadata_say_what_the_model_is(tmp_path):
    model = HEADS["masks"]()
    said = Exported.of(model, tmp_path / "model.onnx", both=False).metadata
    assert (said["kind"], said["classes"], said["category_ids"]) == ("panoptic", model.classes, model.category_ids)
    assert said["eval_transform"] == model.transform.config and said["thresholds"] == model.thresholds
    assert said["decode"]["things"] == [True] * 5 and said["decode"]["stride"] == 4


def test_pixels_of_8_bits_are_normalised_in_the_graph(tmp_path):
    model = HEADS["semantic"]()
    exported = Exported.of(model, tmp_path / "model.onnx", preprocessing=True)
    pixels = torch.randint(0, 256, (2, 40, 70, 3), dtype=torch.uint8)
    x = torch.stack([model.transform(image.numpy()) for image in pixels])
    expected = torch.stack(model.head(model.backbone(x)).logits.maps())
    for outputs in exported.outputs(pixels).values():
        torch.testing.assert_close(outputs["logits"], expected.detach(), rtol=0, atol=1e-4)


def test_a_fixed_size_leaves_only_the_batch_free(tmp_path):
    model = with_head(partial(DETRHead, **SMALL), trunk={**WINDOWS, "windows": "2x2"}, out_strides=[16])
    exported = Exported.of(model, tmp_path / "model.onnx", size=(64, 96))
    check_equal(model, exported, [(1, 64, 96), (3, 64, 96)])
    shape = onnx.load(exported.path).graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_value for axis in shape][1:] == [3, 64, 96]


def test_tiles_are_those_of_the_model(tmp_path):
    model = with_head(partial(SemanticHead, num_classes=5, tile=48), neck=None)
    exported = Exported.of(model, tmp_path / "model.onnx", both=False)
    images, sizes = [torch.randn(3, 64, 96), torch.randn(3, 40, 52)], [(50, 70), (40, 52)]
    for found in exported.predictions(images, sizes).values():
        for got, want in zip(found, model.infer(images, sizes), strict=True):
            assert (got.semantic != want.semantic).float().mean() < 1e-3


class Unknown(SemanticHead):
    pass


def test_a_head_of_the_users_own_is_refused(tmp_path):
    model = with_head(partial(Unknown, num_classes=5), neck=None)
    with pytest.raises(UserError, match="a Unknown can't be exported; wanted one of DETRHead"):
        export_onnx(model, tmp_path / "model.onnx")


def test_sizes_differ_and_one_is_no_multiple_of_a_patch():
    assert len({batch for batch, _, _ in SIZES}) == 2 and any(height % 16 for _, height, _ in SIZES)
