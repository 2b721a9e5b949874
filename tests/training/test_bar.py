"""How far a run is: lines in a file, one bar on a terminal, and nothing where nothing is wanted."""

import io
import logging
import re
import sys

import pytest
from rich import get_console
from rich.live import Live

from vitdet.training.callbacks.bar import ProgressReport, duration

LINE = re.compile(
    r"^step (\d+)/(\S+)  loss \S+  (?:val/AP \S+  )?\S+ images/s  data \d+%  memory \d+\.\d GB(?:  ETA .+)?$", re.M
)


@pytest.mark.parametrize(
    ("options", "total"),
    [
        ({"max_epochs": 2}, "6"),
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, "2"),
        ({"max_steps": 5, "max_epochs": -1}, "5"),
        ({"max_steps": 500, "max_epochs": 2}, "6"),
        ({"max_epochs": -1, "max_time": {"seconds": 2}}, "~"),
    ],
)
def test_lines(tiny, options, total, capsys):
    task, data, trainer = tiny(**{"max_epochs": 2, "callbacks": [_at_every_step()], **options})
    trainer.fit(task, data)
    said = capsys.readouterr().out
    found = LINE.findall(said)
    assert found and all(of.startswith(total) for _, of in found), said
    if total != "~":
        assert [step for step, _ in found][-1] == total  # the last step is shown
        assert "ETA 0 s" in said
    assert "Epoch" not in said and "\x1b" not in said


def _at_every_step():
    report = ProgressReport()
    report._put_off = lambda: None  # always due
    return report


def test_a_line_is_due_after_a_while_and_then_every_half_minute():
    report, gaps = ProgressReport(), []
    report._begin_at(0.0)
    for spent in (0.0, 7.0, 20.0, 100.0):
        report._start -= spent
        report._put_off()
        gaps.append(report._due - report._start - spent)
        report._start += spent
    assert gaps == pytest.approx([5.0, 7.0, 20.0, 30.0], abs=0.1)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("left", [False, True], ids=["alone", "beside one that was left running"])
def test_one_bar_on_a_terminal(tiny, monkeypatch, left):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    other = Live("", console=get_console())
    task, data, trainer = tiny(max_epochs=2, callbacks=[_at_every_step()])
    if left:
        other.start()
    try:
        trainer.fit(task, data)
    finally:
        other.stop()
    text = terminal.getvalue()
    assert re.search(r"━.*step \d+/6  loss \S+ .*images/s  data \d+%  memory .*ETA", text), text[-2000:]
    assert "Epoch" not in text and text.count("last validation") == 1 and "\nstep" not in text


def test_the_python_route_is_quiet(tiny, caplog, capsys, recwarn):
    """What a run says by default: about its data, a line a validation, the scores, and what is next."""
    with caplog.at_level(logging.INFO):
        task, data, trainer = tiny(max_epochs=1, logger=True)
        trainer.fit(task, data)
        again = tiny(max_epochs=2, logger=True)[2]
        again.fit(task, data, ckpt_path="last")
    assert {record.getMessage().split(":")[0] for record in caplog.records} <= {"train"}
    assert not [str(w.message) for w in recwarn if "ightning" in w.filename]
    assert "images/s" not in capsys.readouterr().out  # progress=False


def test_duration():
    assert [duration(s) for s in (0.4, 59, 200, 3900, 90061)] == [
        "0 s",
        "59 s",
        "3 min 20 s",
        "1 h 05 min",
        "25 h 01 min",
    ]
