"""`events.jsonl` says what happened to a run, and never stands in its way."""

import json
import math
import os
from datetime import datetime, timezone
from pathlib import Path

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
