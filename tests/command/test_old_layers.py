"""Options of before in files that lie on each other, and on the command line: they mean what they meant."""

import sys
import types

import pytest
import yaml

import vitdet
from vitdet.cli import main
from vitdet.command.files import ConfigError
from vitdet.command.layers import apply_settings, read_layers, read_words
from vitdet.command.run import complete, read_command
from vitdet.config import build, config_of
from vitdet.renamed import renew

CSP, PYRAMID, PROJECTOR = "vitdet.CSPNeck", "vitdet.Pyramid", "vitdet.Projector"
BACKBONE, HEAD = "model.backbone", "model.head"


def merged(tmp_path, section, layers, words):
    """The arguments of a section of files that lie on each other, each a few keys of it, with settings on top."""
    for number, keys in enumerate(layers):
        content = keys if section == "data" else {section.partition(".")[2]: keys}
        file = {"base": f"{number - 1}.yaml"} if number else {}
        file |= {"data": content} if section == "data" else {"model": content}
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(file))
    settings = read_words([f"--{section}.{word}" if i % 2 == 0 else word for i, word in enumerate(words)])[0]
    config = complete(read_layers(tmp_path / f"{len(layers) - 1}.yaml"), None, layer=True)
    config = complete(apply_settings(config, settings), None)
    return (config["data"] if section == "data" else config["model"][section.partition(".")[2]])["init_args"]


def part(cls, **arguments):
    return {"class_path": cls, "init_args": arguments}


@pytest.mark.parametrize("cls", [{}, {"class_path": "Backbone"}], ids=["default class", "named class"])
@pytest.mark.parametrize(
    ("layers", "words", "expected"),
    [
        # the size of the ViT, in its own options and in model_args
        ([{"embed_dim": 16}], ["model_args", "{mlp_ratio: 2}"], {"model_args": {"mlp_ratio": 2, "embed_dim": 16}}),
        ([{"embed_dim": 16}, {"model_args": {"mlp_ratio": 2}}], [], {"model_args": {"mlp_ratio": 2, "embed_dim": 16}}),
        (
            [{}],
            ["model_args", "{mlp_ratio: 2}", "embed_dim", "24"],
            {"model_args": {"mlp_ratio": 2, "embed_dim": "24"}},
        ),
        ([{"embed_dim": 16}], ["model_args.embed_dim", "24"], {"model_args": {"embed_dim": "24"}}),
        ([{"embed_dim": 16}, {"embed_dim": None}], [], {}),
        ([{"embed_dim": 16}], ["embed_dim", "null"], {}),
        ([{"model_args": {"embed_dim": 16}}], ["embed_dim", "24"], {"model_args": {"embed_dim": "24"}}),
        # options of a neck or stem stay where another one is named by its old name
        ([{"neck_depth": 2}, {"neck": "pyramid"}], [], {"neck": part(PYRAMID, depth=2)}),
        ([{}], ["neck_depth", "2", "neck", "csp"], {"neck": part(CSP, depth="2")}),
        ([{"neck": "csp", "neck_depth": 2}], ["neck", "pyramid"], {"neck": part(PYRAMID, depth=2)}),
        (
            [{"stem": "conv", "stem_width": 8}, {"stem": "adapter"}],
            [],
            {"stem": part("vitdet.SpatialAdapter", width=8)},
        ),
        (
            [{"stem": "conv", "stem_width": 8}, {"stem": "patch"}],
            ["stem", "conv"],
            {"stem": part("vitdet.ConvStem", width=8)},
        ),
        ([{"neck": None}, {"neck_depth": 2}], [], {"neck": None}),
        ([{"neck": "csp"}], ["neck_args", "{norm: frozen_batch}"], {"neck": part(CSP, norm="frozen_batch")}),
        # with today's form in one of the layers, today's rules hold, and the upper layer counts
        ([{"neck": "csp", "neck_depth": 2}], ["neck.depth", "3"], {"neck": part(CSP, depth="3")}),
        ([{"neck": "csp", "neck_depth": 2}], ["neck", "Pyramid"], {"neck": part(PYRAMID)}),
        ([{"neck": {"class_path": "CSPNeck", "depth": 2}}], ["neck_depth", "3"], {"neck": part(CSP, depth="3")}),
        ([{"neck": {"class_path": "CSPNeck", "depth": 2}}], ["neck", "pyramid"], {"neck": part(PYRAMID)}),
    ],
)
def test_the_backbone(tmp_path, cls, layers, words, expected):
    assert merged(tmp_path, BACKBONE, [{**cls, **layers[0]}, *layers[1:]], words) == expected


