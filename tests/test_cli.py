"""The command line as a person uses it: configs, overrides, errors, and every verb on a small run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml

from vitdet.cli import load_config, main
from vitdet.command import data
from vitdet.command.files import ConfigError
from vitdet.command.layers import apply_settings, merge, read_words
from vitdet.command.run import read_config

ROOT = Path(__file__).parent.parent
TINY = """
model:
  backbone: {name: vit_tiny_patch16_224, stem: {class_path: ConvStem, width: 8}, \
model_args: {embed_dim: 32, num_heads: 2}, depth: 1, out_channels: 32}
  head: {dim: 32, num_queries: 20, num_layers: 1, decoder: {num_heads: 4, ffn_dim: 32}}
  optimizer: muon
data: {class_path: ShapesData, root: ROOT, train_images: 12, val_images: 5, size: 64, batch_size: 4}
trainer: {max_epochs: 2, root: RUNS, accelerator: cpu}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("ROOT", str(tmp_path / "shapes")).replace("RUNS", str(tmp_path / "runs")))
    return path


def test_train_test_evaluate_and_resume(config, tmp_path, capsys):
    main(["train", str(config)])
    out = capsys.readouterr().out
    run = tmp_path / "runs" / "tiny" / "version_0"
    assert "AP/star" in out and "all 5 images" in out and f"vitdet predict {run / 'best.ckpt'}" in out
    assert {"best.ckpt", "last.ckpt", "config.yaml", "metrics.csv"} <= {p.name for p in run.iterdir()}
    assert list((run / "pictures").glob("*.jpg"))
    saved = torch.load(run / "best.ckpt", weights_only=True)
    assert saved["vitdet"]["classes"][0] == "disc" and saved["vitdet"]["category_ids"] == [1, 2, 3, 4, 5, 6]
    assert (
        saved["vitdet"]["eval_transform"]["size"] == 64 and saved["ema_state_dict"].keys() == saved["state_dict"].keys()
    )

    main(["test", str(config), "--ckpt_path", "last"])
    out = capsys.readouterr().out
    predictions = next((tmp_path / "runs" / "tiny").glob("*/predictions.json"))
    assert "AP75" in out and str(predictions) in out
    rows = json.loads(predictions.read_text())
    assert {row["category_id"] for row in rows} <= {1, 2, 3, 4, 5, 6}

    main(["evaluate", str(predictions), str(tmp_path / "shapes" / "annotations" / "instances_val.json")])
    again = capsys.readouterr().out
    numbers = [line.split("│")[2].strip() for line in out.splitlines() if "│ AP" in line]
    assert numbers and numbers == [line.split("│")[2].strip() for line in again.splitlines() if "│ AP" in line]

    main(["train", str(config), "--ckpt_path", "last", "--trainer.max_epochs", "3"])
    assert torch.load(run / "last.ckpt", weights_only=True)["epoch"] == 2  # in the folder where it began
    assert (run / "metrics.csv").exists() and not (run / "metrics_0.csv").exists()


def test_the_saved_config_gives_the_same_model(config, tmp_path):
    text = config.read_text().replace("backbone: {", "backbone: {class_path: vitdet.backbone.Backbone, ")
    config.write_text(text.replace("{class_path: ShapesData", "{class_path: vitdet.data.ShapesData"))
    words = [
        "--trainer.max_epochs",
        "1",
        "--trainer.callbacks+=vitdet.training.callbacks.ema.EMA",
        "--trainer.callbacks.decay=0.9",
    ]
    main(["train", str(config), *words])
    saved = (tmp_path / "runs" / "tiny" / "version_0" / "config.yaml").read_text()
    public = {"vitdet.Backbone", "vitdet.DETRHead", "vitdet.ShapesData", "vitdet.training.EMA"}
    assert public <= set(re.findall(r"class_path: (\S+)", saved)), "what is saved names public classes"
    task, _ = load_config(tmp_path / "runs" / "tiny" / "version_0" / "config.yaml")
    task.load_state_dict(
        torch.load(tmp_path / "runs" / "tiny" / "version_0" / "last.ckpt", weights_only=True)["state_dict"]
    )


