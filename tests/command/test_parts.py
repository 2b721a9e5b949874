"""Parts inside a head: their keys, their values and what is said of wrong ones, for dataclasses and for classes."""

import dataclasses

import pytest

import vitdet
from vitdet import renamed
from vitdet.cli import load_config, main
from vitdet.command.files import ConfigError
from vitdet.command.keys import sections
from vitdet.command.layers import PARTS
from vitdet.command.run import complete, read_config

CONFIG = """
model:
  backbone: {name: vit_tiny_patch16_224, embed_dim: 32, depth: 1, num_heads: 2, out_channels: 32}
  head: {class_path: small_parts.FilterHead, dim: 32}
data: {class_path: ShapesData, root: ROOT, train_images: 2, val_images: 2, size: 64, batch_size: 2}
trainer: {accelerator: cpu}
"""
MODULE = '''
from collections.abc import Callable

from vitdet import SemanticHead
from vitdet.config import Configurable, options
from vitdet.ranges import number


@options({"share": number(0, 1)})
class Drop:
    """What training leaves out.

    Args:
        share: of the tokens that are dropped.
        names: of what is never dropped.
    """

    share: float = 0.25
    names: list[str] | None = None


class Filter(Configurable):
    """A filter.

    Args:
        width: of the filter, in tokens.
    """

    def __init__(self, channels: int, *, width: int = 3):
        self.channels, self.width = channels, width


class Sharp(Filter):
    """A filter of another kind.

    Args:
        gain: how much it amplifies.
    """

    def __init__(self, channels: int, *, gain: float = 1.0, **options):
        super().__init__(channels, **options)
        self.gain = gain


class FilterHead(SemanticHead):
    """A head with parts.

    Args:
        filter: what it filters with.
        drop: what training leaves out, see `Drop`.
        jitter: noise, or none.
    """

    kinds = ("instances",)

    def __init__(
        self,
        in_channels,
        strides,
        num_classes,
        *,
        filter: Callable[[int], Filter] | None = Filter,
        drop: Drop = Drop(),
        jitter: bool | Drop = False,
        **options,
    ):
        super().__init__(in_channels, strides, num_classes, **options)
        self.filter = None if filter is None else self.make_part("filter", filter, 8)
        self.drop, self.jitter = drop, jitter
'''


@pytest.fixture
def config(tmp_path, monkeypatch):
    (tmp_path / "small_parts.py").write_text(MODULE)
    (tmp_path / "a.yaml").write_text(CONFIG.replace("ROOT", str(tmp_path / "shapes")))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "small_parts", raising=False)
    return tmp_path / "a.yaml"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], "Filter 3, 0.25 None, False"),
        (["--model.head.drop.share", "0.5"], "Filter 3, 0.5 None, False"),
        (["--model.head.drop", "{names: [a]}"], "Filter 3, 0.25 ['a'], False"),
        (["--model.head.jitter", "true"], "Filter 3, 0.25 None, True"),
        (["--model.head.jitter.share", "1"], "Filter 3, 0.25 None, Drop(share=1.0, names=None)"),
        (["--model.head.filter.width", "5"], "Filter 5, 0.25 None, False"),
        (["--model.head.filter", "small_parts.Sharp"], "Sharp 3, 0.25 None, False"),
        (
            ["--model.head.filter", "small_parts.Sharp", "--model.head.filter.width", "7"],
            "Sharp 7, 0.25 None, False",
        ),
        (["--model.head.filter", "null"], "None, 0.25 None, False"),
    ],
    ids=" ".join,
)
def test_the_parts_that_are_asked_for_are_built(config, words, wanted):
    head = load_config(config, words)[0].head
    part = "None" if head.filter is None else f"{type(head.filter).__name__} {head.filter.width}"
    assert f"{part}, {head.drop.share} {head.drop.names}, {head.jitter}" == wanted
    assert head.filter is None or head.filter.channels == 8


