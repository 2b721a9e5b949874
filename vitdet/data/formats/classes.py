"""Lists of classes that lie beside label maps: names, with the pixel value or the colour of each."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitdet.data.formats.tree import Tree, join
from vitdet.data.semantic import MOST_VALUES
from vitdet.errors import DataError

# names of such files, the most telling first
FILES = (
    "_classes.csv",
    "class_dict.csv",
    "classes.csv",
    "class_dict_seg.csv",
    "labelmap.txt",
    "label_colors.txt",
    "labels.txt",
    "classes.txt",
    "class_names.txt",
    "codes.txt",
    "classes.names",
    "classes.json",
    "labels.json",
    "class_names.json",
    "id2label.json",
)
MAX_BYTES = 1 << 20
Colour = tuple[int, int, int]
# the name of a class, and its pixel value or its colour
Row = tuple[str, int | None, Colour | None]


@dataclass(frozen=True)
class ClassList:
    """The classes of label maps.

    Args:
        path: the file that lists them, or what else does.
        names: the class names.
        values: the pixel value of each; `None` where the file has none.
        colours: the colour of each; `None` where the file has none.
    """

    path: Path | str
    names: list[str]
    values: list[int] | None = None
    colours: list[Colour] | None = None


def class_list(tree: Tree, folders: list[str]) -> ClassList | None:
    """The first list of classes in some folders, the root last.

    Raises:
        DataError: a file of that name is no such list.
    """
    for name in FILES:
        for folder in dict.fromkeys([*folders, ""]):
            path = join(folder, name)
            if path in tree.files and (found := _read(tree.path(path))) is not None:
                return found
    return None


def _read(path: Path) -> ClassList | None:
    if path.stat().st_size > MAX_BYTES:
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8; wanted a list of classes") from error
    rows: list[Row] | None
    if path.suffix == ".json":
        rows = _of_json(path, text)
    elif path.suffix == ".csv":
        rows = _of_csv(path, text)
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        rows = [_of_line(line) for line in lines]
        if len({(value is None, colour is None) for _, value, colour in rows}) > 1:
            # `2 wheeler` among other names is a name
            rows = [(line, None, None) for line in lines]
    return None if rows is None else _checked(path, rows)


def _checked(path: Path, rows: list[Row]) -> ClassList:
    names = [name for name, _, _ in rows]
    values = [value for _, value, _ in rows if value is not None]
    colours = [colour for _, _, colour in rows if colour is not None]
    if not names:
        raise DataError(f"{path} lists no class; wanted a name on each line")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path} lists the class {twice[0]!r} twice; each needs its own name")
    columns: list[tuple[str, Sequence[Any], str]] = [
        ("pixel value", values, f"0..{MOST_VALUES - 1}"),
        ("colour", colours, "three numbers in 0..255"),
    ]
    for what, given, wanted in columns:
        again = [value for value in given if given.count(value) > 1]
        wrong = [value for value in given if not _is_value(value)]
        if again or wrong:
            raise DataError(f"{path} has the {what} {(wrong or again)[0]} {'' if wrong else 'twice'}; wanted {wanted}")
    # a column with gaps says nothing
    count = len(names)
    return ClassList(path, names, values if len(values) == count else None, colours if len(colours) == count else None)


def _is_value(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(0 <= number < 256 for number in value)
    return 0 <= value < MOST_VALUES


def _of_line(line: str) -> Row:
    """A name, with a value before it or a colour on either side, as tools write them.

    Example:
        >>> _of_line("64 128 64 Animal"), _of_line("car:128,0,0::"), _of_line("3: car"), _of_line("traffic light")
        (('Animal', None, (64, 128, 64)), ('car', None, (128, 0, 0)), ('car', 3, None), ('traffic light', None, None))
    """
    text = line.strip()
    number, gap = r"(\d{1,3})", r"[\s,;]+"
    colour = rf"{number}{gap}{number}{gap}{number}"
    if match := re.fullmatch(rf"{colour}[\s,;:]+(\S.*)", text):
        return match[4].strip(), None, (int(match[1]), int(match[2]), int(match[3]))
    if match := re.fullmatch(rf"(\S.*?)[\s,;:]+{colour}[:\s]*.*", text):
        return match[1].strip(), None, (int(match[2]), int(match[3]), int(match[4]))
    if match := re.fullmatch(r"(\d{1,5})\s*[:,;\t ]\s*(\D.*)", text):
        return match[2].strip(), int(match[1]), None
    return text.strip("'\"") or text, None, None


def _of_csv(path: Path, text: str) -> list[Row] | None:
    rows = [
        [cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if any(cell.strip() for cell in row)
    ]
    head = [cell.lower() for cell in rows[0]] if rows else []
    colour = [next((i for i, cell in enumerate(head) if cell in (c[0], c)), None) for c in ("red", "green", "blue")]
    value = next(
        (i for i, cell in enumerate(head) if cell in ("pixel value", "value", "id", "index", "label_id")), None
    )
    name = next((i for i in range(len(head)) if i not in (*colour, value)), None)
    numbers = [i for i in (*colour, value) if i is not None]
    if name is None or not numbers or not all(head):
        return [_of_line(",".join(row)) for row in rows]
    try:
        return [(row[name], None if value is None else int(row[value]), _colour(row, *colour)) for row in rows[1:]]
    except (ValueError, IndexError) as error:
        raise DataError(f"{path} has a line that is not like its head ({', '.join(head)}): {error}") from error


def _colour(row: list[str], red: int | None, green: int | None, blue: int | None) -> Colour | None:
    """The colour in three cells of a row, unless one of them is missing."""
    if red is None or green is None or blue is None:
        return None
    return int(row[red]), int(row[green]), int(row[blue])


def _of_json(path: Path, text: str) -> list[Row] | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if isinstance(content, dict):
        if "images" in content:
            # a COCO file
            return None
        content = next(
            (content[key] for key in ("classes", "labels", "categories", "names") if key in content), content
        )
    if isinstance(content, dict):
        content = [_of_pair(key, value) for key, value in content.items()]
    if not isinstance(content, list):
        return None
    rows = [row for item in content if (row := _of_item(item)) is not None]
    return rows if len(rows) == len(content) else None


def _of_pair(key: str, value: Any) -> Any:
    """`{"0": "cat"}`, `{"cat": 0}` or `{"cat": [255, 0, 0]}` as an item of a list."""
    if isinstance(value, str) and key.isdecimal():
        return {"id": int(key), "name": value}
    return {"name": key, "color" if isinstance(value, list) else "id": value}


def _of_item(item: Any) -> Row | None:
    if isinstance(item, str):
        return item, None, None
    name = item.get("name", item.get("label")) if isinstance(item, dict) else None
    if not isinstance(name, str):
        return None
    value, colour = item.get("id", item.get("value")), item.get("color", item.get("colour"))
    whole = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(colour, list) and len(colour) == 3 and all(type(part) is int for part in colour):
        red, green, blue = colour
        return name, whole, (red, green, blue)
    return name, whole, None
