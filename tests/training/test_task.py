"""What a task scores, and on which images."""

import pytest


@pytest.mark.parametrize(("limit", "images"), [(1, 2), (0.7, 4), (1.0, 5), (None, 5)])
def test_a_limited_validation_is_scored_on_the_images_it_saw(tiny, limit, images):
    task, data, trainer = tiny(data={"eval_batch_size": 2}, max_steps=1, limit_val_batches=limit)
    trainer.fit(task, datamodule=data)
    assert f"{images} images" in task.metric("val").protocol()
