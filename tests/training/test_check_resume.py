"""A checkpoint that does not fit says so in one sentence; one that does takes the run's own rates."""

import shutil

import pytest
import torch
from safetensors.torch import save_file
from small_model import BACKBONE, HEAD

from vitdet import Backbone, DETRHead, PlainDETRHead, Pyramid, Task
from vitdet.training.resume import check_resume
from vitdet.training.schedule import Schedule
from vitdet.zoo import CheckpointError

CLASSES = ["disc", "square", "triangle", "star", "ring", "cross"]


def make(*, backbone=None, head=None, cls=DETRHead, classes=CLASSES, **options):
    own = Backbone("vit_tiny_patch16_224", **{**BACKBONE, **(backbone or {})})
    settings = {"optimizer": "muon", "lr": 1e-3, **options}
    return Task(
        own, lambda c, s, k: cls(c, s, k, **(HEAD if head is None else {**HEAD, **head})), classes=classes, **settings
    )


@pytest.fixture(scope="module")
def last(tmp_path_factory):
    """`last.ckpt` of a run of two steps."""
    from vitdet import ShapesData, Trainer

    root = tmp_path_factory.mktemp("run")
    data = ShapesData(root=str(root / "shapes"), train_images=14, val_images=5, size=64, batch_size=4)
    options = {"accelerator": "cpu", "max_steps": 2, "pictures": 0, "progress": False, "logger": False}
    trainer = Trainer(root=root / "runs", limit_val_batches=0, **options)
    trainer.fit(make(), data)
    return trainer.run_folder / "last.ckpt"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"backbone": {"depth": 2}}, r"model\.backbone\.depth 2, the checkpoint has 1;"),
        ({"backbone": {"model_args": {"embed_dim": 64, "num_heads": 2}}}, r"embed_dim 64, the checkpoint has 32;"),
        (
            {"backbone": {"model_args": {"embed_dim": 32, "num_heads": 4}}},
            r"model_args\.num_heads 4, the checkpoint has 2;",
        ),
        ({"backbone": {"neck": Pyramid}}, r"model\.backbone\.neck Pyramid, the checkpoint has Projector;"),
        ({"backbone": {"trunk": {"windows": 2}}}, r"trunk\.windows 2, the checkpoint has null;"),
        (
            {"backbone": {"model_args": {**BACKBONE["model_args"], "reg_tokens": 2}}},
            r"model_args\.reg_tokens 2, the checkpoint has null;",
        ),
        (
            {"head": {"num_layers": 2, "decoder": {"num_heads": 4, "ffn_dim": 64}}},
            r"num_layers 2, the checkpoint has 1, model\.head\.decoder\.ffn_dim 64, the",
        ),
        (
            {"head": {"decoder": {"num_heads": 2, "ffn_dim": 32}}},
            r"model\.head\.decoder\.num_heads 2, the checkpoint has 4",
        ),
        (
            {"cls": lambda c, s, k, **_: PlainDETRHead(c, s, k, dim=32, num_layers=1)},
            r"model\.head PlainDETRHead, the checkpoint has DETRHead;",
        ),
        ({"classes": ["disk", *CLASSES[1:]]}, r"6 classes, the data has 6 \(new: 'disk'; missing: 'disc'\)"),
        ({"classes": [*CLASSES, "cube"]}, r"6 classes, the data has 7 \(new: 'cube'\)"),
        ({"classes": CLASSES[:2]}, r"6 classes, the data has 2 \(missing: 'triangle', 'star', 'ring', 'cross'\)"),
        ({"classes": CLASSES[::-1]}, r"6 classes, the data has 6 \(the same names in another order\)"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_another_model_says_what_differs(last, changed, says, training):
    with pytest.raises(CheckpointError, match=says) as error:
        check_resume(make(**changed), last, training=training)
    assert "\n" not in str(error.value) and str(last) in str(error.value)
    assert ("start from its weights instead" in str(error.value)) is training


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"optimizer": "adamw"}, r"model\.optimizer adamw, the checkpoint has muon;"),
        ({"backbone": {"freeze": 1}}, r"model\.backbone\.freeze 1, the checkpoint has 0;"),
        ({"layer_decay": 0.5}, r"model\.layer_decay 0\.5, the checkpoint has 1\.0;"),
        ({"trunk_lr": 0.5}, r"model\.trunk_lr 0\.5, the checkpoint has 1\.0;"),
        ({"backbone_lr": 0.5}, r"model\.backbone_lr 0\.5, the checkpoint has 1\.0;"),
    ],
)
def test_another_optimiser_is_refused_for_training_only(last, changed, says):
    with pytest.raises(CheckpointError, match=says):
        check_resume(make(**changed), last, training=True)
    check_resume(make(**changed), last, training=False)


def test_what_changes_no_weight_fits(last):
    for changed in (
        {},
        {"lr": 1.0, "weight_decay": 0.0, "schedule": {"shape": "wsd"}},
        {"backbone": {"drop_path": 0.1}},
    ):
        for training in (True, False):
            check_resume(make(**changed), last, training=training)


def test_a_checkpoint_without_the_optimiser_can_only_be_started_from(last, tmp_path):
    contents = torch.load(last, weights_only=True)
    torch.save({key: contents[key] for key in ("state_dict", "vitdet")}, tmp_path / "weights.ckpt")
    check_resume(make(), tmp_path / "weights.ckpt", training=False)
    with pytest.raises(CheckpointError, match=r"has no optimiser, only weights; start from it, model\.checkpoint:"):
        check_resume(make(), tmp_path / "weights.ckpt", training=True)


