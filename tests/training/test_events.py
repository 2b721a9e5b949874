"""`events.jsonl` says what happened to a run, and never stands in its way."""

import json
import logging
import math
import os
import warnings
from datetime import datetime, timezone
from pathlib import Path

import lightning as L
import pytest
import torch

from vitdet.training.events import NAME, append, note


def events(folder) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / NAME).read_text(encoding="utf-8").splitlines()]


def test_an_event_is_a_line_of_plain_json(tiny, tmp_path):
    trainer = tiny(version=0)[2]
    note(trainer, "warning", text="before the run has a folder")
    trainer.enter(tmp_path)
    before = datetime.now(timezone.utc)
    note(trainer, "warning", text="ä\n“b”", value=math.nan, path=Path("x"), tensor=torch.ones(2), list=[1, (math.inf,)])
    note(trainer, "skipped_step", step=7, rank=3)
    first, second = events(tmp_path)
    assert datetime.fromisoformat(first.pop("time")).timestamp() >= before.timestamp() - 0.001
    assert first == {
        "kind": "warning",
        "step": 0,
        "epoch": 0,
        "text": "ä\n“b”",
        "value": "nan",
        "path": "x",
        "tensor": str(torch.ones(2)),
        "list": [1, ["inf"]],
    }
    assert (second["kind"], second["step"], second["rank"]) == ("skipped_step", 7, 3)


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path):
    path = tmp_path / NAME
    path.write_text('{"kind": "sta')
    append(path, {"kind": "resumed"})
    append(path, {"kind": "finished"})
    assert path.read_text().splitlines() == ['{"kind": "sta', '{"kind": "resumed"}', '{"kind": "finished"}']


def test_many_processes_share_a_file(tmp_path):
    path, children = tmp_path / NAME, []
    for child in range(4):
        if (number := os.fork()) == 0:
            for i in range(50):
                append(path, {"child": child, "i": i, "text": "x" * 300})
            os._exit(0)
        children.append(number)
    assert [os.waitpid(number, 0)[1] for number in children] == [0] * 4
    assert sorted((e["child"], e["i"]) for e in events(tmp_path)) == [(c, i) for c in range(4) for i in range(50)]


@pytest.mark.parametrize("obstacle", ["folder", "gone", "pipe", "value"])
def test_an_event_that_cannot_be_written_stops_nothing(obstacle, tiny, tmp_path):
    class Bad:
        def __str__(self):
            raise RuntimeError("no words")

    trainer = tiny(version=0)[2]
    folder = tmp_path / "run"
    if obstacle != "gone":
        folder.mkdir()
    trainer.enter(folder)
    if obstacle == "folder":
        (folder / NAME).mkdir()
    if obstacle == "pipe":
        os.mkfifo(folder / NAME)
    note(trainer, "warning", value=Bad() if obstacle == "value" else 1)
    assert not (folder / NAME).is_file()


class Says(L.Callback):
    """Warns in two ways, each several times, and stops the run where it is told to."""

    def __init__(self, stop=None):
        self.stop = stop

    def on_train_batch_end(self, trainer, *_):
        logging.getLogger("vitdet").warning("%d images were left out", 3)
        warnings.warn("a library is old", DeprecationWarning, stacklevel=1)
        if trainer.global_step == self.stop:
            raise KeyboardInterrupt


@pytest.mark.filterwarnings("always:a library is old")
def test_a_run_tells_its_start_its_end_and_its_warnings(tiny):
    before = warnings.showwarning, list(logging.getLogger("vitdet").handlers)
    task, data, trainer = tiny(max_epochs=1, callbacks=[Says()], num_sanity_val_steps=0)
    trainer.fit(task, data)
    folder = trainer.run_folder
    first = events(folder)
    assert [event["kind"] for event in first if event["kind"] != "warning"] == ["started", "finished"]
    assert (first[0]["step"], first[-1]["step"], first[-1]["kind"]) == (0, 3, "finished")
    assert first[0]["ranks"] == 1 and first[0]["pid"] == os.getpid()
    told = [(event["text"], event["source"]) for event in first if event["kind"] == "warning"]
    assert told.count(("3 images were left out", "vitdet")) == 1
    assert told.count(("a library is old", "DeprecationWarning")) == 1

    task, data, trainer = tiny(max_epochs=3, callbacks=[Says(stop=5)])
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer.fit(task, data, ckpt_path=folder / "last.ckpt")
    more = [event for event in events(folder)[len(first) :] if event["kind"] != "warning"]
    assert [event["kind"] for event in more] == ["resumed", "stopped"]
    assert more[0]["checkpoint"] == str(folder / "last.ckpt") and (more[0]["step"], more[1]["step"]) == (3, 5)
    assert more[1]["error"] == "KeyboardInterrupt"
    assert before == (warnings.showwarning, logging.getLogger("vitdet").handlers)