MISTAKES = [
    (
        "drop.shar",
        "1",
        "--model.head.drop.shar: there is no key model.head.drop.shar; did you mean model.head.drop.share?",
    ),
    ("share", "1", "there is no key model.head.share; did you mean model.head.drop.share?"),
    ("drop.share", "much", "--model.head.drop.share is 'much'; wanted float"),
    ("drop.share", "null", "--model.head.drop.share is null; wanted float"),
    ("drop.share", "2", "share is 2.0; wanted a number from 0 to 1"),
    ("drop", "null", "--model.head.drop is null; wanted Drop"),
    ("drop", "{shar: 1}", "there is no key model.head.drop.shar; did you mean model.head.drop.share?"),
    ("jitter", "often", "--model.head.jitter is 'often'; wanted bool | Drop"),
    ("jitter.names", "3", "--model.head.jitter.names is '3'; wanted list[str] | None"),
    ("filter.widht", "1", "there is no key model.head.filter.widht; did you mean model.head.filter.width?"),
    ("filter.width", "a", "--model.head.filter.width is 'a'; wanted int"),
    ("filter.channels", "4", "there is no key model.head.filter.channels"),
    ("filter", "small_parts.Dull", "--model.head.filter: there is no class Dull in small_parts"),
    (
        "filter",
        "small_parts.Drop",
        "--model.head.filter: small_parts.Drop is no filter of vitdet; give a subclass of Filter",
    ),
]


@pytest.mark.parametrize(("key", "value", "sentence"), MISTAKES, ids=[f"{key}={value}" for key, value, _ in MISTAKES])
def test_what_is_said_of_a_wrong_part(config, key, value, sentence):
    with pytest.raises(ConfigError) as refused:
        load_config(config, [f"--model.head.{key}", value])
    assert sentence in str(refused.value)


def test_help_lists_the_keys_of_parts(config, capsys):
    main(["train", str(config), "--model.head.filter", "small_parts.Sharp", "--help"])
    shown = capsys.readouterr().out
    for lines in (
        "model.head.filter: what it filters with (Sharp)",
        "  --model.head.filter.gain  float = 1.0\n      how much it amplifies.",
        "  --model.head.filter.width  int = 3\n      of the filter, in tokens.",
        "model.head.drop: what training leaves out (Drop)",
        "  --model.head.drop.share  float = 0.25\n      of the tokens that are dropped.",
        "  --model.head.jitter  bool | Drop = False\n      noise, or none.",
    ):
        assert lines in shown
    assert "filter.channels" not in shown


@pytest.mark.parametrize(
    "name", [name for name in vitdet.__all__ if name.endswith(("Head", "Data")) and name != "Head"]
)
def test_a_class_inside_a_part_of_vitdet_may_be_given_in_every_short_way(name):
    """The table says where a name may stand for a class, and what is given below it for its arguments."""
    key = "data" if name.endswith("Data") else "head"
    part = {"class_path": f"vitdet.{name}", "init_args": {}}
    config = complete({"data": part} if key == "data" else {"model": {"head": part}}, None)
    for section in sections(config):
        for known in section.keys if not section.name.startswith("trainer") else ():
            if known.part is not None and not dataclasses.is_dataclass(known.part.cls):
                assert known.name in PARTS


def test_the_options_of_before_are_read_where_no_class_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(renamed.MOVED, "DETRHead", {"width": "dim", "scale": "selection.anchor_scale"})
    monkeypatch.setitem(renamed.MOVED, "Backbone", {"neck_name": "neck.name"})
    (tmp_path / "a.yaml").write_text("model: {head: {width: 8, scale: 3}, backbone: {neck_name: a}}")
    (tmp_path / "b.yaml").write_text("base: a.yaml\nmodel: {head: {class_path: DETRHead, width: 16}}")
    for name, dim in (("a", 8), ("b", 16)):
        model = read_config(tmp_path / f"{name}.yaml")["model"]
        assert model["head"]["class_path"] == "vitdet.DETRHead"
        assert model["head"]["init_args"] == {"dim": dim, "selection": {"anchor_scale": 3}}
        assert model["backbone"]["init_args"]["neck"]["init_args"] == {"name": "a"}
