"""The parts of a page: its frame, tables, bars and pictures."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image

from vitdet.pages.style import SCRIPT, STYLE

Cell = str | float | None


def document(title: str, body: Iterable[str], *, script: bool = False) -> str:
    """A page of HTML that is whole by itself.

    Args:
        title: the title, as plain text.
        body: the content, as HTML.
        script: whether tables can be sorted, and pictures enlarged.
    """
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape(title)}</title><style>{STYLE}</style>"
    end = f"<script>{SCRIPT}</script>" if script else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body><main>{"".join(body)}</main>{end}</body></html>\n'
    )


def data_uri(picture: Image.Image, *, quality: int = 72) -> str:
    """A picture as the content of an `<img src>`.

    Example:
        >>> data_uri(Image.new("RGB", (8, 8)))[:22]
        'data:image/jpeg;base64'
    """
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def bars(rows: Iterable[tuple[str, float, str]]) -> str:
    """Horizontal bars: a name, a length, and the text at the end of each, which is HTML."""
    rows = list(rows)
    most = max((value for _, value, _ in rows), default=0) or 1
    parts = []
    for name, value, text in rows:
        width = max(0.0, 100 * value / most)
        parts.append(f'<span>{escape(name)}</span><i><b style="width:{width:.1f}%"></b></i><span>{text}</span>')
    return f"<div class=bars>{''.join(parts)}</div>"


def table(heads: Sequence[str], rows: Iterable[Sequence[Cell]], *, caption: str, digits: int = 3) -> str:
    """A table that is sorted by a click on the head of a column; numbers are rounded, and `None` is a dash.

    Args:
        heads: the heads of the columns, as plain text.
        rows: the cells of each row.
        caption: what the table shows, for readers who can't see it.
        digits: how many decimals of fractional numbers are shown.
    """
    head = "".join(f"<th scope=col><button>{escape(text)}</button></th>" for text in heads)
    body = "".join(f"<tr>{''.join(_cell(value, digits) for value in row)}</tr>" for row in rows)
    label = escape(caption, quote=True)
    parts = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class=scroll><table aria-label="{label}">{parts}</table></div>'


def _cell(value: Cell, digits: int) -> str:
    if value is None:
        return '<td data-value="-1">–</td>'
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    text = f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"
    return f'<td data-value="{value:.6g}">{text}</td>'


def heat(names: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[float]], *, caption: str) -> str:
    """A table of counts whose cells are the darker, the larger their share of their row.

    Args:
        names, columns: what rows and columns stand for.
        counts: a row of counts for each name.
        caption: what the table shows, for readers who can't see it.
    """
    # a long name is cut in the picture, and whole where a pointer rests on it
    names_up = (f'<span title="{escape(name)}">{escape(name)}</span>' for name in columns)
    head = "".join(f"<th scope=col class=up>{name}</th>" for name in names_up)
    rows = []
    for name, row in zip(names, counts):
        total = sum(row) or 1
        cells = "".join(
            f'<td class=heat style="background:color-mix(in srgb, var(--bar) {100 * value / total:.0f}%, transparent)" '
            f'title="{value / total:.1%}">{_count(value)}</td>'
            for value in row
        )
        rows.append(f"<tr><th scope=row>{escape(name)}</th>{cells}</tr>")
    label = escape(caption, quote=True)
    return f'<div class=scroll><table aria-label="{label}"><tr><td></td>{head}</tr>{"".join(rows)}</table></div>'


def _count(value: float) -> str:
    return "" if not value else f"{value:,}" if isinstance(value, int) else f"{value:.1%}"


def cards(values: Iterable[tuple[str, str]]) -> str:
    """Large numbers with their names."""
    parts = (f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in values)
    return f"<div class=cards>{''.join(parts)}</div>"


def image(source: str, text: str) -> str:
    """A picture that can be enlarged; the text says what it shows to readers who can't see it."""
    return f'<img src="{source}" alt="{escape(text, quote=True)}" tabindex=0>'


def pair(sides: Iterable[tuple[str, str, str]], caption: str) -> str:
    """Pictures side by side, each with its source, a heading, and a text in place of it, and a line below them."""
    parts = (f"<div><small>{escape(head)}</small>{image(source, text)}</div>" for source, head, text in sides)
    return f"<figure class=pair><div>{''.join(parts)}</div><figcaption>{escape(caption)}</figcaption></figure>"
