"""Pictures of the first training batches, so that what a run was trained on can be looked at."""

from typing import Any

import lightning as L

from vitdet.data.samples import caption, draw_sample, file_names, is_target, sheet
from vitdet.training.callbacks.bar import show

# the longest side of a sample in a picture of its batch, in pixels, and how many samples it shows at most
SIDE, MOST = 320, 8


class FirstBatches(L.Callback):
    """Draws the first batches of a training, as the model sees them, into the folder `pictures` of the run.

    The batches are those that are trained on: nothing is read twice, and no random number is drawn. A picture that
    can't be written is no reason to stop.

    Args:
        count: Number of batches.
    """

    def __init__(self, count: int = 3) -> None:
        self.count = count
        self._failed = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # a training that goes on has had its first batches
        self._failed = trainer.global_step > 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        wanted = batch_idx < self.count and trainer.current_epoch == 0 and trainer.is_global_zero
        if not wanted or self._failed or not _is_ours(batch):
            return
        try:
            self._save(trainer, pl_module, batch, batch_idx)
        # whatever it is, the training matters more
        except Exception as error:
            self._failed = True
            show(f"pictures of the first batches are not written: {error}")

    def _save(self, trainer: L.Trainer, task: L.LightningModule, batch: Any, batch_idx: int) -> None:
        images, targets = (part[:MOST] for part in batch)
        data: Any = getattr(trainer, "datamodule", None)
        names = file_names(data.index("train")) if hasattr(data, "index") else {}
        outline = getattr(data, "kind", "instances") == "instances"
        mean, std = task.backbone.mean, task.backbone.std
        options = {"names": task.classes, "mean": mean, "std": std, "outline": outline, "side": SIDE}
        pictures = [draw_sample(image, target, **options) for image, target in zip(images, targets)]
        texts = [caption(target, names.get(target.image_id, "")) for target in targets]
        folder = trainer.run_folder / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        sheet(pictures, texts).save(folder / f"train_batch{batch_idx}.jpg", quality=85)


def _is_ours(batch: Any) -> bool:
    """Whether it is a batch of vitdet's data: a list of images, and a list of targets."""
    pair = isinstance(batch, (list, tuple)) and len(batch) == 2
    return pair and isinstance(batch[1], list) and len(batch[1]) > 0 and all(map(is_target, batch[1]))
