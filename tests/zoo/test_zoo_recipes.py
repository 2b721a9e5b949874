"""The configs that start from published models are these models."""

from pathlib import Path

import pytest
import yaml

from vitdet import zoo
from vitdet.command.run import read_config

ROOT = Path(__file__).parents[2] / "configs"
FOLDERS = ("rf_detr", "lw_detr", "deimv2", "eomt")
CONFIGS = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.yaml"))]


def test_every_published_model_has_a_recipe():
    assert {yaml.safe_load(path.read_text())["model"]["checkpoint"] for path in CONFIGS} == set(zoo.CARDS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_it_is_the_published_model(path):
    config = read_config(path)
    card = zoo.find(config["model"]["checkpoint"])
    backbone, head = config["model"]["backbone"], config["model"]["head"]
    own = {key: value for key, value in backbone["init_args"].items() if key != "drop_path"}  # there in training only
    assert own == card.backbone and head["class_path"] == card.head_class
    own = {key: value for key, value in card.head.items() if key != "task"}
    assert own.items() <= head["init_args"].items() and "task" not in head["init_args"]
    assert config["data"]["init_args"]["size"] == card.size
    kind = next((kind for kind in ("panoptic", "semantic") if kind in card.name), "coco")
    assert kind in config["data"]["class_path"].lower()
