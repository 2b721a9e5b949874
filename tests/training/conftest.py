"""A tiny run: a model of a few thousand weights on a dozen of the built-in images."""

import lightning as L
import pytest
from small_model import BACKBONE, HEAD

from vitdet import Backbone, DETRHead, ShapesData, Task, Trainer


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory):
    return str(tmp_path_factory.mktemp("shapes") / "shapes")


@pytest.fixture
def tiny(shapes_root, tmp_path):
    """`task, data, trainer` of one run; `tiny(callbacks=…, data={…}, task={…}, …)` changes it."""

    def make(*, data=None, task=None, **trainer):
        L.seed_everything(0, verbose=False)
        options = {
            "root": shapes_root,
            "train_images": 14,
            "val_images": 5,
            "size": 64,
            "batch_size": 4,
            **(data or {}),
        }
        module = ShapesData(**options)
        model = Task(
            Backbone("vit_tiny_patch16_224", **BACKBONE),
            lambda c, s, k: DETRHead(c, s, k, **HEAD),
            **{"classes": module.classes, "optimizer": "muon", "lr": 1e-3, **(task or {})},
        )
        defaults = {
            "root": tmp_path / "runs",
            "accelerator": "cpu",
            "max_epochs": 2,
            "pictures": 0,
            "progress": False,
            "logger": False,
        }
        return model, module, Trainer(**{**defaults, **trainer})

    return make
