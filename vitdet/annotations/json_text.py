"""Reading JSON files, passing over long lists without keeping their items, and checking values."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitdet.errors import UserError

Visitor = Callable[[int, int, Any], None]

_decode = json.JSONDecoder().raw_decode
_space = json.decoder.WHITESPACE
UTF8_MARK, UTF16_MARKS = "\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


class WrongStructure(ValueError):
    """A text is valid JSON, but its content does not have the expected structure."""


def check_json(path: Path, what: str) -> None:
    """Check that a path is a file that may hold JSON.

    Args:
        path: the file.
        what: the kind of file, for error messages.

    Raises:
        FileNotFoundError: the file does not exist.
        UserError: the path is a folder, or the file is compressed or in UTF-16.
    """
    if path.is_dir():
        raise UserError(f"{what} {path} is a folder; wanted a JSON file")
    if not path.is_file():
        raise FileNotFoundError(f"{what} {path} does not exist")
    with open(path, "rb") as file:
        start = file.read(2)
    if start in (b"\x1f\x8b", b"PK"):
        raise UserError(f"{what} {path} is compressed; unpack it first")
    if start in UTF16_MARKS:
        raise UserError(f"{what} {path} is in UTF-16; save it as UTF-8")


def read_json(path: str | Path, what: str) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        what: the kind of file, for error messages.

    Raises:
        FileNotFoundError: the file does not exist.
        UserError: the file is not valid JSON.
    """
    path = Path(path)
    check_json(path, what)
    try:
        return json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{what} {path} is nested too deeply to be one") from error


def _skip(text: str, i: int) -> int:
    return _space.match(text, i).end()


def scan(text: str, visitors: dict[str, Visitor]) -> list[str]:
    """Pass the items of some top-level lists of a JSON object to visitors, without keeping them.

    Args:
        text: the JSON text.
        visitors: for the key of each list, a function of the start, the end and the value of an item.

    Returns:
        The keys of the JSON object.

    Raises:
        WrongStructure: the text is no JSON object, or the value of such a key is no list.
        json.JSONDecodeError: the text is not valid JSON.
    """
    i = _skip(text, 3 if text.startswith(UTF8_MARK) else 0)
    if text[i : i + 1] != "{":
        # decoding raises an error with the position if the text is not valid JSON
        got = type(_decode(text, i)[0]).__name__
        raise WrongStructure(f'wanted an object with "images" and "categories", got a {got}; is this a results file?')
    keys, i = [], _skip(text, i + 1)
    while text[i : i + 1] != "}":
        if text[i : i + 1] != '"':
            raise json.JSONDecodeError("wanted a name in quotes", text, i)
        key, i = _decode(text, i)
        if key in keys and key in visitors:
            raise WrongStructure(f'"{key}" occurs twice')
        keys.append(key)
        i = _skip(text, i)
        if text[i : i + 1] != ":":
            raise json.JSONDecodeError("wanted ':'", text, i)
        i = _skip(text, i + 1)
        i = _each(text, i, key, visitors[key]) if key in visitors else _decode(text, i)[1]
        i = _separator(text, i, "}")
    end = _skip(text, i + 1)
    if end < len(text):
        raise json.JSONDecodeError("wanted nothing more", text, end)
    return keys


def _each(text: str, i: int, name: str, visit: Visitor) -> int:
    """Visit the items of the list that starts at position `i`, and return the position after it."""
    if text[i : i + 1] != "[":
        raise WrongStructure(f'"{name}" is a {type(_decode(text, i)[0]).__name__}; wanted a list')
    i = _skip(text, i + 1)
    while text[i : i + 1] != "]":
        item, end = _decode(text, i)
        visit(i, end, item)
        i = _separator(text, end, "]")
    return i + 1


def _separator(text: str, i: int, closing: str) -> int:
    """The position after a comma, if an item follows it, or the position of the closing bracket."""
    i = _skip(text, i)
    if text[i : i + 1] == ",":
        i = _skip(text, i + 1)
        if text[i : i + 1] == closing:
            raise json.JSONDecodeError(f"wanted no comma before '{closing}'", text, i)
        return i
    if text[i : i + 1] != closing:
        raise json.JSONDecodeError(f"wanted ',' or '{closing}'", text, i)
    return i


def integer(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) >= 2**63:
        return None
    return int(value) if int(value) == value else None


def is_finite(value: Any) -> bool:
    """Whether a JSON value is a number below 1e300 in magnitude, which leaves out NaN and infinity."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def is_box(value: Any) -> bool:
    """Whether a JSON value is a box, which is a list of four finite numbers."""
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(map(is_finite, value))
