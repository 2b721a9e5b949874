"""What a task scores, and on which images."""

import pytest


@pytest.mark.parametrize(("limit", "images"), [(1, 2), (0.7, 4), (1.0, 5), (None, 5)])
def test_a_limited_validation_is_scored_on_the_images_it_saw(tiny, limit, images):
    task, data, trainer = tiny(data={"eval_batch_size": 2}, max_steps=1, limit_val_batches=limit)
    trainer.fit(task, datamodule=data)
    assert f"{images} images" in task.metric("val").protocol()


def test_a_run_that_is_never_scored_has_no_best_checkpoint(tiny):
    task, data, trainer = tiny(limit_val_batches=0)
    trainer.fit(task, data)
    assert {path.name for path in trainer.run_folder.glob("*.ckpt")} == {"last-1.ckpt", "last.ckpt"}