def test_the_saved_config_of_a_run_with_lightnings_callbacks_trains_again(config, tmp_path, recwarn):
    """Defaults of some are values that YAML has no word for: an enumeration, a device."""
    timer = {"class_path": "Timer", "init_args": {"duration": "00:00:01:00"}}
    average = {"class_path": "StochasticWeightAveraging", "init_args": {"swa_lrs": 0.01, "swa_epoch_start": 1}}
    settings = yaml.safe_load(config.read_text())
    settings["trainer"].update(callbacks=[timer, average], max_epochs=1)
    config.write_text(yaml.safe_dump(settings))
    for path in (config, tmp_path / "runs" / "tiny" / "version_0" / "config.yaml"):
        main(["train", str(path)])
    assert (tmp_path / "runs" / "tiny" / "version_1" / "last.ckpt").is_file()
    assert not [w for w in recwarn if "serialize" in str(w.message)]


def test_the_tools_are_the_verbs(config, tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "train.py"), str(config), "--trainer.max_steps", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "best val/AP" in done.stdout


def test_overrides_win(config):
    task, data = load_config(config, ["--model.lr", "0.5", "--model.head.num_queries", "7", "--data.batch_size", "3"])
    assert (task.lr, task.head.num_queries, data.batch_size) == (0.5, 7, 3)
    assert task.head.num_classes == 6 and task.classes == data.classes


def test_a_run_says_what_became_of_the_weights(config, tmp_path, capsys):
    model = timm.create_model("vit_tiny_patch16_224", embed_dim=32, depth=1, num_heads=2, img_size=32)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    own = ["--model.backbone.checkpoint", str(tmp_path / "weights.pth"), "--model.backbone.patch_size", "8"]
    main(["benchmark", str(config), *own, "--model.backbone.stem", "patch"])
    err = capsys.readouterr().err
    for line in (
        "weights: vit_tiny_patch16_224 from",
        "resampled: pos_embed (1, 5, 32)",
        "resampled: patch_embed from patches of 16",
    ):
        assert line in err


def test_help_lists_the_verbs(capsys):
    main(["--help"])
    assert "train" in capsys.readouterr().out


def test_help_of_data_lists_the_subcommands(capsys):
    for argv in (["data"], ["data", "--help"]):
        main(argv)
        out = capsys.readouterr().out
        assert all(f"  {name} " in out for name in data.SUBCOMMANDS) and "vitdet data SUBCOMMAND --help" in out


def test_every_subcommand_of_data_is_there(capsys):
    for name, (module, text) in data.SUBCOMMANDS.items():
        with pytest.raises(SystemExit) as ended:
            main(["data", name, "--help"])
        assert ended.value.code == 0 and f"usage: vitdet data {name}" in capsys.readouterr().out, (module, text)


def with_words(path, *words):
    """A config, and what the words of the command line set on top."""
    return apply_settings(read_config(path), read_words(words)[0])


def test_base_files_are_read_first(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.yaml").write_text(
        "model: {lr: 1e-3, head: {dim: 8, groups: 2}}\n"
        "data: {class_path: CocoData, size: 3, batch_size: 5, train: {images: x}}\n"
        "trainer: {max_steps: 1}"
    )
    (tmp_path / "sub" / "b.yaml").write_text(
        "base: ../a.yaml\nmodel: {head: {groups: 3}}\ndata: {class_path: ShapesData, size: 9}"
    )
    (tmp_path / "c.yaml").write_text("base: a.yaml\ndata: PanopticData")
    config = read_config(tmp_path / "c.yaml")
    assert config["data"]["init_args"] == {"size": 3, "batch_size": 5}
    config = read_config(tmp_path / "sub" / "b.yaml")
    assert config["model"]["lr"] == 1e-3 and config["model"]["head"]["init_args"] == {"dim": 8, "groups": 3}
    assert config["data"] == {
        "class_path": "vitdet.ShapesData",
        "init_args": {"size": 9, "batch_size": 5},
    }  # another class: what all data have is taken over, but not the files
    assert config["trainer"] == {"max_steps": 1}


