"""Options of heads that are out of range, and heads that do not fit backbone or data, are refused where they are
given."""

import dataclasses
import inspect
import math

import pytest
import torch

import vitdet
from vitdet import heads
from vitdet.backbone import Backbone
from vitdet.config import build, config_of
from vitdet.errors import UserError
from vitdet.handshake import Labels, check_features, check_labels
from vitdet.heads import Decoder, DEIMHead, DETRHead, EoMTHead, Head, MaskDecoderHead, PlainDETRHead, SemanticHead
from vitdet.heads.options import RANGES
from vitdet.progress import Progress

PARTS = [value for name, value in vars(heads).items() if name in heads.__all__ and dataclasses.is_dataclass(value)]
HEADS = [v for name, v in vars(heads).items() if name in heads.__all__ and v is not Head and v not in PARTS]
SIZES = ([32, 32], [8, 16], 3)
EMPTY_OK = {"denoising", "anchor_margin", "distinct", "dropout", "threshold", "overlap", "loss_weights"}  # 0 is right
EXTRA = {
    "dim": [30, 7.5],
    "dropout": [1.0],
    "anchor_fraction": [1.5],
    "anchor_margin": [0.5],
    "distinct": [1.5],
    "threshold": [1.01, 50],
    "overlap": [1.01],
    "loss_weights": [{"class": -1.0}, {"class": math.nan}, {"clas": 1.0}, [1.0]],
    "annealing": [[0.5], [0.5, 0.2], [0.5, 1.2], [0.1, 0.2, 0.3], 0.5],
    "num_points": [[4, 0], [], [4, 4, 4]],
    "num_heads": [5],
    "cross_heads": [5],
    "mask_stride": [64],
    "class_loss": ["vfl"],
    "content": ["token"],
    "refine": ["no"],
    "branch": ["refine"],
    "task": ["boxes", "panoptics"],
    "masks": ["yes"],
    "in_channels": [[], [0, 32], "32"],
    "strides": [[], [0, 16], 16],
}


def options(cls):
    """The options of a head, and what is wrong for each."""
    for name, parameter in list(inspect.signature(cls).parameters.items()):
        wrong = [-1, math.nan, "x", *EXTRA.get(name, [])]
        wrong += [] if name in EMPTY_OK or (cls is SemanticHead and name == "dim") else [0]
        wrong += [] if type(None) in getattr(parameter.annotation, "__args__", ()) else [None]
        if cls in (SemanticHead, DEIMHead) and name == "dim":
            wrong.remove(30)
        if cls is Decoder:  # only with the head's levels and width is it known whether these fit
            wrong = [value for value in wrong if value not in ([4, 4, 4], 5)]
        for value in wrong:
            yield pytest.param(cls, name, value, id=f"{cls.__name__}-{name}-{value}")


@pytest.mark.parametrize(("cls", "name", "value"), [case for cls in HEADS + PARTS for case in options(cls)])
def test_every_option_is_checked(cls, name, value):
    """A new option fails here until it is annotated as a choice, or has a rule in `RANGES`."""
    needed = {} if cls in PARTS else dict(zip(("in_channels", "strides", "num_classes"), SIZES))
    with pytest.raises(
        UserError, match=rf"^(head\.)?{name} is |dim is 256; wanted a multiple of 5 \({name}\)|loss_weights has"
    ):
        cls(**{**needed, name: value})


def test_the_table_has_no_option_that_no_head_has():
    assert set(RANGES) == {n for cls in HEADS + PARTS for n in inspect.signature(cls).parameters if n in RANGES}


def test_no_head_takes_more_than_fifteen_arguments():
    counts = {cls.__name__: len(inspect.signature(cls).parameters) for cls in HEADS}
    assert max(counts.values()) <= 15, counts


@pytest.mark.parametrize("option", [{"dim": 30}, {"decoder": {"num_heads": 5}}, {"decoder": {"cross_heads": 5}}])
def test_the_width_is_a_multiple_of_the_heads(option):
    with pytest.raises(UserError, match=r"^dim is \d+; wanted a multiple of \d"):
        DETRHead(*SIZES, **option)


@pytest.mark.parametrize("value", [{"num_pints": 4}, {"num_points": -1}, 4, "conv"])
def test_a_part_is_checked_where_it_is_given(value):
    with pytest.raises(UserError, match=r"decoder (is|has) |num_points is -1"):
        DETRHead(*SIZES, decoder=value)


