"""Marks the progress of this rank, for the other ranks."""

from typing import Any

import lightning as L

from vitdet.training.watch import Watch


class Pulse(L.Callback):
    """Tells the watch over the ranks what this rank does.

    Each batch counts as progress, except that the first of each stage may take as long as it works, since it may
    compile the model. So may all that is done between the batches: looking at the data, saving, scoring, reporting.

    Args:
        watch: the watch over the ranks of the trainer.
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        # the stages that have had a batch
        self._warm: set[str] = set()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._warm.clear()
        self.watch.mark("in setting up", counted=False)

    def _start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.watch.mark(f"at the start of the {_stage(trainer)}", counted=False)

    on_train_start = on_validation_start = on_test_start = on_predict_start = _start

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.watch.mark(f"in step {trainer.global_step} of the training", counted="training" in self._warm)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._warm.add("training")
        self.watch.mark(f"in loading the batch of step {trainer.global_step}", counted=True)

    def _batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        stage = _stage(trainer)
        self.watch.mark(f"in batch {batch_idx} of the {stage}", counted=stage in self._warm)

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = _batch_start

    def _batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        stage = _stage(trainer)
        self._warm.add(stage)
        self.watch.mark(f"in loading batch {batch_idx + 1} of the {stage}", counted=True)

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _batch_end

    def _scores(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.watch.mark(f"at the end of the {_stage(trainer)}", counted=False)

    on_validation_epoch_end = on_test_epoch_end = on_predict_epoch_end = on_train_epoch_end = _scores
    on_validation_end = on_test_end = on_predict_end = on_train_end = on_fit_end = _scores

    def on_save_checkpoint(self, trainer: L.Trainer, *_: Any) -> None:
        self.watch.mark("in saving a checkpoint", counted=False)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.watch.failed(exception)


def _stage(trainer: L.Trainer) -> str:
    """What the trainer does: `training`, `validation`, `test` or `prediction`."""
    words = {"train": "training", "validate": "validation", "sanity_check": "first validation", "predict": "prediction"}
    stage = str(getattr(trainer.state.stage, "value", trainer.state.stage))
    return words.get(stage, stage)
