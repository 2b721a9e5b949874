"""Charts of lines as SVG, in colours that can be read on light and dark pages."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 440, 235
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 8, 38
# a line has at most so many points
POINTS = 160


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: what it shows, in the key and where a pointer rests on it.
        x, y: `(N,)`, its points; those that are not finite are left out.
        hue: its colour, from 0 to 360 degrees; by default that of the text.
        style: `strong`, `faint`, or nothing.
        keyed: whether it is named in the key.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    hue: float | None = None
    style: str = ""
    keyed: bool = True


def hue_of(label: int) -> float:
    """The hue of a class in degrees, the same as in pictures.

    Example:
        >>> round(hue_of(0), 1)
        7.2
    """
    return 360 * ((0.02 + label * 0.61803398875) % 1)


def colour(hue: float | None) -> str:
    return "var(--ink)" if hue is None else f"hsl({hue:.0f} 75% var(--tone))"


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    x: str,
    y: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    note: str = "",
) -> str:
    """A chart of lines with a title, a key, and named axes.

    Args:
        title: what it shows.
        lines: the lines, the last on top.
        x, y: the names of the axes.
        x_range, y_range: the ends of the axes; by default those of the lines.
        note: what is said at its foot.
    """
    lines = [_finite(line) for line in lines]
    across = x_range or _span([line.x for line in lines])
    upwards = y_range or _span([line.y for line in lines])
    drawn = "".join(_polyline(line, across, upwards) for line in lines if len(line.x))
    text = f"{title}: {y} against {x}; " + ", ".join(line.name for line in lines if line.keyed)
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(text, quote=True)}">'
    svg += _axes(across, upwards, x, y) + drawn + "</svg>"
    key = "".join(
        f'<span><i style="background:{colour(line.hue)}"></i>{escape(line.name)}</span>' for line in lines if line.keyed
    )
    foot = f"<small>{escape(note)}</small>" if note else ""
    return f"<div class=chart><h3>{escape(title)}</h3>{svg}<div class=key>{key}</div>{foot}</div>"


def _finite(line: Line) -> Line:
    x, y = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    if len(x) > POINTS:
        kept = np.unique(np.linspace(0, len(x) - 1, POINTS).round().astype(int))
        x, y = x[kept], y[kept]
    return Line(line.name, x, y, line.hue, line.style, line.keyed)


def _span(parts: Sequence[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate([*parts, np.zeros(0)])
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _polyline(line: Line, across: tuple[float, float], upwards: tuple[float, float]) -> str:
    x, y = _place_x(line.x, across), _place_y(line.y, upwards)
    if len(x) == 1:
        at = f'cx="{x[0]:.1f}" cy="{y[0]:.1f}"'
        return f'<circle r="3.5" {at} fill="{colour(line.hue)}"><title>{escape(line.name)}</title></circle>'
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y))
    kind = f" class={line.style}" if line.style else ""
    return (
        f'<polyline{kind} stroke="{colour(line.hue)}" points="{points}"><title>{escape(line.name)}</title></polyline>'
    )


def _place_x(x: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    return LEFT + (np.clip(x, *span) - span[0]) / (span[1] - span[0]) * (WIDTH - LEFT - RIGHT)


def _place_y(y: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    return HEIGHT - BOTTOM - (np.clip(y, *span) - span[0]) / (span[1] - span[0]) * (HEIGHT - TOP - BOTTOM)


def _axes(across: tuple[float, float], upwards: tuple[float, float], x: str, y: str) -> str:
    parts = []
    for value in ticks(*upwards):
        at = float(_place_y(np.array(value), upwards))
        parts.append(f'<line class=grid x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    for value in ticks(*across):
        at = float(_place_x(np.array(value), across))
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{_short(value)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle" class=ink>{escape(x)}</text>')
    parts.append(f'<text x="10" y="{(TOP + HEIGHT - BOTTOM) / 2}" class=ink text-anchor="middle" ')
    parts.append(f'transform="rotate(-90 10 {(TOP + HEIGHT - BOTTOM) / 2})">{escape(y)}</text>')
    return "".join(parts)


def _short(value: float) -> str:
    if abs(value) >= 10000:
        return f"{value / 1000:g}k"
    return f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e") if 0 < abs(value) < 0.01 else f"{value:.4g}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers between two.

    Example:
        >>> ticks(0, 1)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]
