"""The configs that start from published models are these models."""

import re
from pathlib import Path

import pytest

from vitdet import zoo
from vitdet.command.layers import apply_settings, read_layers, read_words
from vitdet.command.run import complete

ROOT = Path(__file__).parents[2] / "configs"
CONFIGS = [path for path in sorted(ROOT.glob("*.yaml")) if read_layers(path)["model"].get("checkpoint") in zoo.CARDS]
NAMES = re.compile("|".join(sorted(zoo.CARDS, key=len, reverse=True)))
RECIPES = [
    (path, name)
    for path in CONFIGS
    for line in path.read_text(encoding="utf-8").splitlines()
    if line.startswith("#     ")
    for name in NAMES.findall(line)
]


def test_every_published_model_has_one_recipe():
    assert sorted(name for _, name in RECIPES) == sorted(zoo.CARDS)


@pytest.mark.parametrize(("path", "name"), RECIPES, ids=[name for _, name in RECIPES])
def test_it_is_the_published_model(path, name):
    words = ["--model.checkpoint", name]
    config = complete(apply_settings(read_layers(path), read_words(words)[0]), name)
    card = zoo.find(name)
    backbone, head = config["model"]["backbone"], config["model"]["head"]
    assert backbone["init_args"] == card.backbone and head["class_path"] == card.head_class
    expected = {key: value for key, value in card.head.items() if key != "task"}
    assert expected == {key: value for key, value in head["init_args"].items() if key in expected}
    assert "task" not in head["init_args"]
    assert config["data"]["init_args"]["size"] == card.transform["size"]
    kind = next((kind for kind in ("panoptic", "semantic") if kind in card.name), "coco")
    assert kind in config["data"]["class_path"].lower()
