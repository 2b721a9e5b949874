"""A report as text for a terminal."""

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from vitdet.data.check.report import Report

STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
# how many examples of a finding, and rows of classes, are shown
SHOWN, CLASSES = 3, 12


def show(report: Report, console: Console) -> None:
    """Prints a report: what was recognised, the findings, and tables of numbers."""
    for line in report.lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if report.findings:
        console.print(_findings(report))
    if report.statistics:
        console.print(Group(_splits(report), _classes(report)))
    read = "all images decoded" if report.decoded else "headers and labels; --decode reads the pixels, too"
    console.print(
        Text(f"{report.source}: {report.verdict}", style="bold").append(
            f" ({report.seconds:.1f} s, {read})", "not bold"
        ),
        soft_wrap=True,
    )


def _findings(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in report.findings:
        title = Text(f"{finding.split}: ", style="bold").append(finding.text, style="not bold")
        title.append(f" [{finding.code}]", "dim not bold")
        table.add_row(Text(finding.severity, STYLES[finding.severity]), title)
        texts = [example.text for example in finding.examples[:SHOWN]]
        if sum(map(len, texts)) < 90 and finding.count <= SHOWN:
            texts = ["; ".join(texts)]
        for text in texts:
            table.add_row("", Text(f"  {text}", "dim"))
        if finding.count > SHOWN:
            table.add_row("", Text(f"  … and {finding.count - SHOWN:,} more", "dim"))
        table.add_row("", Text(f"  → {finding.fix.replace('`', '')}", "green"))
    return table


def _splits(report: Report) -> Table:
    rows = {
        "images": lambda s: f"{s['images']:,}",
        "width × height": lambda s: f"{_middle(s['width'])} × {_middle(s['height'])}",
        "width / height": lambda s: _range(s["aspect"]),
        "objects": lambda s: f"{s['objects']:,}" + (f", {s['crowds']:,} of them crowds" if s["crowds"] else ""),
        "objects in an image": lambda s: _range(s.get("objects_per_image", {})),
        "patches in a box": lambda s: _range(s.get("box_patches", {})),
        "width / height of a box": lambda s: _range(s.get("box_aspect", {})),
    }
    if report.kind == "semantic":
        rows = dict(list(rows.items())[:3])
    table = Table("", *report.statistics, title="median (smallest to largest)", title_justify="left")
    for name, value in rows.items():
        table.add_row(name, *(value(numbers) for numbers in report.statistics.values()))
    return table


def _middle(found: dict[str, float]) -> str:
    return f"{found['median']:g}" if found else "–"


def _range(found: dict[str, float]) -> str:
    return f"{found['median']:.3g} ({found['min']:.3g} to {found['max']:.3g})" if found else "–"


def _classes(report: Report) -> Table:
    unit = "pixels" if report.kind == "semantic" else "objects"
    first = next(iter(report.statistics.values()))
    rows = sorted(range(len(first["classes"])), key=lambda k: -first["classes"][k].get(unit, 0))
    table = Table("class", *report.statistics, title=f"{unit} in images", title_justify="left")
    for k in rows[:CLASSES]:
        cells = []
        for numbers in report.statistics.values():
            row = numbers["classes"][k] if k < len(numbers["classes"]) else None
            count = "–" if row is None else f"{row[unit]:.2%}" if unit == "pixels" else f"{row[unit]:,}"
            cells.append(count if row is None else f"{count} in {row['images']:,}")
        table.add_row(first["classes"][k]["name"], *cells)
    if len(rows) > CLASSES:
        table.add_row(f"… {len(rows) - CLASSES} more, all with --html FILE", *["" for _ in report.statistics])
    return table
