"""The words of the command line become settings once, and lie over the files as if each were one more file."""

import pytest

from vitdet.command.files import ConfigError
from vitdet.command.layers import Setting, apply_settings, read_layers, read_words


def test_words_are_read_once():
    words = ["--model.lr", "1e-4", "--data.size=64", "--trainer.callbacks+=A=b", "--data.seed", "-1", "--print_config"]
    assert read_words(words) == (
        [
            Setting("model.lr", "1e-4"),
            Setting("data.size", "64"),
            Setting("trainer.callbacks+", "A=b"),
            Setting("data.seed", "-1"),
        ],
        ["--print_config"],
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["more"], "more is neither a key nor the value of one; wanted --key value"),
        (["--model.lr"], "--model.lr has no value; wanted --model.lr VALUE"),
        (["--model.lr", "--data.size", "3"], "--model.lr has no value"),
        (["--model..lr", "3"], "--model..lr is no key; wanted --section.key VALUE"),
        (["-c", "more.yaml"], "-c is neither a key"),
    ],
)
def test_wrong_words(words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read_words(words)


TRAINER = [  # what a file holds, words, and what becomes of it
    (None, ["--trainer.callbacks+=A", "--trainer.callbacks+", "B"], ["A", "B"]),
    (["A"], ["--trainer.callbacks+=B"], ["A", "B"]),
    (["A"], ["--trainer.callbacks", "B"], "B"),
    (["A"], ["--trainer.callbacks", "null"], None),
    (["A"], ["--trainer.callbacks+=[B, C]"], ["A", "B", "C"]),
    (None, ["--trainer.callbacks", "A", "--trainer.callbacks.x", "1"], {"class_path": "A", "init_args": {"x": "1"}}),
    (
        None,
        ["--trainer.callbacks+=A", "--trainer.callbacks.x=1", "--trainer.callbacks+=B", "--trainer.callbacks.x=2"],
        [{"class_path": "A", "init_args": {"x": "1"}}, {"class_path": "B", "init_args": {"x": "2"}}],
    ),
    (
        [{"class_path": "A", "init_args": {"x": 1, "y": 2}}],
        ["--trainer.callbacks.init_args.x", "3"],
        [{"class_path": "A", "init_args": {"x": "3", "y": 2}}],
    ),
    ({"hours": 1}, ["--trainer.callbacks.minutes", "3"], {"hours": 1, "minutes": "3"}),
]


@pytest.mark.parametrize(("before", "words", "after"), TRAINER, ids=[" ".join(words) for _, words, _ in TRAINER])
def test_lists_and_classes_of_the_trainer(before, words, after):
    config = {} if before is None else {"trainer": {"callbacks": before}}
    assert apply_settings(config, read_words(words)[0]) == {"trainer": {"callbacks": after}}


NECKS = [  # the neck of a file, words, and what becomes of it
    ("SemanticHead", [".depth", "2"], {"class_path": "vitdet.SemanticHead", "init_args": {"depth": "2"}}),
    (
        "{class_path: a.Neck, depth: 1}",
        [".width", "2"],
        {"class_path": "a.Neck", "init_args": {"depth": 1, "width": "2"}},
    ),
    ("{class_path: a.Neck, depth: 1}", ["", "b.Neck"], {"class_path": "b.Neck", "init_args": {}}),
    (
        "{class_path: a.Neck, depth: 1}",
        ["", "{class_path: a.Neck, width: 2}"],
        {"class_path": "a.Neck", "init_args": {"depth": 1, "width": 2}},
    ),
    ("{depth: 1}", ["", "b.Neck"], {"class_path": "b.Neck", "init_args": {}}),
    ("{depth: 1}", [".width", "2"], {"init_args": {"depth": 1, "width": "2"}}),
    ("{depth: 1}", ["", "null"], None),
    ("null", [".width", "2"], {"init_args": {"width": "2"}}),
    ("null", ["", "b.Neck"], {"class_path": "b.Neck", "init_args": {}}),
]


@pytest.mark.parametrize(("file", "words", "after"), NECKS, ids=[f"{file} {' '.join(w)}" for file, w, _ in NECKS])
def test_a_class_inside_the_backbone(file, words, after, tmp_path):
    (tmp_path / "a.yaml").write_text(f"model: {{backbone: {{neck: {file}}}}}")
    key, value = words
    config = apply_settings(read_layers(tmp_path / "a.yaml"), [Setting(f"model.backbone.neck{key}", value)])
    assert config["model"]["backbone"]["init_args"] == {"neck": after}


def test_a_file_over_another_keeps_the_class_inside_the_backbone(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {backbone: {neck: {class_path: a.Neck, depth: 1}}}")
    (tmp_path / "b.yaml").write_text("base: a.yaml\nmodel: {backbone: {neck: {width: 2}}}")
    neck = read_layers(tmp_path / "b.yaml")["model"]["backbone"]["init_args"]["neck"]
    assert neck == {"class_path": "a.Neck", "init_args": {"depth": 1, "width": 2}}


def test_a_part_that_only_the_class_knows_is_kept_too(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {head: {filter: {class_path: a.Filter, init_args: {depth: 1}}}}")
    (tmp_path / "b.yaml").write_text("base: a.yaml\nmodel: {head: {filter: {width: 2}}}")
    part = read_layers(tmp_path / "b.yaml")["model"]["head"]["init_args"]["filter"]
    assert part == {"class_path": "a.Filter", "init_args": {"depth": 1, "width": 2}}
