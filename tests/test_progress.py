"""How far a training is, by whichever bound ends it first."""

import pytest

from vitdet.progress import Progress


@pytest.mark.parametrize(
    ("bounds", "steps", "epochs", "time", "done"),
    [
        ({"max_steps": 10}, 4, 3.0, 0.0, 0.4),
        ({"max_epochs": 4}, 400, 1.5, 0.0, 0.375),
        ({"max_epochs": 4, "max_steps": 10}, 5, 1.0, 0.0, 0.5),
        ({"max_epochs": 4, "max_steps": 10}, 1, 3.0, 0.0, 0.75),
        ({"max_epochs": 4, "max_steps": -1}, 1, 1.0, 0.9, 0.9),
        ({"max_epochs": -1}, 9, 9.0, 0.2, 0.2),
        ({"max_steps": 2}, 3, 0.0, 1.5, 1.0),
    ],
)
def test_the_first_bound_counts(bounds, steps, epochs, time, done):
    progress = Progress(**bounds)
    progress.update(steps=steps, epochs=epochs, time=time)
    assert progress.done == done


@pytest.mark.parametrize(
    ("bounds", "epoch", "batch", "at"),
    [
        ({"max_epochs": 2}, 1, 5, 0.75),
        ({"max_steps": 40}, 1, 5, 15 / 40),
        ({"max_steps": 40, "accumulate": 4}, 3, 5, 35 / 160),
        ({"max_epochs": 2, "max_steps": 5}, 0, 4, 0.8),
        ({"max_epochs": 2, "limit": 4}, 1, 2, 0.75),
        ({"max_epochs": 2, "limit": 0.4}, 1, 2, 0.75),
        ({"max_epochs": 2}, 7, 0, 1.0),
        ({}, 7, 0, 0.0),
    ],
)
def test_a_batch_that_is_drawn_ahead_knows_its_place(bounds, epoch, batch, at):
    progress = Progress(**bounds)
    assert progress.at(epoch, batch, 10) == pytest.approx(at)
    progress.update(steps=0, epochs=0.0, time=0.95)
    assert progress.at(epoch, batch, 10) == max(at, 0.95)


def test_another_training_starts_anew():
    progress = Progress(max_steps=2)
    progress.update(steps=2, epochs=1.0, time=0.5)
    progress.begin(max_epochs=3, max_steps=None)
    assert progress.done == progress.time == progress.at(0, 0, 5) == 0
