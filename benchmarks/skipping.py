"""What it costs to skip steps that are not finite: a training whose steps do so and don't, in turn.

python benchmarks/skipping.py [--config configs/detr_vit.yaml] [--steps 200] [--key value …]

Each figure is a median over the steps, of the CPU time of this process (of the time on a GPU, which each step then
waits for). The keys are those of the config.
"""

import argparse
import statistics
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.precision import Precision

from vitdet.cli import load_config
from vitdet.training import Task, Trainer


class InTurn(L.Callback):
    """Has every second step checked, and takes the time of each."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.seconds = warmup, {True: [], False: []}
        self._start = 0.0

    def on_train_batch_start(self, trainer: L.Trainer, task: Any, batch: Any, batch_idx: int) -> None:
        # the first of each pair alternates, too
        step = trainer.global_step
        task.checked = (step % 2 == 0) ^ (step // 2 % 2 == 0)
        self._start = now(task.device)

    def on_train_batch_end(self, trainer: L.Trainer, task: Any, *_: Any) -> None:
        if trainer.global_step > self.warmup:
            self.seconds[task.checked].append(now(task.device) - self._start)


def now(device: torch.device) -> float:
    """The CPU time of the process, or the time once a GPU has done its work, in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def unchecked(cls: type[Task]) -> type[Task]:
    """The task, which skips nothing in a step that is not `checked`, and clips as torch does."""

    class Unchecked(cls):
        checked = True

        def backward(self, loss: Any, *args: Any, **kwargs: Any) -> None:
            super().backward(loss, *args, **kwargs) if self.checked else loss.backward(*args, **kwargs)

        def configure_gradient_clipping(
            self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
        ) -> None:
            if self.checked:
                super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
                return
            optimizer.found_inf = self.bad_step = None
            if gradient_clip_val:
                Precision.clip_gradients(self.trainer.precision_plugin, optimizer, gradient_clip_val)

    return Unchecked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/detr_vit.yaml")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--clip", type=float, default=1.0, help="0 clips nothing")
    parser.add_argument("--precision", default="32-true")
    options, rest = parser.parse_known_args()
    torch.set_num_threads(1)
    task, data = load_config(options.config, rest)
    task.__class__ = unchecked(type(task))
    watch = InTurn(warmup=10)
    fixed = {"logger": False, "pictures": 0, "enable_checkpointing": False, "limit_val_batches": 0, "progress": False}
    bounds = {"max_epochs": -1, "max_steps": options.steps + 10, "gradient_clip_val": options.clip or None}
    Trainer(**fixed, **bounds, precision=options.precision, callbacks=[watch]).fit(task, data)
    with_, without = (statistics.median(watch.seconds[checked]) for checked in (True, False))
    print(
        f"{options.config} on {task.device}, {options.precision}, clip {options.clip:g}, {options.steps} steps in turn"
    )
    print(f"skipping {1e3 * with_:.2f} ms a step, without {1e3 * without:.2f} ms, ratio {with_ / without:.4f}")


if __name__ == "__main__":
    main()
