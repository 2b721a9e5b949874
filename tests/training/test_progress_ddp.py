"""Two processes with clocks that differ train by one of them: at each batch the rate, the head and the data agree."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, sys
import lightning as L
from lightning.pytorch.callbacks import Timer
sys.path.insert(0, {here!r})
from small_model import BACKBONE, HEAD
from vitdet import Backbone, DETRHead, ShapesData, Task, Trainer
from vitdet.data import dataset


class Record(L.Callback):
    def setup(self, trainer, task, stage):
        (timer,) = (one for one in trainer.callbacks if isinstance(one, Timer))
        timer._offset = 20.0 * (1 + trainer.global_rank)  # this process started earlier
        self.seen, self.drawn = [], []

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        self.seen.append([task.head.progress, task.learning_rate()])

    def on_train_end(self, trainer, task):
        with open(f"rank{{trainer.global_rank}}.json", "w") as file:
            json.dump({{"seen": self.seen, "drawn": drawn}}, file)


if __name__ == "__main__":
    # what the loader draws; the look before the training takes samples one by one
    drawn, get = [], dataset.TrainDataset.__getitems__

    def note(self, draws):
        drawn.extend([draw.epoch, draw.progress, draw.scale] for draw in draws)
        return get(self, draws)

    dataset.TrainDataset.__getitems__ = note
    data = ShapesData(root="shapes", train_images=8, val_images=2, size=64, batch_size=2, seed=0,
                      augmentation=dict(batch_scale=(0.5, 1.0), progressive=True))
    task = Task(Backbone("vit_tiny_patch16_224", **BACKBONE), lambda c, s, k: DETRHead(c, s, k, **HEAD),
                classes=data.classes)
    trainer = Trainer(root="runs", accelerator="cpu", devices=2, strategy="ddp", max_time="00:00:01:00", max_steps=6,
                      limit_val_batches=0, pictures=0, progress=False, logger=False, callbacks=[Record()])
    trainer.fit(task, data)
"""


def test_ranks_agree_where_time_ends_the_training(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parent)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=200, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    heads = [done for done, _ in first["seen"]]
    assert len(heads) == 6 and heads == sorted(heads) and heads[0] >= 20 / 60  # by the clock of the first process
    assert all(progress >= 20 / 60 for _, progress, _ in first["drawn"])
