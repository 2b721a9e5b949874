"""`vitdet explain` in a process of its own, and its errors."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from vitdet import checksum
from vitdet.backbone import Backbone
from vitdet.checkpoint import write
from vitdet.cli import main
from vitdet.heads import DETRHead


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    torch.manual_seed(0)
    backbone = Backbone("vit_tiny_patch16_224", model_args={"embed_dim": 32, "num_heads": 2}, depth=2, out_channels=32)
    head = DETRHead(backbone.out_channels, backbone.strides, 2, dim=32, num_queries=8, num_layers=1)
    saved = {"classes": ["cat", "dog"], "category_ids": [1, 2]}
    saved["eval_transform"] = {"size": 64, "mean": [0.5] * 3, "std": [0.2] * 3}
    checksum.write(folder / "best.ckpt", lambda file: torch.save(write({}, backbone, head, **saved), file))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.jpg")
    (folder / "text.txt").write_text("no folder")
    return folder


def test_writes_a_page_and_pictures(folder):
    """A page that is whole by itself, and, into a folder, its pictures."""
    options = ["--object", "1", "--point", "30,20.5", "--block", "-1", "--threshold", "0", "--output", "out/looked"]
    command = [sys.executable, "-m", "vitdet", "explain", "best.ckpt", "photo.jpg", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("object 1: ") and lines[1] == "point 30,20.5"
    files = {path.name for path in (folder / "out" / "looked").iterdir()}
    levels = {f"0-points-level{i}.png" for i in range(3)}
    assert (
        files
        == {"explain.html", "0-place.png", "0-points.png", "0-patch-0.png", "1-place.png", "1-patch-0.png"} | levels
    )
    assert lines[2].endswith("explain.html, and 8 pictures")
    page = (folder / "out" / "looked" / "explain.html").read_text(encoding="utf-8")
    assert page.count("<img") == 8 and "http" not in page and "photo.jpg" in page


def test_writes_a_single_page(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    main(["explain", "best.ckpt", "photo.jpg", "--threshold", "0", "--block", "all"])
    assert capsys.readouterr().out.endswith("page: explain.html\n")
    # three objects; place, points, two or three levels, and both blocks
    assert (folder / "explain.html").read_text(encoding="utf-8").count("<img") == 3 * 7


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["none.ckpt", "photo.jpg"], "none.ckpt"),
        (["best.ckpt", "none.jpg"], "none.jpg can't be read as an image: it does not exist"),
        (["best.ckpt", "text.txt"], "can't be read as an image"),
        (["best.ckpt", "photo.jpg", "--object", "8000"], "there is no object 8000"),
        (["best.ckpt", "photo.jpg", "--object", "first"], "--object: invalid int value"),
        (["best.ckpt", "photo.jpg", "--point", "3"], "--point: invalid x,y in pixels value: '3'"),
        (["best.ckpt", "photo.jpg", "--point", "60,3"], "the point 60,3 is not in the image, which is 60×40 pixels"),
        (["best.ckpt", "photo.jpg", "--block", "last"], "--block: invalid number of a block, or all value: 'last'"),
        (["best.ckpt", "photo.jpg", "--block", "2"], "there is no block 2: the ViT has 0 to 1"),
        (["best.ckpt", "photo.jpg", "--threshold", "0", "--head", "2"], "there is no head 2"),
        (["best.ckpt", "photo.jpg", "--threshold", "3"], "threshold"),
        (["best.ckpt", "photo.jpg", "--output", "text.txt"], "text.txt, which is a file"),
    ],
)
def test_errors_are_one_line(folder, words, text, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as end:
        main(["explain", *words])
    error = capsys.readouterr().err
    assert end.value.code == 2 and text in error and len(error.splitlines()) == 1
