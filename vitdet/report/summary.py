"""The parts of a report that are the same for all kinds of models: its head, the curves of the training, its foot."""

from collections.abc import Iterator
from html import escape

from vitdet.pages.charts import Line, chart
from vitdet.pages.document import cards, table
from vitdet.report.run import Run

# how many scores stand at the top
CARDS = 6


def head(run: Run, sections: dict[str, str]) -> Iterator[str]:
    """The title, the scores, how they were counted, and links to the sections.

    Args:
        run: what is known of the run.
        sections: the title of each section, by its id.
    """
    yield f"<h1>{escape(run.title)}</h1><p class=dim>{escape(run.scored)}</p>"
    whole = [(name, value) for name, value in run.scores.items() if "/" not in name]
    yield cards((name, _score(value)) for name, value in whole[:CARDS])
    yield f"<p class=dim>{escape(run.protocol)}</p>" if run.protocol else ""
    for note in run.notes:
        yield f"<p class=dim>{escape(note)}</p>"
    links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title in sections.items())
    yield f'<nav aria-label="Sections">{links}</nav>'
    if len(whole) > CARDS:
        rows = ((name, None if value < 0 else value) for name, value in whole)
        yield f"<details><summary>All scores</summary>{table(['score', 'value'], rows, caption='All scores')}</details>"


def _score(value: float) -> str:
    return "none" if value < 0 else f"{value:.3f}"


def title(key: str, text: str) -> str:
    return f'<h2 id="{key}">{escape(text)}</h2>'


def training(run: Run) -> Iterator[str]:
    """The curves of loss, learning rate and scores over the steps."""
    history = run.history
    yield title("training", "Training")
    if not history:
        yield "<p class=dim>There is no metrics.csv beside the checkpoint, so no curves of the training.</p>"
        return
    yield "<div class=charts>"
    if "train/loss" in history:
        yield chart("Loss", [Line("train/loss", *history["train/loss"], hue=215)], x="step", y="loss")
    terms = [name for name in history if name.startswith("train/") and name != "train/loss"]
    terms = [name for name in terms if not name.startswith(("train/aux", "train/dn", "train/enc", "train/dense"))]
    if terms:
        lines = [Line(name, *history[name], hue=360 * k / len(terms)) for k, name in enumerate(terms)]
        yield chart("Terms of the loss, before their weights", lines, x="step", y="loss")
    if "lr" in history:
        yield chart("Learning rate", [Line("lr", *history["lr"], hue=280)], x="step", y="rate")
    whole = [name for name in history if name.startswith("val/") and name.count("/") == 1]
    main = [name for name in run.scores if "/" not in name][:3]
    shown = [f"val/{name}" for name in main if f"val/{name}" in whole] or whole[:3]
    if shown:
        lines = [Line(name, *history[name], hue=hue) for name, hue in zip(shown, (150, 215, 30))]
        yield chart("Scores on the validation images", lines, x="step", y="score", y_range=(0, 1))
    yield "</div>"


def foot(run: Run) -> Iterator[str]:
    """Speed and memory, and the command that made the run."""
    yield title("run", "The run")
    if run.figures:
        yield table(["", ""], run.figures, caption="Speed and memory of the run")
    if run.command:
        yield f"<h3>The command that made it</h3><pre>{escape(run.command)}</pre>"
