"""Keeps the global batches of a training that goes on with another number of processes."""

import math
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities import rank_zero_info

from vitdet.contents import loop_of
from vitdet.data import ImageData
from vitdet.data.sampler import BatchSampler
from vitdet.data.sharing import Sharing
from vitdet.progress import Progress
from vitdet.training import progress


class GlobalBatch(L.Callback):
    """Keeps the global batches, the images of each optimiser step, on any number of processes.

    They follow from the seed, the epoch and the size of a global batch: `data.batch_size` images, times the processes,
    times `accumulate_grad_batches`. A training that is resumed on another number of processes, with the same settings,
    keeps that size: a process takes fewer images or, where these would be more than `data.batch_size`, more batches,
    whose gradients are accumulated. Where the settings were changed, the new ones hold. It works with vitdet's data.

    Raises:
        UserError: the global batch of the checkpoint can't be shared equally by so many processes.
    """

    def __init__(self) -> None:
        # what the user set in the trainer, while this training changes it
        self._set: dict[str, Any] = {}
        self._given: dict[str, Any] | None = None
        self._moved_from: int | None = None
        self._said = ""

    def state_dict(self) -> dict[str, Any]:
        return {} if self._given is None else {"given": self._given}

    def setup(self, trainer: Any, pl_module: L.LightningModule, stage: str) -> None:
        self._given, self._moved_from, self._said = None, None, ""
        data: Any = getattr(trainer, "datamodule", None)
        if stage != "fit" or not isinstance(data, ImageData):
            return
        accumulate = trainer.accumulate_grad_batches
        data.sharing = Sharing.of(data.batch_size, data.max_tokens, trainer.world_size, accumulate)
        if data.sharing.ranks * data.sharing.accumulate > 1:
            self._said = f"a global batch has {data.sharing.describe()}: {data.sharing.describe_share()}"
        if not any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks):
            self._given = {"batch_size": data.batch_size, "max_tokens": data.max_tokens, "accumulate": accumulate}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        before, given = _sharing(checkpoint), checkpoint["callbacks"].get(self.state_key, {}).get("given")
        if trainer.state.fn != "fit" or not isinstance(data, ImageData) or before is None:
            return
        now: Any = data.sharing
        if given is not None and given == self._given:
            now = data.sharing = before.on(now.ranks, data.batch_size)
            if now.accumulate != trainer.accumulate_grad_batches:
                self._accumulate(trainer, now.accumulate)
                if isinstance(done := getattr(pl_module, "progress", None), Progress):
                    progress.begin(done, trainer)
        if (now.size, now.max_tokens) != (before.size, before.max_tokens):
            self._said = f"from here on a global batch has {now.describe()}, the checkpoint's had {before.describe()}"
        elif now.ranks != before.ranks:
            self._said = f"a global batch keeps its {now.describe()}: {now.describe_share()}; "
            self._said += f"before, {before.describe_share()}"
        if now != before:
            self._moved_from = before.accumulate

    def _accumulate(self, trainer: L.Trainer, accumulate: int) -> None:
        """Makes a step of `accumulate` batches, and what counts batches count as many steps as before."""
        given = trainer.accumulate_grad_batches
        changed: dict[str, Any] = {"accumulate_grad_batches": accumulate}
        for name in ("val_check_interval", "limit_train_batches"):
            value = getattr(trainer, name)
            if isinstance(value, int) and value > 0:
                changed[name] = math.ceil(value / given) * accumulate
        self._set = {name: getattr(trainer, name) for name in changed}
        for name, value in changed.items():
            setattr(trainer, name, value)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        sampler = getattr(trainer.train_dataloader, "batch_sampler", None)
        if not isinstance(sampler, BatchSampler):
            return
        if self._said:
            drawn, images = sampler.state_at(len(sampler))["images"], len(sampler.tokens)
            rest = f"; an epoch has {drawn} of {images} images" if drawn < images and sampler.repeats is None else ""
            rank_zero_info(self._said + rest)
        if self._moved_from is not None:
            self._recount(trainer, sampler, self._moved_from)
            self._validate_as_often(trainer)

    def _recount(self, trainer: L.Trainer, sampler: BatchSampler, before: int) -> None:
        """Counts the batches of this epoch and of the training, where a step had `before` batches, as those of now."""
        batches = trainer.fit_loop.epoch_loop.batch_progress
        current, total = batches.current.ready, batches.total.ready
        done = trainer.num_training_batches if batches.is_last_batch else sampler.position
        earlier = (total - current) // before * sampler.sharing.accumulate
        for counts, by in ((batches.current, done - current), (batches.total, earlier + done - total)):
            for name in ("ready", "started", "processed", "completed"):
                setattr(counts, name, getattr(counts, name) + by)

    def _validate_as_often(self, trainer: L.Trainer) -> None:
        """Validates after the same steps, where a fraction of an epoch says when."""
        given, now = self._set.get("accumulate_grad_batches", 0), trainer.accumulate_grad_batches
        share: Any = trainer.val_check_interval
        by_time = getattr(trainer, "_val_check_time_interval", None) is not None
        if given and isinstance(share, float) and not by_time:
            batches = max(1, int(trainer.num_training_batches // now * given * share))
            trainer.val_check_batch = math.ceil(batches / given) * now

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._restore(trainer)

    def _restore(self, trainer: L.Trainer) -> None:
        for name, value in self._set.items():
            setattr(trainer, name, value)
        self._set = {}
        if isinstance(data := getattr(trainer, "datamodule", None), ImageData):
            data.sharing = None


def _sharing(checkpoint: dict[str, Any]) -> Sharing | None:
    """How the training of a checkpoint shared out its batches, unless an older vitdet wrote it."""
    loaders = loop_of(checkpoint).get("combined_loader", [])
    states = [state for state in loaders if isinstance(state, dict) and "sharing" in state]
    return Sharing(**states[0]["sharing"]) if states else None