@pytest.mark.parametrize(
    ("layers", "words", "expected"),
    [
        ([{"masks": True, "mask_branch": "refined"}, {"masks": True}], [], {"masks": {"branch": "refined"}}),
        ([{"masks": True, "mask_branch": "refined"}], ["masks", "true"], {"masks": {"branch": "refined"}}),
        ([{"mask_branch": "refined"}], ["masks", "true"], {"masks": {"branch": "refined"}}),
        ([{"masks": True}], ["mask_points", "7"], {"masks": {"points": "7"}}),
        # without masks, their options say nothing
        ([{"masks": False}, {"mask_branch": "refined"}], [], {"masks": False}),
        ([{}], ["mask_points", "7"], {}),
        ([{"masks": True, "mask_points": 7}], ["masks", "false"], {"masks": False}),
        # with today's form
        ([{"masks": {"branch": "refined"}}], ["mask_points", "7"], {"masks": {"branch": "refined", "points": "7"}}),
        ([{"masks": False, "mask_points": 9}], ["masks.branch", "refined"], {"masks": {"branch": "refined"}}),
        ([{"masks": True, "mask_points": 9}], ["masks.points", "7"], {"masks": {"points": "7"}}),
        # a mapping on the command line lies on that of the file, key by key, as in a file
        (
            [{"decoder": {"num_points": 2, "ffn_dim": 8}}],
            ["decoder", "{num_points: 3}"],
            {"decoder": {"num_points": 3, "ffn_dim": 8}},
        ),
    ],
)
def test_the_masks_of_a_detection_head(tmp_path, layers, words, expected):
    assert merged(tmp_path, HEAD, layers, words) == expected


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("vitdet.heads.detr.DETRHead", "vitdet.DETRHead"),
        ("vitdet.heads.mask.MaskDecoderHead", "vitdet.MaskDecoderHead"),
        ("vitdet.heads.deim.DEIMHead", "vitdet.DEIMHead"),
        ("vitdet.heads.mask.eomt.EoMTHead", "vitdet.EoMTHead"),
        ("vitdet.backbone.Backbone", "vitdet.Backbone"),
        ("vitdet.data.CocoData", "vitdet.CocoData"),
        ("vitdet.training.ema.EMA", "vitdet.training.EMA"),
        ("mine.DETRHead", "mine.DETRHead"),
    ],
)
def test_a_class_is_known_by_any_module_that_it_has_been_in(before, now):
    assert renew({"class_path": before})["class_path"] == now


@pytest.fixture
def mine(monkeypatch):
    """A module of a user's, whose classes have arguments that vitdet's had, too."""
    module = types.ModuleType("mine")

    class Data(vitdet.ShapesData):
        def __init__(self, *, crop: int = 5, mean: float = 0.5, **options):
            super().__init__(**options)
            self.added = crop, mean

    class Anchored(vitdet.DETRHead):
        def __init__(self, in_channels, strides, num_classes, *, anchor_scale: float = 2.0, **options):
            super().__init__(in_channels, strides, num_classes, selection={"anchor_scale": anchor_scale}, **options)

    for cls in (Data, Anchored):
        cls.__module__, cls.__qualname__ = "mine", cls.__name__
        setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, "mine", module)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("Data", {"crop": 7, "mean": 0.1, "mosaic": 0.5}, {"crop": 7, "mean": 0.1, "augmentation": {"mosaic": 0.5}}),
        ("Anchored", {"anchor_scale": 3.0, "num_points": 2}, {"anchor_scale": 3.0, "decoder": {"num_points": 2}}),
    ],
)
def test_an_argument_that_a_class_of_the_users_adds_stays(mine, name, given, expected):
    path = f"mine.{name}"
    assert renew({"class_path": path, "init_args": given})["init_args"] == expected
    for layer in (True, False):
        assert renew({"class_path": path, "init_args": expected}, layer=layer)["init_args"] == expected


def test_such_an_argument_is_built_from_a_file(mine):
    head = build(config_of(sys.modules["mine"].Anchored([8], [16], 2, anchor_scale=3.0, dim=8)))
    assert config_of(head) == renew(config_of(head))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["model.backbone", "{neck: {depth: 2}, neck_depth: 3}"], "neck_depth is now neck.depth, and both are given"),
        (["model.backbone", "{neck: csp, neck_args: text}"], "neck_args is 'text'; wanted a mapping"),
        (["model.backbone", "{model_args: text, embed_dim: 8}"], "model_args is 'text'; wanted a mapping"),
        (["model.backbone", "{trunk: text, windows: 2}"], "trunk is 'text'; wanted a mapping"),
        (["model.head", "{masks: {points: 2}, mask_points: 3}"], "masks.branch and masks.points, and both are given"),
        (["model.backbone.trunk", "[2]"], "--model.backbone.trunk is '[2]'; wanted TrunkOptions"),
        (["model.backbone", "{trunk: [2]}"], "trunk is [2]; wanted TrunkOptions"),
        (["model.head.anchor_scale", "big"], "--model.head.selection.anchor_scale is 'big'; wanted float"),
    ],
)
def test_what_is_said_of_a_wrong_one(tmp_path, capsys, words, sentence):
    config = tmp_path / "config.yaml"
    config.write_text("model: {backbone: {name: vit_tiny_patch16_224, depth: 2}}\ndata: ShapesData")
    key, value = words
    with pytest.raises(ConfigError) as refused:
        read_command("train", [str(config), f"--{key}", value])
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value) and str(refused.value).startswith((str(config), f"--{key}"[:8]))
    with pytest.raises(SystemExit) as ended:
        main(["train", str(config), f"--{key}", value])
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_a_neck_that_is_made_already_is_refused():
    with pytest.raises(vitdet.UserError, match="wanted a neck, such as"):
        neck = vitdet.Backbone("vit_tiny_patch16_224", depth=2).neck
        vitdet.Backbone("vit_tiny_patch16_224", depth=2, neck=neck)
