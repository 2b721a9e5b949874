"""Errors that the user of vitdet can correct, as opposed to faults of vitdet."""

import reprlib
from typing import Any

_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxstring, _brief.maxlong, _brief.maxother = 3, 80, 40, 80


class UserError(ValueError):
    """A wrong argument, key, file or combination of these; the message names the value, what was wanted, and a remedy.

    The command line prints only the message, and exits with status 2. All other exceptions count as faults of vitdet,
    and are shown with their traceback.
    """


class DataError(UserError):
    """An annotation file, an annotation, a label map or an image that can't be used as it is.

    The message names the file and, as far as they are known, the image, the annotation, the key and the value.
    """


def check(name: str, value: Any, ok: bool, wanted: str) -> None:
    """Raises:
    UserError: `ok` is false; the message has the name of the argument, its value, and what was `wanted`.
    """
    if not ok:
        raise UserError(f"{name} is {value!r}; wanted {wanted}")


def short(value: Any, width: int = 60) -> str:
    """A value of a file for a message: its `repr`, cut to `width` characters, however large or nested it is.

    Example:
        >>> short([[[[[[]]]]]]), short("a" * 99, width=10)
        ('[[[[...]]]]', "'aaaaaaaa…")
    """
    text = _brief.repr(value)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def clip(text: str, width: int = 160) -> str:
    """A text of a file, such as a name, for a message: cut to `width` characters, and without what can't be printed.

    Example:
        >>> clip("a" * 99, width=10)
        'aaaaaaaaa…'
    """
    text = text[: width - 1] + "…" if len(text) > width else text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
