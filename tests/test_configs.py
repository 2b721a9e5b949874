"""Every config builds its model, and a loss comes out of it."""

from pathlib import Path

import pytest
import torch

from vitdet.cli import load_config
from vitdet.configuration import read_config

ROOT = Path(__file__).parent.parent / "configs"
RUNNABLE = sorted(p for p in ROOT.rglob("*.yaml") if p.parent.name != "_base")
WHOLE = [
    p for p in RUNNABLE if p.parent.name not in ("rf_detr", "lw_detr", "deimv2", "eomt")
]  # the others need files: tests/zoo/test_zoo_recipes.py


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes") / "shapes"
    return ["--data", "ShapesData", "--data.root", str(root), "--data.train_images", "4", "--data.val_images", "2"]


@pytest.mark.parametrize("path", WHOLE, ids=lambda p: str(p.relative_to(ROOT)))
def test_its_model_gives_a_loss(path, shapes, make_targets):
    task, _ = load_config(path, [*shapes, "--model.backbone.pretrained", "false"])
    images = [torch.randn(3, 64, 96), torch.randn(3, 96, 48)]
    targets = make_targets([(64, 96), (96, 48)], [2, 0], num_classes=6)
    total = task.head.total(task.head.loss(task.head(task.backbone(images), targets), targets))
    assert total.requires_grad and torch.isfinite(total)


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda p: str(p.relative_to(ROOT)))
def test_it_says_how_to_run_it_and_is_short(path):
    text = path.read_text()
    header = text[: text.index("base:")]
    assert f"python tools/train.py {path.relative_to(ROOT.parent)}" in header
    assert len([line for line in text.splitlines() if line and not line.startswith("#")]) <= 15


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda p: str(p.relative_to(ROOT)))
def test_it_says_when_training_ends(path):
    trainer = read_config(path)["trainer"]
    assert {"max_epochs", "max_steps", "max_time"} & set(trainer)
