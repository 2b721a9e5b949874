"""A training that is killed at any point of its life goes on as if nothing had happened.

Compared are the weights, their average, the optimiser, the schedule, the counters of the loops, the best score,
`best.ckpt`, the thresholds, the scores in the checkpoint, `metrics.csv`, and which images each step has seen.
"""

import random
import shutil
import signal
from collections import defaultdict
from pathlib import Path

import pytest
from chaos import rounds, tiny_config
from killer import live
from outcome import differences, outcome

LIVES = {
    "epochs": {"max_epochs": 2, "log_every_n_steps": 2},
    "validated within an epoch": {
        **{"max_epochs": -1, "max_steps": 5, "val_check_interval": 2, "check_val_every_n_epoch": None},
        "log_every_n_steps": 1,
    },
    "accumulating": {"max_epochs": 3, "accumulate_grad_batches": 2, "val_check_interval": 1, "log_every_n_steps": 1},
    "validated rarely": {"max_epochs": 3, "check_val_every_n_epoch": 2, "max_steps": 7, "monitor": "val/AP50"},
}


def batches(file: Path) -> dict[tuple[str, str], set[str]]:
    """The image ids of each batch of each epoch, for every time that it was trained on."""
    seen = defaultdict(set)
    for line in file.read_text().splitlines():
        epoch, batch, ids = line.split(" ", 2)
        seen[epoch, batch].add(ids)
    return dict(seen)


class Lives:
    """The uninterrupted life of a config, and others that are killed."""

    def __init__(self, folder: Path, trainer: dict) -> None:
        self.folder = folder
        watch = {"class_path": "killer.Watch", "init_args": {"file": str(folder / "seen.txt")}}
        self.config = tiny_config(folder, trainer={**trainer, "callbacks": [watch]})
        self.runs = folder / "runs" / "tiny"
        code, self.points, output = live(["train", self.config], folder)
        assert code == 0, output[-3000:]
        self.straight, self.seen = outcome(self.runs / "version_0"), batches(folder / "seen.txt")
        shutil.rmtree(self.runs)

    def killed_at(self, *points: int) -> list[str]:
        """Kills a training at these points, one after the other, and returns how it differs in the end."""
        (self.folder / "seen.txt").unlink(missing_ok=True)
        told = []
        for point in [*points, None]:
            resumes = list(self.runs.glob("*/last.ckpt"))
            code, passed, output = live(
                ["train", self.config, *(["--ckpt_path", "last"] if resumes else [])], self.folder, last=point
            )
            told.append(passed[-1] if point is not None else "end")
            assert code == (-signal.SIGKILL if point is not None and len(passed) == point else 0), output[-3000:]
        run = max(self.runs.iterdir())
        found = differences(self.straight, outcome(run))
        seen = batches(self.folder / "seen.txt")
        found += [] if seen == self.seen else [f"other images: {self.seen} | {seen}"]
        found += [f"litter: {path}" for path in run.iterdir() if path.suffix == ".tmp"]
        shutil.rmtree(self.runs)
        return [f"killed at {', '.join(told)}: {text}" for text in found]


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    made = {}

    def get(name: str) -> Lives:
        if name not in made:
            made[name] = Lives(tmp_path_factory.mktemp("lives"), LIVES[name])
        return made[name]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LIVES)[: rounds(2, len(LIVES))])
def test_a_training_killed_anywhere_goes_on_as_if_nothing_had_happened(lives, name):
    one = lives(name)
    count = len(one.points)
    # each of the images once an epoch
    for epoch in {epoch for epoch, _ in one.seen}:
        ids = [i for (e, _), found in one.seen.items() if e == epoch for text in found for i in text.split()]
        assert len(ids) == len(set(ids)), f"epoch {epoch} has seen an image twice"
    chance = random.Random(f"{name} 15")
    found = []
    for _ in range(rounds(1, 10)):
        found += one.killed_at(chance.randint(1, count), *([chance.randint(1, count)] if rounds(0, 1) else []))
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_a_validation_in_which_a_training_was_killed_is_run(lives):
    """Twice, the second time in the validation that the resumed training begins with."""
    one = lives("validated within an epoch")
    inside = [i for i, name in enumerate(one.points, 1) if name.startswith("on_validation_batch")]
    inside = [i for i in inside if "sanity" not in one.points[i - 1]]
    again = one.points.index("on_validation_start step 2") + 1 - one.points.index("on_train_start step 0")
    found = []
    for point in [inside[-1], *inside[::2]][: rounds(1, 100)]:
        found += one.killed_at(point, again)
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_a_training_that_is_over_says_that_nothing_is_left(lives):
    one = lives("epochs")
    assert live(["train", one.config], one.folder)[0] == 0
    run = one.runs / "version_0"
    before = outcome(run)
    code, _, output = live(["train", one.config, "--ckpt_path", "last"], one.folder)
    assert code == 0 and "nothing to train: the run is at step 6, epoch 2, and has max_epochs 2" in output
    assert not differences(before, outcome(run))
    shutil.rmtree(one.runs)