def _foreign(name, path, last):
    state = {"layer.weight": torch.zeros(2, 2)}
    if name == "cut":
        path.write_bytes(last.read_bytes()[:100_000])
    elif name == "flipped":
        whole = bytearray(last.read_bytes())
        whole[20:4000] = bytes(3980)
        path.write_bytes(whole)
    elif name == "text":
        path.write_text("not a checkpoint")
    elif name == "empty":
        path.touch()
    elif name == "folder":
        path.mkdir()
    elif name == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(state, path)
    elif name == "misnamed safetensors":
        save_file(state, path)
    elif name == "weights":
        torch.save(state, path)
    elif name == "old weights":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif name == "lightning":
        torch.save({"state_dict": state, "epoch": 1, "pytorch-lightning_version": "2.0"}, path)
    elif name == "code":
        torch.save({"model": torch.nn.Linear(2, 2)}, path)
    elif name == "a list":
        torch.save([1, 2], path)
    elif name == "half of ours":
        torch.save({"state_dict": state, "vitdet": {"format": 2}}, path)
    elif name == "older":
        torch.save({"state_dict": state, "vitdet": {"format": 1}}, path)
    return path


DAMAGED = ("cut", "flipped", "empty")
FOREIGN = ["cut", "flipped", "text", "empty", "folder", "safetensors", "misnamed safetensors", "weights", "old weights"]


@pytest.mark.parametrize("name", [*FOREIGN, "lightning", "code", "a list", "half of ours", "older"])
def test_another_file_is_refused_in_one_sentence(last, tmp_path, name):
    path = _foreign(name, tmp_path / "other.ckpt", last)
    with pytest.raises(CheckpointError) as error:
        check_resume(make(), path, training=True)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400
    assert "wanted a best.ckpt or last.ckpt of a run" in str(error.value) or name in ("older", *DAMAGED)
    assert f"{path} is damaged" in str(error.value) or name not in DAMAGED


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt"):
        check_resume(make(), tmp_path / "nowhere.ckpt", training=True)


def test_lightning_itself_says_what_differs(tiny, last):
    """Without vitdet's `Trainer`, too."""
    _, data, trainer = tiny(max_steps=4)
    with pytest.raises(CheckpointError, match=r"depth 2, the checkpoint has 1"):
        trainer.fit(make(backbone={"depth": 2}), data, ckpt_path=last, weights_only=True)


def _copy(last, folder):
    folder.mkdir()
    return shutil.copy(last, folder / "last.ckpt")


def _goes_on(tiny, last, tmp_path, task=None, **trainer):
    """Two more steps, and what is logged in each."""
    import lightning as L

    logged = []

    class Record(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            logged.append(trainer.logged_metrics["lr"].item())

    task = make(**(task or {}))
    _, data, trainer = tiny(
        **{
            "max_steps": 4,
            "max_epochs": -1,
            "limit_val_batches": 0,
            "log_every_n_steps": 1,
            "callbacks": [Record()],
            **trainer,
        }
    )
    trainer.fit(task, data, ckpt_path=_copy(last, tmp_path / "copy"), weights_only=True)
    return trainer, logged


def test_new_rates_take_effect_and_are_said(tiny, last, tmp_path, caplog):
    settings = {"lr": 1e-5, "weight_decay": 0.5, "betas": (0.8, 0.9), "schedule": {"shape": "constant", "warmup": 0.0}}
    with caplog.at_level("INFO"):
        trainer, logged = _goes_on(tiny, last, tmp_path, settings)
    (optimizer,), (config,) = trainer.optimizers, trainer.lr_scheduler_configs
    assert {group["lr"] for group in optimizer.param_groups} == {1e-5} == set(config.scheduler.base_lrs)
    assert {group["initial_lr"] for group in optimizer.param_groups} == {1e-5}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.5}
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}
    assert logged == pytest.approx([1e-5, 1e-5])
    (line,) = [r.message for r in caplog.records if "from here on holds" in r.message]
    assert "lr 1e-05, the checkpoint has 0.001" in line and "weight_decay 0.5, the checkpoint has 0.05" in line


def test_an_unchanged_run_says_nothing_and_logs_its_rate_from_the_first_step_on(tiny, last, tmp_path, caplog):
    """`last` is a half of this run: at its next step the cosine from 1e-3 is where 4 steps would have it."""
    with caplog.at_level("INFO"):
        _, logged = _goes_on(tiny, last, tmp_path)
    wanted = [1e-3 * Schedule().factor(done) for done in (0.5, 0.75)]
    assert logged == pytest.approx(wanted)
    assert "from here on holds" not in caplog.text


def test_a_longer_run_has_the_rates_of_its_own_length(tiny, last, tmp_path):
    _, logged = _goes_on(tiny, last, tmp_path, {"schedule": {"warmup": 0.0}}, max_steps=8)
    wanted = [1e-3 * Schedule(warmup=0.0).factor(step / 8) for step in range(2, 8)]
    assert logged == pytest.approx(wanted)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_task_is_loaded_from_its_checkpoint(last, tiny, precision):
    task = Task.load_from_checkpoint(last, map_location="cpu", lr=5e-4)
    contents = torch.load(last, weights_only=True)
    for name, value in task.state_dict().items():
        assert torch.equal(value, contents["ema_state_dict"][name])
    assert task.classes == CLASSES and task.settings == {**make().settings, "lr": 5e-4}
    _, data, trainer = tiny(max_steps=1, precision=precision)
    assert trainer.validate(task, data, verbose=False)[0]["val/AP"] >= 0
    with pytest.raises(CheckpointError, match=r"wanted a best\.ckpt"):
        Task.load_from_checkpoint(__file__)
