"""No two trainings write to one folder, and none finds a half of the data set that another one is making."""

import time

import pytest
from chaos import rounds, tiny_config
from killer import Life

COUNT = rounds(5, 20)


@pytest.mark.slow
def test_trainings_that_start_at_once_have_a_folder_each_and_make_their_data_once(tmp_path):
    config = tiny_config(tmp_path, trainer={"max_steps": 1, "log_every_n_steps": 1, "limit_val_batches": 1})
    lives = [Life(["train", config], tmp_path, name=f"log{i}") for i in range(COUNT)]
    for life in lives:
        code, _, output = life.end(300)
        assert code == 0, output[-3000:]
    runs = sorted((tmp_path / "runs" / "tiny").iterdir())
    assert {run.name for run in runs} == {f"version_{i}" for i in range(COUNT)}
    # the same seed, so that a training that had another's rows or data would stand out
    assert len({(run / "metrics.csv").read_text() for run in runs}) == 1
    for run in runs:
        assert {"last.ckpt", "best.ckpt", "config.yaml", "metrics.csv"} <= {path.name for path in run.iterdir()}
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"]


@pytest.mark.slow
def test_a_folder_of_a_training_that_is_running_is_refused(tmp_path):
    config = tiny_config(tmp_path, trainer={"max_epochs": 100_000, "version": 3, "limit_val_batches": 1})
    one = Life(["train", config], tmp_path, name="one")
    try:
        last = tmp_path / "runs" / "tiny" / "version_3" / "last.ckpt"
        deadline = time.monotonic() + 60
        while not last.exists():
            assert one.process.is_alive() and time.monotonic() < deadline, one.output
            time.sleep(0.05)
        code, _, output = Life(["train", config, "--ckpt_path", last], tmp_path, name="other").end()
        assert code == 2 and one.process.is_alive()
        assert "version_3 belongs to a training that is still running" in output.splitlines()[-1]
    finally:
        one.process.kill()
        one.process.join()
    # a training that was killed holds nothing; the bound of epochs may be behind it
    code, _, output = Life(["train", config, "--ckpt_path", last, "--trainer.max_epochs", "1"], tmp_path).end()
    assert code in (0, 2) and "belongs to a training" not in output
