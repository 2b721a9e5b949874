"""The configs for COCO, ADE20K and Cityscapes on generated data that lies as `datasets/README.md` says: parsed, and trained for one step.

The ViT is a smaller one, and so are images, crops, batches and the numbers of queries and points.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from vitdet.cli import main
from vitdet.data.shapes import make_shapes

CONFIGS = Path(__file__).parent.parent / "configs"
SMALL_VIT = """
model:
  backbone: {name: vit_tiny_patch16_224, pretrained: false, embed_dim: 48, depth: 5, num_heads: 3}
  head: {num_queries: 20, POINTS: 64}
data: {size: 64, batch_size: 2, max_tokens: null, num_workers: 0}
trainer: {max_steps: 1, precision: 32-true, pictures: 1, accelerator: cpu}
"""
RNG = np.random.default_rng(0)


def write_image(path, size=(48, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def write_labels(path, values, size=(48, 64)):
    """A map of blocks of these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = RNG.choice(values, (size[0] // 16, size[1] // 16)).astype(np.uint8)
    Image.fromarray(blocks.repeat(16, 0).repeat(16, 1)).save(path)


def make_coco(root):
    shapes = make_shapes(root / "drawn", train=4, val=2)
    for split in ("train", "val"):
        (root / "coco").mkdir(exist_ok=True)
        (shapes / split).rename(root / "coco" / f"{split}2017")
        folder = root / "coco" / "annotations"
        folder.mkdir(exist_ok=True)
        (shapes / f"panoptic_{split}").rename(folder / f"panoptic_{split}2017")
        for kind in ("instances", "panoptic"):
            content = json.loads((shapes / "annotations" / f"{kind}_{split}.json").read_text())
            (folder / f"{kind}_{split}2017.json").write_text(json.dumps(content))


def make_ade20k(root):
    folder = root / "ADEChallengeData2016"
    for split, count in (("training", 4), ("validation", 2)):
        for i in range(count):
            name = f"ADE_{split[:5]}_{i:08d}"
            write_image(folder / "images" / split / f"{name}.jpg")
            write_labels(folder / "annotations" / split / f"{name}.png", range(151))  # 0 is "other"


def make_cityscapes(root):
    folder = root / "cityscapes"
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            name = f"ulm_{i:06d}_000019"
            write_image(folder / "leftImg8bit" / split / "ulm" / f"{name}_leftImg8bit.png")
            write_labels(folder / "gtFine" / split / "ulm" / f"{name}_gtFine_labelIds.png", range(34))
            write_labels(folder / "gtFine" / split / "ulm" / f"{name}_gtFine_instanceIds.png", range(34))


MAKE = {"coco": make_coco, "ade20k": make_ade20k, "cityscapes": make_cityscapes}
CASES = sorted(path for folder in MAKE for path in (CONFIGS / folder).glob("*.yaml"))
SCORES = {"detr": "AP", "instance": "box_AP", "semantic": "mIoU", "panoptic": "PQ_stuff"}


@pytest.mark.parametrize("path", CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_trains_for_a_step_and_is_scored(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    MAKE[path.parent.name](tmp_path / "datasets")
    detects = path.stem.startswith("detr") or path.stem == "instance_vit_small"
    points = "mask_points" if detects else "num_points"
    config = yaml.safe_load(SMALL_VIT.replace("POINTS", points))
    if "crop" in yaml.safe_load(path.read_text()).get("data", {}):
        config["data"]["crop"] = [40, 48]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"base": str(path), **config}))
    main(["train", "run.yaml"])
    out = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in out.splitlines() if line.startswith("│")}
    assert SCORES[path.stem.partition("_")[0]] in rows and "all 2 images" in out
    assert list((tmp_path / "runs" / "run" / "version_0" / "pictures").glob("*.jpg"))
    assert (tmp_path / "runs" / "run" / "version_0" / "best.ckpt").is_file()
