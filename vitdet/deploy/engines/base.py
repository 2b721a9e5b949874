"""What all engines have in common: an interface, and errors that say what to do."""

import importlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vitdet.errors import UserError, check
from vitdet.ranges import whole


class EngineError(UserError):
    """An exported model that can't be used; the message names the file and suggests what to do."""


class Engine(Protocol):
    """A library that runs an exported graph.

    Attributes:
        name: the library, its version, and the device, for the line that says how scores were counted.
        metadata: the text that the file holds under the key `vitdet`, or `None`.
        inputs: type and shape of each input, by name; a number is a fixed size, anything else a free one.
    """

    name: str
    metadata: str | None
    inputs: dict[str, tuple[np.dtype, list[Any]]]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name."""
        ...


def library(name: str, *, for_what: str) -> Any:
    """Imports a library of the extra `export`.

    Raises:
        EngineError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"can't be imported ({error})"
        raise EngineError(f"{for_what} needs {name}, which {reason}: pip install 'vitdet[export]'") from error


def file_of(path: str | Path) -> Path:
    """The path, if there is such a file.

    Raises:
        FileNotFoundError: there is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"exported model {path} does not exist; vitdet export CHECKPOINT writes one")
    return Path(path)


@contextmanager
def reading(path: Path, engine: str) -> Iterator[None]:
    """Turns what an engine raises when it can't read a file into an `EngineError`.

    Raises:
        EngineError: the file can't be read.
    """
    try:
        yield
    except UserError:
        raise
    # the engines raise types of their own, or plain RuntimeErrors
    except Exception as error:
        reason, newer = first_line(error), re.search("opset|ir.?version", str(error), re.IGNORECASE)
        hint = "update it, or export the model again with a smaller opset" if newer else "export the model again"
        raise EngineError(
            f"{engine} can't read {path}: it is damaged, or needs another version ({reason}); {hint}"
        ) from error


def first_line(error: BaseException, width: int = 200) -> str:
    """The first line of an error that says something, cut to `width` characters."""
    lines = [line.strip() for line in str(error).splitlines()]
    text = next((line for line in lines if line and not line.startswith(("Exception from", "Check "))), "")
    # where in onnxruntime's sources it was raised
    text = re.sub(r"/\S+:\d+ .*?\) (?=[A-Z])", " ", text) or type(error).__name__
    return text if len(text) <= width else f"{text[: width - 1]}…"


def check_threads(threads: int | None) -> None:
    """Raises a `UserError` unless the number of threads is `None` or a positive integer."""
    ok, wanted = whole(1)
    check("threads", threads, threads is None or ok(threads), wanted)
