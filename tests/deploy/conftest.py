"""A tiny model in a checkpoint as training writes it."""

import numpy as np
import pytest
import torch
from PIL import Image

from vitdet.backbone import Backbone
from vitdet.checkpoint import write
from vitdet.heads import DETRHead

CLASSES, CATEGORY_IDS = ["cat", "dog", "bird"], [3, 7, 90]
TRANSFORM = {"size": {"long_side": 64}, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


def make_model():
    backbone = Backbone("vit_tiny_patch16_224", model_args={"embed_dim": 32, "num_heads": 2}, depth=2, out_channels=32)
    head = DETRHead(
        backbone.out_channels,
        backbone.strides,
        3,
        dim=32,
        num_queries=12,
        num_layers=2,
        decoder={"num_heads": 2, "ffn_dim": 64},
    )
    return backbone, head


@pytest.fixture
def model():
    backbone, head = make_model()
    return backbone.eval(), head.eval()


@pytest.fixture
def contents(model):
    """What `torch.save` writes."""
    saved = {"classes": CLASSES, "category_ids": CATEGORY_IDS, "eval_transform": TRANSFORM}
    contents = write({}, *model, **saved)
    expected = {"mean": TRANSFORM["mean"], "std": TRANSFORM["std"]}
    return {**contents, "vitdet": {**contents["vitdet"], **expected}}


@pytest.fixture
def checkpoint(contents, tmp_path):
    path = tmp_path / "best.ckpt"
    torch.save(contents, path)
    return path


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)


@pytest.fixture
def file(array, tmp_path):
    path = tmp_path / "images" / "a.png"
    path.parent.mkdir()
    Image.fromarray(array).save(path)
    return path
