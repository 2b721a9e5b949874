"""What a task scores, and on which images."""

import pytest
import torch

from vitdet.training.checkpoint import BestCheckpoint


@pytest.mark.parametrize(("limit", "images"), [(1, 2), (0.7, 4), (1.0, 5), (None, 5)])
def test_a_limited_validation_is_scored_on_the_images_it_saw(tiny, limit, images):
    task, data, trainer = tiny(data={"eval_batch_size": 2}, max_steps=1, limit_val_batches=limit)
    trainer.fit(task, datamodule=data)
    assert f"{images} images" in task.metric("val").protocol()


def test_a_run_that_is_never_scored_has_no_best_checkpoint(tiny):
    task, data, trainer = tiny(limit_val_batches=0)
    trainer.fit(task, data)
    assert {path.name for path in trainer.run_folder.glob("*.ckpt")} == {"last.ckpt"}


def test_the_best_score_is_kept_when_a_run_goes_on_unless_another_score_chooses():
    first = BestCheckpoint("runs")
    first.monitor = "val/AP"  # as a validation sets it
    first.best_model_score, first.best_model_path, first.dirpath = torch.tensor(0.7), "runs/best.ckpt", "runs"
    for monitor, kept in ((None, True), ("val/AP", True), ("val/AP50", False)):
        other = BestCheckpoint("runs", monitor=monitor)
        other.dirpath = "runs"
        other.load_state_dict(first.state_dict())
        assert other.monitor == (monitor or "val/AP") and (other.best_model_score is not None) is kept
