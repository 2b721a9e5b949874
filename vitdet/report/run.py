"""What a report says of the run itself: its scores, its command, and how its losses and scores went."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass
class Run:
    """What is known of a run.

    Attributes:
        title: its name.
        scored: which weights were scored on which images.
        scores: the scores by name, the main one first.
        protocol: the line that says how they were counted.
        command: the command line that made it.
        history: the values that were logged, see `read_history`.
        figures: what it took: pairs of a name and a value.
        thresholds: the lowest score of each class, by label; nothing where none were chosen.
        rule: how the thresholds were chosen.
        notes: lines that are shown below the summary.
    """

    title: str
    scored: str
    scores: Mapping[str, float]
    protocol: str = ""
    command: str = ""
    history: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    figures: Sequence[tuple[str, str]] = ()
    thresholds: Sequence[float] | None = None
    rule: str = ""
    notes: list[str] = field(default_factory=list)


def partly(some: int, total: int) -> str:
    """What is said where a report looks at some images only."""
    return f"The sections below are about {some:,} of the {total:,} images; the scores above are about all."


def read_history(folder: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What a run has logged, from its `metrics.csv` and, where it was resumed, those of before.

    Returns:
        Steps and values, `(N,)` each, for each name, in the order of the steps; empty if there is no such file.
    """
    folder = Path(folder)
    earlier = sorted(folder.glob("metrics_*.csv"), key=lambda path: (len(path.name), path.name))
    logged: dict[str, dict[int, float]] = {}
    for path in [*earlier, folder / "metrics.csv"]:
        if not path.is_file():
            continue
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, text in row.items():
                    if text and name not in (None, "step", "epoch") and row.get("step"):
                        # a run that was resumed at an earlier step has logged some steps twice: the last time counts
                        logged.setdefault(name, {})[int(row["step"])] = float(text)
    return {
        name: (np.array(sorted(values)), np.array([values[step] for step in sorted(values)]))
        for name, values in logged.items()
    }
