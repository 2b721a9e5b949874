"""Writes the page of an explanation, and its pictures."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from PIL import Image

from vitdet.errors import UserError
from vitdet.explain.arrays import AttentionMap, Explanation, Subject
from vitdet.explain.pictures import Canvas
from vitdet.pages.document import data_uri, document, image

# a picture, what it shows, and the name of its file
Drawn = tuple[Image.Image, str, str]

HELP = (
    "Attention says what a model mixed into what it computes, not what it decided by. Of each map, the most attended "
    "token is the brightest, even where all are attended to nearly alike: compare it with the mean below. The cross is "
    "the place that is asked about, the blue box what was found. Sampling points are the larger, the more they weigh, "
    "and each level of features has its colour."
)


def write_page(
    explanation: Explanation, path: str | Path, *, title: str = "What the model looked at", head: int | None = None
) -> list[Path]:
    """Writes a page with what a model looked at.

    Args:
        explanation: what is shown.
        path: a file `….html`, which is whole by itself; or a folder, which then has `explain.html` and each picture as
            a PNG file, too.
        title: the heading of the page.
        head: the head of the attention whose weights are shown; by default the mean of all.

    Returns:
        The files that were written, the page first.

    Raises:
        UserError: there is no such head.
    """
    path, canvas = Path(path), Canvas(explanation)
    _check_head(explanation, head)
    pictures = None if path.suffix.lower() in (".html", ".htm") else path
    page = path if pictures is None else path / "explain.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    body, files = [_head(explanation, title, head)], [page]
    for i, subject in enumerate(explanation.subjects):
        body.append(f"<h2>{escape(subject.title)}</h2>")
        for heading, drawn in _parts(canvas, subject, head):
            body.append(f"{heading}<div class=crops>{''.join(map(_figure, drawn))}</div>")
            for picture, _, name in drawn if pictures is not None else ():
                files.append(page.parent / f"{i}-{name}.png")
                picture.save(files[-1])
    page.write_text(document(title, body, script=True), encoding="utf-8")
    return files


def _check_head(explanation: Explanation, head: int | None) -> None:
    maps = [one for subject in explanation.subjects for one in (*subject.blocks, *subject.query_maps)]
    counts = [len(one.weights) for one in maps]
    counts += [len(subject.points.xy) for subject in explanation.subjects if subject.points is not None]
    if head is not None and counts and not 0 <= head < min(counts):
        raise UserError(f"there is no head {head} of all the attention that is shown: it has 0 to {min(counts) - 1}")


def _head(explanation: Explanation, title: str, head: int | None) -> str:
    found = explanation.prediction.describe()
    heads = "the mean of all heads" if head is None else f"head {head}"
    notes = "".join(f"<section class=note><p>{escape(note)}</p></section>" for note in explanation.notes)
    return f"<h1>{escape(title)}</h1><p>Found: {escape(found)}. Shown is {heads}.</p><p class=dim>{HELP}</p>{notes}"


def _figure(drawn: Drawn) -> str:
    picture, text, _ = drawn
    source = image(data_uri(picture, quality=80), text)
    return f"<figure class=crop>{source}<figcaption>{escape(text)}</figcaption></figure>"


def _parts(canvas: Canvas, subject: Subject, head: int | None) -> Iterator[tuple[str, list[Drawn]]]:
    """The headings, as HTML, and the pictures below each."""
    whole = (canvas.subject(subject), subject.title, "place")
    yield "", [whole, *_points(canvas, subject, head), *_maps(canvas, subject, subject.query_maps, head, "query")]
    if subject.blocks:
        yield "<h3>What the patch at the cross attends to</h3>", _maps(canvas, subject, subject.blocks, head, "patch")


def _points(canvas: Canvas, subject: Subject, head: int | None) -> Iterator[Drawn]:
    points = subject.points
    if points is None:
        return
    text = f"what query {subject.query} samples in the last layer; orange: the box that it starts from"
    yield canvas.points(subject, points, head=head), text, "points"
    for level, stride in enumerate(points.strides):
        weights = points.weights if head is None else points.weights[head : head + 1]
        share = float(weights[:, points.levels == level].sum() / len(weights))
        picture = canvas.points(subject, points, level=level, head=head)
        yield picture, f"… in the level of stride {stride:g}: {share:.0%} of the weight", f"points-level{level}"


def _maps(canvas: Canvas, subject: Subject, maps: list[AttentionMap], head: int | None, kind: str) -> list[Drawn]:
    drawn = []
    for i, one in enumerate(maps):
        weights, rest = (one.weights, one.rest) if head is None else (one.weights[[head]], one.rest[[head]])
        mean = weights.mean(0)
        text = f"query {subject.query}, {one.name}" if kind == "query" else one.name
        text += f": {mean.max() / max(mean.mean(), 1e-12):.1f} times the mean, at most"
        text += f"; {rest.mean():.0%} is on tokens that are no patches" if rest.mean() >= 0.005 else ""
        drawn.append((canvas.attention(subject, one, head=head), text, f"{kind}-{i}"))
    return drawn
