"""A step of training from published files, and the README's example: with files in the layout of their authors, and
random weights."""

import dataclasses
import hashlib
import re
from pathlib import Path

import pytest
import torch
import transformers  # noqa: F401  (the references below build its models)
from deimv2_oracle import authors
from deimv2_oracle import reference as deimv2
from PIL import Image
from safetensors.torch import save_file
from test_eomt_zoo import reference as eomt
from test_lw_detr import authors_names
from test_lw_detr import reference as lw_detr
from test_rf_detr import reference as rf_detr

from vitdet import load, zoo
from vitdet.cli import main
from vitdet.zoo import DownloadError

ROOT = Path(__file__).parents[2] / "configs"
README = ROOT.parent / "README.md"

# of each recipe, a model: its file, and the data that it is trained on here
FILES = {
    "rf_detr": ("rf-detr-nano.pth", lambda: {"model": rf_detr("nano")[0].state_dict()}, "ShapesData"),
    "lw_detr": ("lw-detr-tiny.pth", lambda: {"model": authors_names(lw_detr("tiny").state_dict())}, "ShapesData"),
    "deimv2": ("deimv2-s.safetensors", lambda: authors(deimv2("s").state_dict(), "s"), "ShapesData"),
    "eomt_panoptic": (
        "eomt-small-coco-panoptic-640.bin",
        lambda: eomt("small", 640, 3, 133).state_dict(),
        "ShapesPanopticData",
    ),
}


def publish(file, monkeypatch):
    """Makes a file with random weights the published one of its name."""
    digest = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    monkeypatch.setitem(zoo.CARDS, file.stem, dataclasses.replace(zoo.CARDS[file.stem], digest=digest))


@pytest.mark.parametrize("name", FILES)
def test_trains_a_step_from_the_published_file(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VITDET_HOME", str(tmp_path))
    file, make, data = FILES[name]
    write = save_file if file.endswith(".safetensors") else torch.save
    write(make(), tmp_path / file)
    publish(tmp_path / file, monkeypatch)
    root = ["--data.root", str(tmp_path / "shapes"), "--data.train_images", "2", "--data.val_images", "1"]
    trainer = {
        "max_steps": 1,
        "accelerator": "cpu",
        "pictures": 0,
        "root": str(tmp_path / "runs"),
    }
    options = [word for key, value in trainer.items() for word in (f"--trainer.{key}", str(value))]
    config = tmp_path / "own.yaml"
    config.write_text(f"base: {ROOT / name}.yaml\ndata: {data}\ntrainer: {{accumulate_grad_batches: 1}}\n")
    main(["train", str(config), *root, "--data.batch_size", "1", *options, "--model.checkpoint", Path(file).stem])
    out = capsys.readouterr()
    assert "classes left at random, " in out.err and "missing" not in out.err
    best = next((tmp_path / "runs").rglob("best.ckpt"))
    detector = load(best)
    assert detector.transform.config["size"] == zoo.find(Path(file).stem).transform["size"]
    assert len(detector.classes) == (9 if data == "ShapesPanopticData" else 6)


def test_the_readmes_example_says_what_to_do_offline_and_runs_with_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITDET_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.delenv("NO_PROXY", raising=False)
    Image.new("RGB", (64, 48), (90, 120, 30)).save("photo.jpg")
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "rf-detr" in block
    )
    with pytest.raises(DownloadError, match=r"can't be reached: .*put it at .*rf-detr-nano\.pth, or give its path"):
        exec(code, {})
    torch.save({"model": rf_detr("nano")[0].state_dict()}, tmp_path / "cache" / "rf-detr-nano.pth")
    publish(tmp_path / "cache" / "rf-detr-nano.pth", monkeypatch)
    exec(code, {})
    assert (tmp_path / "found.jpg").is_file()
