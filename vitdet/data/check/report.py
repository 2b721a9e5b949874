"""What a check found, as one object."""

from dataclasses import dataclass, field
from typing import Any

from vitdet.data.check.codes import SEVERITIES
from vitdet.data.check.finding import Finding

# the version of what `--json` prints; raised when a key changes its meaning or goes
SCHEMA = 1


@dataclass
class Report:
    """What a check found.

    Args:
        source: the folder or config, as it was given.
        kind: the kind of the labels.
        findings: the worst first.
        statistics: numbers about each split.
        lines: what was recognised.
        seconds: how long the check took.
        decoded: whether the pixels of all images were read.
    """

    source: str
    kind: str
    findings: list[Finding]
    statistics: dict[str, dict[str, Any]]
    lines: list[str] = field(default_factory=list)
    seconds: float = 0.0
    decoded: bool = False

    def count(self, severity: str) -> int:
        """How many findings are of this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def verdict(self) -> str:
        """How many errors, warnings and notes there are, in words."""
        words = [f"{n} {s}{'s' if n != 1 else ''}" for s in SEVERITIES if (n := self.count(s))]
        return ", ".join(words) or "nothing found"

    def as_dict(self) -> dict[str, Any]:
        """The report as `--json` prints it."""
        return {
            "schema": SCHEMA,
            "source": self.source,
            "kind": self.kind,
            "decoded": self.decoded,
            "seconds": round(self.seconds, 2),
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "recognised": self.lines,
            "findings": [finding.as_dict() for finding in self.findings],
            "statistics": self.statistics,
        }
