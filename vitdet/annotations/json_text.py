"""Reading JSON files, passing over long lists without keeping their items, and checking values."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

from vitdet.errors import DataError, short

Visitor = Callable[[int, int, Any], None]

_decode = json.JSONDecoder().raw_decode
# the standard library's own pattern, which the checker's description of it leaves out
_space = json.decoder.WHITESPACE  # pyright: ignore[reportAttributeAccessIssue]
NUMBERS, FLAGS = (int, float), (int, bool, float)
UTF8_MARK = "\xef\xbb\xbf"
PACKED = (b"\x1f\x8b", b"PK", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd")
POINTER = b"version https://git-lfs"


class WrongStructure(ValueError):
    """A text is valid JSON, but its content does not have the expected structure."""


def check_json(path: Path, what: str, *, name: object = None) -> None:
    """Check that a path is a file that may hold JSON.

    Args:
        path: the file.
        what: the kind of file, for error messages.
        name: what the file is called there; by default its path.

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: the path is a folder, or the file is compressed, or in another encoding than UTF-8.
    """
    name = path if name is None else name
    if path.is_dir():
        raise DataError(f"{what} {name} is a folder; wanted a JSON file")
    if not path.is_file():
        # opening a pipe would wait for a writer
        if path.exists():
            raise DataError(f"{what} {name} is a pipe, a socket or a device; wanted a JSON file")
        raise FileNotFoundError(f"{what} {name} does not exist")
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith(PACKED):
        raise DataError(f"{what} {name} is compressed; unpack it first")
    if start.startswith(POINTER):
        raise DataError(f"{what} {name} is a pointer of Git LFS; fetch the file itself with `git lfs pull`")
    if start and not start.strip(b"\0"):
        raise DataError(f"{what} {name} is damaged: it begins with zero bytes; copy or download it again")
    encoding = json.detect_encoding(start[:4])
    if not encoding.startswith("utf-8"):
        raise DataError(f"{what} {name} is in {encoding[:6].upper()}; save it as UTF-8")


def read_json(path: str | Path, what: str) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        what: the kind of file, for error messages.

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: the file is not valid JSON.
    """
    path = Path(path)
    check_json(path, what)
    return decode(path.read_bytes(), f"{what} {path}")


def decode(text: bytes, source: str) -> Any:
    """The value of a JSON text in UTF-8.

    Args:
        text: the text, with or without a byte order mark.
        source: the name of the text in error messages.

    Raises:
        DataError: the text is not valid JSON.

    Example:
        >>> decode(b"[1, true]", "the example")
        [1, True]
    """
    try:
        return json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not valid JSON: {not_utf8(error)}") from error
    except json.JSONDecodeError as error:
        fault = f"{error.msg} at line {error.lineno}, column {error.colno}" if text.strip() else "it is empty"
        raise DataError(f"{source} is not valid JSON: {fault}") from error
    except RecursionError as error:
        raise DataError(f"{source} is nested too deeply to be one") from error
    except ValueError as error:
        # Python reads no number of more than 4,300 digits
        raise DataError(f"{source} can't be read: a number in it has thousands of digits") from error


def not_utf8(error: UnicodeDecodeError) -> str:
    """What is wrong with bytes that are not in UTF-8, and what to do."""
    around = bytes(error.object[max(0, error.start - 20) : error.start + 20]).decode("latin-1")
    return f"it is not in UTF-8 (in Latin-1, it would have {short(around)}); save it as UTF-8"


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
    keys, i = {}, _skip(text, i + 1)
    while text[i : i + 1] != "}":
        if text[i : i + 1] != '"':
            raise json.JSONDecodeError("wanted a name in quotes", text, i)
        key, i = _decode(text, i)
        if key in keys and key in visitors:
            raise WrongStructure(f'"{key}" occurs twice')
        keys[key] = None
        i = _skip(text, i)
        if text[i : i + 1] != ":":
            raise json.JSONDecodeError("wanted ':'", text, i)
        i = _skip(text, i + 1)
        i = _each(text, i, key, visitors[key]) if key in visitors else _decode(text, i)[1]
        i = _separator(text, i, "}")
    end = _skip(text, i + 1)
    if end < len(text):
        raise json.JSONDecodeError("wanted nothing more", text, end)
    return list(keys)


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
    """A whole number of JSON, which may be written as `7` or `7.0`, below 2^63 in magnitude; `None` for all else.

    Example:
        >>> integer(7.0), integer("7"), integer(True)
        (7, None, None)
    """
    # an exact type, because `bool` is an `int`
    if type(value) is int:
        return value if -(2**63) < value < 2**63 else None
    if type(value) is float and -(2**63) < value < 2**63 and value.is_integer():
        return int(value)
    return None


def flag(value: Any) -> bool | None:
    """A flag of JSON: 0, 1, true or false; `None` for all else. A missing value or null is false.

    Example:
        >>> flag(1), flag(None), flag("0")
        (True, False, None)
    """
    if value is None:
        return False
    return bool(value) if type(value) in FLAGS and value in (0, 1) else None


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a number below 1e300 in magnitude, which leaves out NaN and infinity."""
    # NaN is not between any numbers
    return type(value) in NUMBERS and -1e300 < value < 1e300


def is_box(value: Any) -> TypeGuard[list[float]]:
    """Whether a JSON value is a box, which is a list of four finite numbers."""
    return type(value) is list and len(value) == 4 and all(map(is_finite, value))
