"""Values that are not finite: steps that are skipped, weights that are not saved, and the end of a training of them."""

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from vitdet.errors import UserError, check
from vitdet.ranges import is_whole
from vitdet.training import diverged, events
from vitdet.training.finite import Later, broken

ADVICE = "try a lower learning rate (model.lr), or clip gradients (trainer.gradient_clip_val)"


class DivergedError(UserError, FloatingPointError):
    """Losses, gradients or weights are not finite; the message names the step and the last good checkpoint.

    Attributes:
        agreed: whether all ranks raise it together.
    """

    agreed = False


def _agreed(message: str) -> DivergedError:
    error = DivergedError(message)
    error.agreed = True
    return error


def finite(module: torch.nn.Module) -> bool:
    """Whether all weights of a module are finite."""
    return not broken(module.named_parameters())


def good_weights(trainer: Any) -> str:
    """Which good weights are left of a training that has diverged, as part of a sentence."""
    kept = (callback.kept() for callback in trainer.checkpoint_callbacks if hasattr(callback, "kept"))
    return next(kept, "no weights were saved")


def check_finite(trainer: L.Trainer) -> None:
    """Checks the weights, their average and the state of the optimisers on all ranks, which must call this together.

    Raises:
        DivergedError: a value is not finite on a rank.
    """
    wrong = broken(_saved(trainer))
    good = not wrong
    if trainer.world_size > 1:
        good = trainer.strategy.reduce_boolean_decision(good)
    if not good:
        where = f" (the first of {len(wrong)} is {wrong[0]})" if wrong else " on another rank"
        raise _agreed(
            f"the weights are not finite at step {trainer.global_step}{where}; {ADVICE}; {good_weights(trainer)}"
        )


def _saved(trainer: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a checkpoint that training changes, by name."""
    module = trainer.lightning_module
    weights = dict(module.named_parameters())
    names: dict[Tensor, str] = {parameter: name for name, parameter in weights.items()}
    yield from weights.items()
    for callback in trainer.callbacks:
        # buffers may be infinite
        known = ((k, v) for k, v in getattr(callback, "averaged", dict)().items() if k in weights)
        yield from ((f"the average of {name}", value) for name, value in known)
    for optimizer in trainer.optimizers:
        for parameter, state in optimizer.state.items():
            tensors = ((key, value) for key, value in state.items() if isinstance(value, Tensor))
            yield from ((f"{key} of {names.get(parameter, 'a weight')}", value) for key, value in tensors)


def skipped_steps(trainer: Any) -> int:
    """How many steps of the training the host knows to have been skipped."""
    return next((one.total for one in trainer.callbacks if isinstance(one, SkippedSteps)), 0)


class SkippedSteps(L.Callback):
    """Counts the steps whose loss or gradients are not finite, and ends a training when too many follow each other.

    `Task` skips these steps: the weights and the state of the optimiser stay as they were, on all ranks, while the
    schedule, the average of the weights and the number of steps go on. On a GPU the host learns of a step two steps
    later, so that it never waits for one.

    Before the training ends, the batches of the last step, the weights, and the states of optimiser and random
    generators are written to the folder `diverged` of the run, of which `vitdet replay` runs that step again.

    Args:
        limit: Number of steps in a row that are skipped before the training ends. A gradient scaler, for float16, skips
            steps to find its scale, and may skip 24 more. With 1, the host waits for each step.

    Raises:
        UserError: `limit` is out of its range.
        DivergedError: so many steps in a row were skipped.
    """

    def __init__(self, limit: int = 10) -> None:
        check("skip_steps", limit, is_whole(limit), "a whole number from 1")
        self.limit = limit
        self.total = self.row = 0
        self._told = 0
        self._step = -1
        # the same two numbers on the device
        self._counts: Tensor | None = None
        self._later = Later()
        self._begin()

    def _begin(self) -> None:
        # the batches of this step, kept only while steps are skipped: they take memory on the device
        self._kept: list[diverged.Kept] | None = [] if self.row or self.limit == 1 else None

    def state_dict(self) -> dict[str, Any]:
        # the latest numbers, of which the host may not know yet
        total, row = (self.total, self.row) if self._counts is None else map(int, self._counts.tolist())
        return {"total": total, "row": row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.total, self.row = state_dict["total"], state_dict["row"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._step, self._told = trainer.global_step, self.total
        self._counts = torch.tensor([self.total, self.row], dtype=torch.float32, device=pl_module.device)
        self._later = Later()
        self._begin()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._kept is not None:
            self._kept.append(diverged.keep(trainer, batch))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        # gradients are being accumulated: there was no optimiser step
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        bad = getattr(pl_module, "bad_step", None)
        if bad is None or self._counts is None:
            return
        total, row = self._counts.unbind()
        total.add_(bad)
        row.add_(1).mul_(bad)
        self._later.send(self._step, self._counts)
        # all of them, while something is wrong: the batches that are kept must be those of the step that is known
        self._take(trainer, self._later.receive(all=self._kept is not None))
        if self._kept is not None and self.row >= self._limit(trainer):
            self._end(trainer)
        self._begin()

    def _limit(self, trainer: L.Trainer) -> int:
        return self.limit + (24 if getattr(trainer.precision_plugin, "scaler", None) is not None else 0)

    def _take(self, trainer: L.Trainer, counts: list[tuple[int, list[float]]]) -> None:
        for step, (total, row) in counts:
            new, self.total, self.row = int(total) > self.total, int(total), int(row)
            if new:
                events.note(trainer, "skipped_step", skipped=step, total=self.total, in_a_row=self.row)
            # the first, the second, the fourth, …
            if new and self.total >= max(1, 2 * self._told):
                self._told = self.total
                rank_zero_info(
                    f"step {step} is skipped: its loss or gradients are not finite (skipped so far: {self.total})"
                )

    def _end(self, trainer: L.Trainer) -> None:
        where = diverged.write(trainer, self._kept or [], self.row)
        events.note(trainer, "diverged", in_a_row=self.row, kept=where)
        step = f"{self.row} steps in a row were skipped, the last is step {trainer.global_step}"
        raise _agreed(f"{step}: loss or gradients are not finite; {where}; {ADVICE}; {good_weights(trainer)}")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._take(trainer, self._later.receive(all=True))
        if self.total:
            rank_zero_info(
                f"{self.total} of {trainer.global_step} steps were skipped: their loss or gradients were not finite"
            )
