"""A report as a single HTML page that needs no network, and fits a telephone."""

from collections.abc import Iterator
from html import escape
from typing import Any

from vitdet.data.check.finding import Finding
from vitdet.data.check.pictures import picture
from vitdet.data.check.report import Report
from vitdet.pages.document import bars, document

# how many pictures a finding gets, and how many the page has at most
PICTURES, MOST = 4, 120


def page(report: Report, *, exif: bool = True) -> str:
    """The page of a report.

    Args:
        report: what was found.
        exif: whether images are shown upright by their EXIF tag.
    """
    parts = [*_head(report), *_findings(report, exif), *_numbers(report), *_classes(report)]
    return document(f"{report.source}: {report.verdict}", parts)


def _head(report: Report) -> Iterator[str]:
    yield f"<h1>{escape(report.source)}</h1><p class=verdict>"
    for severity in ("error", "warning", "note"):
        count = report.count(severity)
        name = severity if count == 1 else f"{severity}s"
        yield f'<span class="badge {severity if count else "none"}">{count} {name}</span> '
    read = "All images were decoded." if report.decoded else "Headers and labels were read; --decode reads the pixels."
    images = sum(numbers["images"] for numbers in report.statistics.values())
    yield f"</p><p class=dim>{images:,} images, {report.kind}. {read}</p>"
    if report.lines:
        yield f"<ul class=dim>{''.join(f'<li>{escape(line)}</li>' for line in report.lines)}</ul>"


def _findings(report: Report, exif: bool) -> Iterator[str]:
    left = MOST
    yield "<h2>Findings</h2>" if report.findings else "<h2>Nothing found</h2>"
    for finding in report.findings:
        shown = [(picture(e, exif=exif), e.text) for e in finding.examples[: min(PICTURES, left)]]
        pictures = [(source, text) for source, text in shown if source]
        left -= len(pictures)
        yield _card(finding, pictures)


def _card(finding: Finding, pictures: list[tuple[str, str]]) -> str:
    fix = "".join(
        f"<code>{escape(part)}</code>" if k % 2 else escape(part) for k, part in enumerate(finding.fix.split("`"))
    )
    figures = "".join(
        f'<figure><img src="{source}" alt=""><figcaption>{escape(text)}</figcaption></figure>'
        for source, text in pictures
    )
    seen = {text for _, text in pictures}
    rest = [example.text for example in finding.examples if example.text not in seen]
    listed = f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in rest)}</ul>" if rest else ""
    if rest and not pictures and all(len(text) < 40 for text in rest):
        listed = f"<p class=dim>{escape(', '.join(rest))}</p>"
    more = finding.count - len(finding.examples)
    listed += f"<p class=dim>… and {more:,} more</p>" if more > 0 else ""
    head = f'<span class="badge {finding.severity}">{finding.severity}</span> <b>{escape(finding.split)}</b>'
    head += f" <code>{finding.code}</code>"
    body = f"<p>{escape(finding.text)}</p><p class=fix>{fix}</p>"
    body += f"<div class=figures>{figures}</div>{listed}"
    return f"<section class={finding.severity}><header>{head}</header>{body}</section>"


ROWS = {
    "width": "width in pixels",
    "height": "height in pixels",
    "aspect": "width / height",
    "objects_per_image": "objects in an image",
    "box_patches": "patches in a box",
    "box_aspect": "width / height of a box",
}


def _numbers(report: Report) -> Iterator[str]:
    if not report.statistics:
        return
    yield "<h2>Images and objects</h2>"
    for split, numbers in report.statistics.items():
        objects = f", {numbers['objects']:,} objects" if report.kind != "semantic" else ""
        yield f"<h3>{escape(split)}: {numbers['images']:,} images{objects}</h3>"
        heads = "".join(f"<th>{name}</th>" for name in ("", "least", "10 %", "median", "90 %", "most"))
        yield f"<div class=scroll><table><tr>{heads}</tr>"
        for key, name in ROWS.items():
            if found := numbers.get(key):
                yield f"<tr><td>{name}</td>{''.join(f'<td>{value:.4g}</td>' for value in found.values())}</tr>"
        yield "</table></div>"
        if bins := numbers.get("box_patches_bins"):
            yield "<h4>Boxes by their size in patches of the model</h4>"
            yield bars([(name, count, f"{count:,}") for name, count in bins.items()])


def _classes(report: Report) -> Iterator[str]:
    if not report.statistics:
        return
    unit = "pixels" if report.kind == "semantic" else "objects"
    yield f"<h2>Classes</h2><p class=dim>{unit.capitalize()} of each class, and the images that have some.</p>"
    for split, numbers in report.statistics.items():
        rows = sorted(numbers["classes"], key=lambda row: -row[unit])
        yield f"<h3>{escape(split)}</h3>"
        yield bars([(row["name"], row[unit], _count(row, unit)) for row in rows])


def _count(row: dict[str, Any], unit: str) -> str:
    count = f"{row[unit]:.2%}" if unit == "pixels" else f"{row[unit]:,}"
    return f"{count} <small>in {row['images']:,}</small>"