def test_a_base_need_not_name_a_class(tmp_path):
    (tmp_path / "a.yaml").write_text("data: {batch_size: 5}")
    (tmp_path / "b.yaml").write_text("base: a.yaml\ndata: {class_path: ShapesData, size: 9}")
    (tmp_path / "c.yaml").write_text("base: a.yaml\ndata: {size: 9}")
    for name, cls in (("b", "ShapesData"), ("c", "CocoData")):
        data = read_config(tmp_path / f"{name}.yaml")["data"]
        assert data == {"class_path": f"vitdet.{cls}", "init_args": {"batch_size": 5, "size": 9}}


def test_a_file_may_not_be_its_own_base(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml")
    (tmp_path / "b.yaml").write_text("base: a.yaml")
    with pytest.raises(ConfigError, match="its own base"):
        read_config(tmp_path / "a.yaml")


def test_validating_by_epochs_replaces_validating_by_batches(tmp_path):
    (tmp_path / "a.yaml").write_text("trainer: {val_check_interval: 95, check_val_every_n_epoch: null}")
    (tmp_path / "b.yaml").write_text("base: a.yaml\ntrainer: {check_val_every_n_epoch: 2}")
    (tmp_path / "c.yaml").write_text("base: a.yaml\ntrainer: {val_check_interval: 9}")
    assert read_config(tmp_path / "b.yaml")["trainer"] == {"check_val_every_n_epoch": 2}
    assert read_config(tmp_path / "c.yaml")["trainer"] == {"val_check_interval": 9, "check_val_every_n_epoch": None}
    by_epochs = with_words(tmp_path / "a.yaml", "--trainer.check_val_every_n_epoch", "1")
    assert by_epochs["trainer"] == {"check_val_every_n_epoch": "1"}


def test_a_budget_in_steps_replaces_one_in_epochs(tmp_path):
    (tmp_path / "a.yaml").write_text("trainer: {max_epochs: 50}")
    (tmp_path / "b.yaml").write_text("base: a.yaml\ntrainer: {max_steps: 400}")
    (tmp_path / "c.yaml").write_text("base: b.yaml\ntrainer: {max_epochs: 3, max_steps: 7}")
    assert read_config(tmp_path / "b.yaml")["trainer"] == {"max_steps": 400}
    assert read_config(tmp_path / "c.yaml")["trainer"] == {"max_epochs": 3, "max_steps": 7}
    by_steps = tmp_path / "b.yaml"
    assert with_words(by_steps, "--trainer.max_epochs=9")["trainer"] == {"max_epochs": "9"}
    assert with_words(by_steps, "--trainer.max_epochs", "null")["trainer"] == {"max_steps": 400, "max_epochs": None}
    both = with_words(by_steps, "--trainer.max_epochs", "9", "--trainer.max_steps=7")
    assert both["trainer"] == {"max_epochs": "9", "max_steps": "7"}
    timed = with_words(by_steps, "--trainer.max_time", "00:00:01:00")
    assert timed["trainer"] == {"max_steps": 400, "max_time": "00:00:01:00"}


def test_merge_replaces_lists_and_merges_mappings():
    assert merge({"a": [1, 2], "b": {"c": 1, "d": 2}}, {"a": [3], "b": {"d": 4}}) == {"a": [3], "b": {"c": 1, "d": 4}}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_config_opens_with_its_command_and_reads(path):
    config = read_config(path)
    assert path.read_text().startswith("#")
    assert "base" not in config and yaml.safe_dump(config)
