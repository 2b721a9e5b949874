"""Findings: what is wrong with a data set, where, how often, and what to do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitdet.data.check.codes import CODES, SEVERITIES, Severity

# how many examples a finding keeps
EXAMPLES = 8


@dataclass(frozen=True)
class Example:
    """A place where something was found.

    Args:
        text: the name of the file, the id of the annotation, and what it has.
        path: the image to show.
        boxes_xywh: the boxes to draw in it, in pixels: left, top, width and height.
        map: the label map, or PNG of segments, whose pixels of the `values` are shown instead of boxes.
        values: the numbers of these pixels.
        colours: whether the map encodes numbers as colours.
    """

    text: str
    path: Path | None = None
    boxes_xywh: tuple[tuple[float, ...], ...] = ()
    map: Path | None = None
    values: tuple[int, ...] = ()
    colours: bool = False


@dataclass
class Finding:
    """Something that was found in a split, or between splits.

    Args:
        code: a key of `CODES`.
        split: the split, such as `train`, or two of them, such as `train, val`.
        count: how many images, annotations, classes or files have it.
        examples: some of the places.
        detail: what the numbers are, where the meaning of the code does not say it all.
        severity: that of the code, if not given.
        of: the number of all things of this kind, if it says something.
    """

    code: str
    split: str
    count: int
    examples: list[Example] = field(default_factory=list)
    detail: str = ""
    # filled in below, so that it is never `None`
    severity: Severity = None  # pyright: ignore[reportAssignmentType]
    of: int | None = None

    def __post_init__(self) -> None:
        self.severity = self.severity or CODES[self.code].severity

    @property
    def text(self) -> str:
        """What was found, in one line."""
        count = f"{self.count:,}" + (f" of {self.of:,}" if self.of else "")
        return f"{CODES[self.code].says}: {count}{f' ({self.detail})' if self.detail else ''}"

    @property
    def fix(self) -> str:
        return CODES[self.code].fix

    def as_dict(self) -> dict[str, Any]:
        """The finding as it is written with `--json`."""
        examples = [
            {"text": e.text, "file": str(e.path) if e.path else None, "boxes": [list(box) for box in e.boxes_xywh]}
            for e in self.examples
        ]
        head = {"code": self.code, "severity": self.severity, "split": self.split, "count": self.count, "of": self.of}
        return head | {"text": self.text, "fix": self.fix, "examples": examples}


class Findings(list[Finding]):
    """A list of findings, to which only what was found is added."""

    def note(self, code: str, split: str, examples: Iterable[Example], **more: Any) -> None:
        """Adds a finding with an example for each place; nothing if there is no place."""
        places = list(examples)
        if places:
            self.append(Finding(code, split, more.pop("count", len(places)), spread(places), **more))

    def ordered(self) -> list[Finding]:
        """The worst first, then the most frequent."""
        return sorted(self, key=lambda found: (SEVERITIES.index(found.severity), -found.count, found.code))


def spread(places: Sequence[Example], count: int = EXAMPLES) -> list[Example]:
    """Some of the places, from different images if there are several."""
    first: dict[Any, Example] = {}
    for place in places:
        first.setdefault(place.path or place.text, place)
    chosen = list(first.values())[:count]
    rest = (place for place in places if all(place is not other for other in chosen))
    while len(chosen) < count and (place := next(rest, None)) is not None:
        chosen.append(place)
    return chosen
