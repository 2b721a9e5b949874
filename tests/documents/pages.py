"""What the pages say that can be run: blocks, rows of tables, and words in `backquotes`."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "datasets" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


class Piece(NamedTuple):
    """A piece of a page: a `block` of code (in a `language`, or indented), a `row` of a table (its cells, below the
    first cells of the table), or a `word` in backquotes."""

    page: str
    line: int
    kind: str
    text: str
    cells: tuple[str, ...] = ()
    table: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pieces(path: Path) -> Iterator[Piece]:
    """All pieces of a page, in order."""
    page = path.relative_to(ROOT).as_posix()
    lines = path.read_text(encoding="utf-8").splitlines()
    prose: list[tuple[int, str]] = []
    at, table = 0, None
    while at < len(lines):
        line, start = lines[at], at + 1
        at += 1
        if line.startswith("```"):
            end = next(i for i in range(at, len(lines)) if lines[i].startswith("```"))
            yield Piece(page, start, line.removeprefix("```").strip(), "\n".join(lines[at:end]))
            at = end + 1
        elif line.startswith("    ") and (start == 1 or not lines[start - 2].strip()):
            while at < len(lines) and lines[at].startswith("    "):
                at += 1
            yield Piece(page, start, "indented", "\n".join(text[4:] for text in lines[start - 1 : at]))
        else:
            prose.append((start, line))
            if line.startswith("|"):
                cells = tuple(cell.strip() for cell in line.strip("|").split("|"))
                if table is None:
                    table = cells
                elif set(line) - set("|-: "):
                    yield Piece(page, start, "row", line, cells, table)
            else:
                table = None
    yield from _words(page, prose)


def _words(page: str, prose: list[tuple[int, str]]) -> Iterator[Piece]:
    text = "\n".join(line for _, line in prose)
    for found in re.finditer(r"`([^`]+)`", text):
        yield Piece(page, prose[text.count("\n", 0, found.start())][0], "word", " ".join(found[1].split()))


ALL = [piece for path in PAGES for piece in pieces(path)]


def of_kind(*kinds: str) -> list[Piece]:
    return [piece for piece in ALL if piece.kind in kinds]


def spans(text: str) -> list[str]:
    """The words in backquotes."""
    return re.findall(r"`([^`]+)`", text)