@pytest.mark.parametrize("cls", HEADS)
def test_what_is_at_the_edge_is_right(cls):
    least = {"num_queries": 1, "num_layers": 1, "num_heads": 1, "num_points": 1, "ffn_dim": 1, "denoising": 0}
    least |= {"max_detections": 1, "annealing": [0, 0], "dim": 4, "masks": {"points": 1}}
    least |= {"decoder": {"num_heads": 1, "num_points": 1, "ffn_dim": 1}, "rules": {"threshold": 1.0, "overlap": 0}}
    own = {name: value for name, value in least.items() if name in inspect.signature(cls).parameters}
    head = cls(*SIZES, **own)
    assert build(config_of(head)).init_args == head.init_args


@pytest.mark.parametrize(
    ("cls", "num_layers"), [(DEIMHead, 1), (DETRHead, 1), (PlainDETRHead, 1), (MaskDecoderHead, 1)]
)
def test_one_of_each_trains(cls, num_layers, make_features, make_targets):
    layer = {"num_heads": 1, "ffn_dim": 1}
    layer = {"decoder": layer} if cls is DETRHead else layer
    head = cls(*SIZES, dim=8, num_queries=1, num_layers=num_layers, **layer)
    features, targets = make_features([(64, 96), (40, 50)]), make_targets([(64, 96), (40, 50)], [3, 0])
    total = head.total(head.loss(head(features, targets), targets))
    total.backward()
    assert torch.isfinite(total)


TINY = {"model_args": {"embed_dim": 32, "num_heads": 2}, "depth": 4, "out_channels": 32}


def test_heads_and_backbones_that_do_not_fit():
    plain, tail = (Backbone("vit_tiny_patch16_224", **TINY, **more) for more in ({}, {"tail": 2, "neck": None}))
    both = Backbone("vit_tiny_patch16_224", **TINY, tail=2)

    def meet(cls, backbone, **options):
        check_features(backbone, cls(backbone.out_channels, backbone.strides, 3, **options))

    meet(EoMTHead, tail), meet(DETRHead, plain), meet(MaskDecoderHead, plain)
    for backbone in (plain, both):
        with pytest.raises(UserError, match=r"EoMTHead runs .*: set model\.backbone\.tail \(3 or 4\) and neck: null"):
            meet(EoMTHead, backbone)
    for cls in (DETRHead, DEIMHead, PlainDETRHead, MaskDecoderHead, SemanticHead):
        with pytest.raises(UserError, match=rf"model\.backbone\.tail is 2, .* {cls.__name__} does not .*: set it to 0"):
            meet(cls, tail)
    with pytest.raises(UserError, match=r"made for features of \[8, 8\] channels, the backbone gives \[32, 32, 32\]"):
        check_features(plain, DETRHead([8, 8], [8, 16], 3))


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (lambda: DETRHead(*SIZES), "semantic"),
        (lambda: DETRHead(*SIZES, masks=True), "semantic"),
        (lambda: DETRHead(*SIZES), "panoptic"),
        (lambda: DEIMHead(*SIZES), "panoptic"),
        (lambda: PlainDETRHead(*SIZES), "semantic"),
        (lambda: SemanticHead(*SIZES), "instances"),
        (lambda: SemanticHead(*SIZES), "panoptic"),
        (lambda: MaskDecoderHead(*SIZES, task="semantic"), "instances"),
        (lambda: EoMTHead(*SIZES, task="panoptic"), "instances"),
    ],
)
def test_heads_and_data_that_do_not_fit(head, kind):
    advice = r"choose \w+Data, or .* model\.head|leave model\.head\.task out"
    with pytest.raises(UserError, match=rf"(learns from data of \w+, and this|but the data) is {kind}: ({advice})"):
        check_labels(head(), kind)


@pytest.mark.parametrize("kind", ["instances", "semantic", "panoptic"])
def test_heads_of_ones_own_take_any_data(kind):
    check_labels(Head(*SIZES), kind if kind != "semantic" else "panoptic")
    for cls in (MaskDecoderHead, EoMTHead):
        head = cls(*SIZES)
        check_labels(head, kind)
        head.prepare(Progress(), Labels(kind, ("a", "b", "c"), (True,) * 3))
        check_labels(build(config_of(head)), kind)  # as from a checkpoint
    assert vitdet.Head is Head
