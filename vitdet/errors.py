"""Errors that the user of vitdet can correct, as opposed to faults of vitdet."""

import contextlib
import reprlib
from collections.abc import Iterator
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


class MissingLibraryError(UserError, ImportError):
    """A library of one of vitdet's extras is not installed; the message has the command that installs it."""


@contextlib.contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Says how an extra is installed, where an import inside the block finds that it is not.

    Args:
        name: the extra of vitdet that has the library.
        what: what needs it.

    Raises:
        MissingLibraryError: a library is not installed, or can't be imported.

    Example:
        >>> with extra("video", "vitdet predict --track"):
        ...     import json
    """
    try:
        yield
    except ImportError as error:
        # a fault of vitdet's own, or said already
        if isinstance(error, MissingLibraryError) or (error.name or "").startswith("vitdet"):
            raise
        reason = "" if isinstance(error, ModuleNotFoundError) else f", which can't be imported ({error})"
        raise MissingLibraryError(f"{what} needs {error.name}{reason}: pip install 'vitdet[{name}]'") from error


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
