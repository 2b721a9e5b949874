"""Every config under `configs/` runs with the command at its head: two steps of training with the precision, gradient
clipping, accumulation and optimiser of the config."""

from pathlib import Path

import lightning as L
import pytest
import tiny
import torch

from vitdet.command.recipes import recipe
from vitdet.command.run import read_command

CONFIGS = tiny.ROOT / "configs"
PATHS = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "_base")
every_config = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.relative_to(CONFIGS).as_posix())
# those that start from a published model are run with each that they name
CASES = [(path, words) for path in PATHS for words in tiny.models(path).values() or [[]]]
every_model = pytest.mark.parametrize(
    ("path", "model"), CASES, ids=[words[1] if words else path.relative_to(CONFIGS).as_posix() for path, words in CASES]
)
STEPS = 2
SCORES = {"semantic": "val/mIoU", "panoptic": "val/PQ", "coco": "val/AP", "shapes": "val/AP"}


class Watch(L.Callback):
    """What every step of the optimiser was taken with."""

    def __init__(self):
        self.batches, self.norms = 0, []

    def on_train_batch_end(self, trainer, task, *_):
        self.batches += 1
        if trainer.global_step > len(self.norms):  # the gradients of the step stay until the next batch
            gradients = [p.grad for p in task.parameters() if p.grad is not None]
            self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `datasets/` as docs/data.md says."""
    root = tmp_path_factory.mktemp("configs")
    tiny.make_datasets(root / "datasets")
    return root


@every_model
def test_it_trains_with_its_own_settings(path, model, folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    program, verb, name, *words = tiny.placeholders(tiny.header(path), folder / "datasets")
    assert (program, verb) == ("vitdet", "train") and Path(recipe(name)[0]) == path
    own = {"max_steps": STEPS, "root": str(tmp_path / "runs"), "accelerator": "cpu", "logger": False, "pictures": 0}
    config = tiny.resolved(path, model)
    small = tiny.overrides(config, tmp_path) + tiny.words({f"trainer.{key}": value for key, value in own.items()})
    cli = read_command("train", [str(path), *words, *model, *small])
    trainer, task, watch = cli.trainer, cli.model, Watch()
    before = {key: value.clone() for key, value in task.state_dict().items()}
    trainer.callbacks.append(watch)
    trainer.fit(task, cli.datamodule)

    given = config["trainer"]
    assert trainer.global_step == STEPS and watch.batches == STEPS * int(given.get("accumulate_grad_batches", 1))
    assert trainer.precision == given.get("precision", "32-true")
    clip = given.get("gradient_clip_val", 1.0)
    assert len(watch.norms) == STEPS and all(0 < norm <= clip * 1.001 for norm in watch.norms)
    assert type(trainer.optimizers[0]).__name__.lower() == config["model"].get("optimizer", "adamw")
    assert any(not torch.equal(before[key], value) for key, value in task.state_dict().items() if "head" in key)
    kind = next(kind for kind in SCORES if kind in type(cli.datamodule).__name__.lower())
    assert SCORES[kind] in trainer.callback_metrics
    assert list((tmp_path / "runs").rglob("best.ckpt"))


@every_config
def test_it_is_short_and_says_how_to_run_it(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#") and f"vitdet train {path.relative_to(CONFIGS).with_suffix('').as_posix()}" in text
    assert len([line for line in text.splitlines() if line and not line.startswith("#")]) <= 15


@every_config
def test_it_ends_by_steps_or_epochs_and_is_scored_all_along(path):
    """A run of minutes would be another on another machine."""
    trainer = tiny.resolved(path, [])["trainer"]
    steps, epochs = trainer.get("max_steps"), trainer.get("max_epochs")
    assert "max_time" not in trainer and (steps is None) != (epochs is None)
    if steps:  # counted in batches, over the ends of epochs
        assert trainer["check_val_every_n_epoch"] is None
        assert trainer["val_check_interval"] <= steps * trainer.get("accumulate_grad_batches", 1) / 10
    else:
        assert trainer.get("check_val_every_n_epoch", 1) <= max(1, epochs / 10) and "val_check_interval" not in trainer
