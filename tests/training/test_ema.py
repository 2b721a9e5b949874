"""The average of the weights is what the formula says, and validation and checkpoints see it."""

import lightning as L
import pytest
import torch

from vitdet.training import EMA


class Watch(L.Callback):
    """Weights after every optimiser step, and during the last validation."""

    def __init__(self):
        self.steps, self.validated = [], None

    def on_train_batch_end(self, trainer, task, *_):
        if trainer.global_step == len(self.steps):
            self.steps.append(_copy(task))

    def on_validation_batch_start(self, trainer, task, *_):
        self.validated = _copy(task)


def _copy(task):
    return {name: tensor.clone() for name, tensor in task.state_dict().items()}


def _assert_equal(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_average(tiny, accumulate):
    watch = Watch()
    options = {"accumulate_grad_batches": accumulate, "num_sanity_val_steps": 0}
    task, data, trainer = tiny(callbacks=[watch], ema=0.3, max_epochs=3, **options)
    wanted = {name: tensor.double() for name, tensor in _copy(task).items()}
    watch.steps.append(None)  # `global_step` counts from 1
    trainer.fit(task, data)
    assert len(watch.steps) == trainer.global_step + 1
    for t, weights in enumerate(watch.steps[1:], start=1):
        decay = min(0.3, (1 + t) / (10 + t))
        wanted = {name: decay * wanted[name] + (1 - decay) * weights[name].double() for name in wanted}
    saved = torch.load(trainer.run_folder / "last.ckpt", weights_only=True)
    wanted = {name: tensor.float() for name, tensor in wanted.items()}
    _assert_equal(saved["ema_state_dict"], wanted, rtol=1e-4, atol=1e-6)
    _assert_equal(watch.validated, saved["ema_state_dict"], rtol=0, atol=0)
    _assert_equal(saved["state_dict"], watch.steps[-1], rtol=0, atol=0)
    _assert_equal(_copy(task), watch.steps[-1], rtol=0, atol=0)  # back in place


def test_a_checkpoint_written_during_validation_is_the_same(tiny):
    class Save(L.Callback):
        def on_validation_batch_start(self, trainer, *_):
            if not trainer.sanity_checking:
                trainer.save_checkpoint(trainer.run_folder / "within.ckpt")

    task, data, trainer = tiny(callbacks=[Save()], max_epochs=1)
    trainer.fit(task, data)
    within, after = (torch.load(trainer.run_folder / name, weights_only=True) for name in ("within.ckpt", "last.ckpt"))
    for part in ("state_dict", "ema_state_dict"):
        _assert_equal(within[part], after[part], rtol=0, atol=0)


def test_testing_a_checkpoint_uses_its_average(tiny):
    task, data, trainer = tiny(max_epochs=2, ema=0.9)
    trainer.fit(task, data)
    last = torch.load(trainer.run_folder / "last.ckpt", weights_only=True)

    watch = Watch()
    watch.on_test_batch_start = watch.on_validation_batch_start
    fresh, data, tester = tiny(callbacks=[watch], name="test")
    tester.test(fresh, data, ckpt_path=trainer.run_folder / "last.ckpt", weights_only=True, verbose=False)
    _assert_equal(watch.validated, last["ema_state_dict"], rtol=0, atol=0)
    assert any(not torch.equal(last["state_dict"][k], v) for k, v in watch.validated.items())


def test_a_decay_of_one_would_never_learn():
    with pytest.raises(ValueError, match="0 <= decay < 1"):
        EMA(1.0)


def test_half_weights_have_a_whole_average(tiny):
    """A bfloat16 has 8 bits: an average in it would stay where it is. A validation in between leaves it whole, too."""
    task, data, trainer = tiny(ema=0.999, max_epochs=3, precision="bf16-true")
    trainer.fit(task, data)
    saved = torch.load(trainer.run_folder / "last.ckpt", weights_only=True)
    name = next(
        key for key, tensor in saved["state_dict"].items() if tensor.dtype == torch.bfloat16 and tensor.ndim == 2
    )
    average = saved["ema_state_dict"][name]
    assert average.dtype == torch.float32
    assert (average != average.bfloat16().float()).float().mean() > 0.3
    assert next(task.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize(("first", "then"), [("32-true", "bf16-true"), ("bf16-true", "32-true")])
def test_a_run_goes_on_in_another_precision(tiny, first, then):
    task, data, trainer = tiny(max_epochs=1, precision=first)
    trainer.fit(task, data)
    task, data, again = tiny(max_epochs=2, precision=then)
    again.fit(task, data, ckpt_path=trainer.run_folder / "last.ckpt")
    assert again.global_step == 6


@pytest.mark.parametrize(
    ("first", "then", "said"), [(0.9, 0.0, "there is no average of the weights"), (0.0, 0.9, "has no average")]
)
def test_with_and_without_an_average(tiny, first, then, said, caplog, recwarn):
    task, data, trainer = tiny(max_epochs=1, ema=first)
    trainer.fit(task, data)
    task, data, again = tiny(max_epochs=2, ema=then)
    again.fit(task, data, ckpt_path=trainer.run_folder / "last.ckpt")
    assert caplog.text.count(said) == 1 and not [w for w in recwarn if "add the following" in str(w.message)]
    saved = torch.load(again.run_folder / "last.ckpt", weights_only=True)
    assert ("ema_state_dict" in saved) is bool(then)
