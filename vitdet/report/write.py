"""Writing a report: the right sections for what was found, in one page."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Protocol

from vitdet.pages.document import document
from vitdet.report.run import Run
from vitdet.report.summary import foot, head, training


class Sections(Protocol):
    """What a kind of model adds to a report.

    Attributes:
        sections: the title of each section, by its id.
    """

    sections: ClassVar[dict[str, str]]

    def body(self) -> Iterator[str]:
        """All sections, as HTML."""
        ...


def write_report(path: str | Path, run: Run, found: Sections) -> None:
    """Writes a report as a single page.

    Args:
        path: the file, whose folder is made.
        run: what is known of the run.
        found: the sections on what the model found.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(page(run, found), encoding="utf-8")


def page(run: Run, found: Sections) -> str:
    """The page of a report, as HTML."""
    # before the head, because it adds to the notes of the run
    body = list(found.body())
    sections = {"training": "Training", **found.sections, "run": "The run"}
    return document(run.title, [*head(run, sections), *training(run), *body, *foot(run)], script=True)
