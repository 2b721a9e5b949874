"""A run that was stopped goes on to the same weights, bit for bit."""

import os
import signal

import lightning as L
import pytest
import torch


class PressCtrlC(L.Callback):
    """Sends a real SIGINT to this process, once, in step `step`."""

    def __init__(self, step):
        self.step, self.pressed = step, False

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step and not self.pressed:
            self.pressed = True
            os.kill(os.getpid(), signal.SIGINT)


def _stop(trainer, *args, **kwargs):
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit):
            trainer.fit(*args, **kwargs)
    finally:
        signal.signal(signal.SIGINT, before)


def _equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b


@pytest.mark.parametrize("step", [1, 2, 3, 4], ids=lambda s: f"after {s + 1} of 6 steps")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 2, "data": {"batch_size": 2}},
        {"val_check_interval": 2, "check_val_every_n_epoch": None, "max_steps": 6, "max_epochs": -1},
        {"check_val_every_n_epoch": 2, "max_steps": 6, "max_epochs": -1},
    ],
    ids=["plain", "accumulating", "validating within an epoch", "validating rarely"],
)
def test_resuming_is_exact(tiny, step, options):
    """Three steps an epoch, so the stops fall in the middle and at the end of an epoch."""
    augmentation = {"mosaic": 0.5, "batch_scale": (0.5, 1.0), "progressive": True}
    data = {"augmentation": augmentation, **options.get("data", {})}
    options = {key: value for key, value in options.items() if key != "data"}
    task, module, trainer = tiny(data=data, name="straight", **options)
    trainer.fit(task, module)
    straight = torch.load(trainer.run_folder / "last.ckpt", weights_only=True)

    task, module, trainer = tiny(data=data, name="stopped", callbacks=[PressCtrlC(step)], **options)
    _stop(trainer, task, module)
    halfway = torch.load(trainer.run_folder / "last.ckpt", weights_only=True)
    assert halfway["global_step"] == step + 1

    task, module, trainer = tiny(data=data, name="stopped", version=0, **options)
    trainer.fit(task, module, ckpt_path=trainer.run_folder / "last.ckpt", weights_only=True)
    resumed = torch.load(trainer.run_folder / "last.ckpt", weights_only=True)
    assert resumed["global_step"] == straight["global_step"]
    for part in ("state_dict", "ema_state_dict", "optimizer_states", "lr_schedulers"):
        assert _equal(straight[part], resumed[part]), part
    best = [
        c["best_model_score"] for run in (straight, resumed) for name, c in run["callbacks"].items() if "Best" in name
    ]
    assert _equal(*best)


class CrashInValidation(L.Callback):
    def __init__(self, step):
        self.step = step

    def on_validation_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise MemoryError


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resuming_is_exact_after_a_crash_in_a_validation_within_an_epoch(tiny, accumulate):
    """With accumulated gradients, a validation may fall between two steps: what was saved before them counts."""
    options = {"val_check_interval": 2 if accumulate == 1 else 1, "check_val_every_n_epoch": None}
    options |= {"max_steps": 6, "max_epochs": -1, "accumulate_grad_batches": accumulate}
    task, module, trainer = tiny(name="straight", **options)
    trainer.fit(task, module)
    straight = torch.load(trainer.run_folder / "last.ckpt", weights_only=True)
    task, module, trainer = tiny(name="crashed", callbacks=[CrashInValidation(4)], **options)
    with pytest.raises(MemoryError):
        trainer.fit(task, module)
    task, module, again = tiny(name="crashed", **options)
    again.fit(task, module, ckpt_path=trainer.run_folder / "last.ckpt")
    resumed = torch.load(trainer.run_folder / "last.ckpt", weights_only=True)
    for part in ("global_step", "state_dict", "ema_state_dict", "optimizer_states"):
        assert _equal(straight[part], resumed[part]), part


def test_each_validation_finds_the_last_step_saved(tiny):
    """Also one between the batches of a step: a run that is stopped in a validation loses no step."""
    steps = []

    class Compare(L.Callback):
        def on_validation_batch_start(self, trainer, *_):
            last = trainer.run_folder / "last.ckpt"
            if not trainer.sanity_checking and trainer.global_step:
                steps.append((trainer.global_step, torch.load(last, weights_only=True)["global_step"]))

    options = {"val_check_interval": 3, "check_val_every_n_epoch": None, "accumulate_grad_batches": 2}
    task, module, trainer = tiny(max_steps=6, max_epochs=-1, callbacks=[Compare()], data={"batch_size": 1}, **options)
    trainer.fit(task, module)
    assert {step for step, _ in steps} == {1, 3, 4, 6}
    assert all(step == saved for step, saved in steps), steps


def test_the_last_step_is_validated_once(tiny):
    steps = []

    class Count(L.Callback):
        def on_validation_end(self, trainer, *_):
            if not trainer.sanity_checking:
                steps.append(trainer.global_step)

    options = {"val_check_interval": 2, "check_val_every_n_epoch": None, "max_epochs": -1, "callbacks": [Count()]}
    for last, wanted in ((4, [2, 4]), (5, [2, 4, 5]), (3, [2, 3])):
        steps.clear()
        task, module, trainer = tiny(max_steps=last, **options)
        trainer.fit(task, module)
        assert steps == wanted and trainer.check_val_every_n_epoch is None


def test_a_stopped_run_leaves_a_checkpoint_that_predicts(tiny):
    task, module, trainer = tiny(callbacks=[PressCtrlC(1)])
    _stop(trainer, task, module)
    saved = torch.load(trainer.run_folder / "last.ckpt", weights_only=True)
    assert saved["vitdet"]["classes"] == module.classes and saved["ema_state_dict"].keys() == saved["state_dict"].keys()


def test_the_checkpoint_holds_nothing_but_plain_values_and_tensors(tiny):
    task, module, trainer = tiny(max_steps=1)
    trainer.fit(task, module)
    for name in ("last.ckpt", "best.ckpt"):
        torch.load(trainer.run_folder / name, weights_only=True)


def test_training_lowers_the_loss_and_moves_every_weight(tiny):
    task, module, trainer = tiny(max_epochs=12, data={"scale_jitter": (1.0, 1.0), "train_transforms": []})
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    losses = []

    class Record(L.Callback):
        def on_train_batch_end(self, trainer, task, outputs, *_):
            losses.append(outputs["loss"].item())

    trainer.callbacks.append(Record())
    trainer.fit(task, module)
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
    assert not [name for name, p in task.named_parameters() if torch.equal(p, before[name])]
