"""What a user reads does not depend on the words of jsonargparse, which may change with any of its versions."""

import argparse

import pytest

from vitdet.cli import load_config
from vitdet.command.files import ConfigError

CONFIG = """
model:
  backbone: {name: vit_tiny_patch16_224, embed_dim: 32, depth: 1, num_heads: 2, out_channels: 32}
  head: {class_path: DETRHead, dim: 32}
data: {class_path: ShapesData, root: ROOT, train_images: 2, val_images: 2, size: 64, batch_size: 2}
trainer: {accelerator: cpu}
"""
KINDS = {  # a wrong value of each kind, and what is said of it
    "int": ("data.batch_size", "few", "--data.batch_size is 'few'; wanted int"),
    "int that is a fraction": ("data.batch_size", "1.5", "--data.batch_size is '1.5'; wanted int"),
    "float": ("model.lr", "fast", "--model.lr is 'fast'; wanted float"),
    "bool": ("model.compile", "maybe", "--model.compile is 'maybe'; wanted bool"),
    "word": ("model.optimizer", "sgd", "--model.optimizer is 'sgd'; wanted 'adamw' | 'muon'"),
    "nothing": ("model.lr", "null", "--model.lr is null; wanted float"),
    "tuple": ("model.betas", "[0.9]", "--model.betas is '[0.9]'; wanted tuple[float, float]"),
    "mapping": ("model.head.loss_weights", "5", "--model.head.loss_weights is '5'; wanted dict[str, float] | None"),
    "union": ("trainer.max_epochs", "x", "--trainer.max_epochs is 'x'; wanted int | None"),
    "class": ("model.head", "DETR", "--model.head: there is no class DETR; did you mean DETRHead?"),
    "class of another kind": ("model.head", "Task", "--model.head: vitdet.Task is no head of vitdet; give a subclass"),
    "class of Lightning's": (
        "trainer.callbacks",
        "EarlyStoping",
        "--trainer.callbacks: there is no class EarlyStoping",
    ),
    "argument that is missing": (
        "trainer.callbacks",
        "EarlyStopping",
        "trainer.callbacks.monitor is missing; wanted str",
    ),
    "key": ("model.lrr", "1", "--model.lrr: there is no key model.lrr; did you mean model.lr?"),
    "key of a class in a list": ("trainer.callbacks", "[{class_path: Timer, init_args: {x: 1}}]", "Timer takes no x"),
    "what the constructor of the data refuses": (
        "data.batch_size",
        "0",
        "--data.batch_size is 0; wanted a whole number",
    ),
    "what the constructor of the head refuses": (
        "model.head.dim",
        "3",
        "--model.head.dim is 3; wanted a multiple of 4 from 4",
    ),
    "what the constructor of the task refuses": ("model.lr", "-1", "--model.lr is -1.0; wanted a number above 0"),
}


@pytest.mark.parametrize("words", ["the parser's", "others"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_value_of_each_kind_has_its_sentence(kind, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(CONFIG.replace("ROOT", str(tmp_path / "shapes")))
    if words == "others":
        monkeypatch.setattr(argparse.ArgumentError, "__str__", lambda error: "nobody reads this")
    key, value, sentence = KINDS[kind]
    with pytest.raises(ConfigError) as refused:
        load_config("a.yaml", [f"--{key}", value])
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_what_a_constructor_refuses_names_the_file_where_it_was_not_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = CONFIG.replace("ROOT", str(tmp_path / "shapes")).replace("dim: 32}\n", "dim: 3}\n")
    (tmp_path / "a.yaml").write_text(config)
    with pytest.raises(ConfigError, match=r"^a\.yaml: dim is 3; wanted a multiple of 4"):
        load_config("a.yaml", ["--data.size", "32", "--data.batch_size", "3"])
