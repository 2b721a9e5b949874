"""`events.jsonl` in the run folder: what happened to a run, one JSON object a line, for programs to read.

    time        when, in UTC, such as 2026-01-31T12:00:00.000+00:00
    kind        what: started, resumed, stopped, finished, skipped_step, warning, save_failed, damaged, rank_lost, …
    step        optimiser steps that were done
    epoch       epochs that were completed
The other keys are facts of that kind. A resumed run adds to the file.
"""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import lightning as L

NAME = "events.jsonl"


def note(trainer: L.Trainer, kind: str, **facts: Any) -> None:
    """Adds a line to `events.jsonl` in the run folder, on rank 0; other ranks write nothing.

    It never raises an error: where the line can't be written, such as on a full disk, only that line is lost. A run
    without a folder (`fast_dev_run`, `barebones`, or no training) has no such file.

    Args:
        kind: what happened, such as `resumed`.
        facts: more about it: plain values, or what `str` turns into words.
    """
    # an event is told on the way out of errors, too, and must not hide them
    with contextlib.suppress(Exception):
        folder = getattr(trainer, "entered", None)
        if folder is None or trainer.node_rank != 0 or trainer.local_rank != 0:
            return
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        place = {"step": trainer.global_step, "epoch": trainer.current_epoch}
        append(Path(folder) / NAME, {"time": time, "kind": kind, **place, **facts})


def append(path: Path, event: Mapping[str, Any]) -> None:
    """Adds an event to a file of events as a single line, in one write.

    Raises:
        OSError: the file can't be written.
    """
    line = json.dumps({key: _plain(value) for key, value in event.items()}, ensure_ascii=False, allow_nan=False)
    # never waits for a reader, should somebody have put a pipe there
    number = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        size = os.fstat(number).st_size
        # a line that a full disk or a kill has cut short must not spoil the next one
        cut = size > 0 and os.pread(number, 1, size - 1) != b"\n"
        os.write(number, ("\n" * cut + line + "\n").encode("utf-8", "backslashreplace"))
    finally:
        os.close(number)


def _plain(value: Any) -> Any:
    """A value that JSON knows: NaN and infinity become words, and so does anything that is not plain."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
