"""Weight files: vitdet's own checkpoints, and those of others. Code in a file is never run."""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from vitdet.backbone.weights import read_file, read_weights
from vitdet.errors import UserError
from vitdet.renamed import renew

# of vitdet's own checkpoints: from 3 on they name public classes, and options in parts; 2 is still read, see `renamed`
FORMAT, OLDEST = 3, 2


class CheckpointError(UserError):
    """A model or a file that can't be used; the message names it, and says what to do."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A vitdet checkpoint's tensors and plain values.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, or was not written by vitdet.
    """
    if Path(path).is_dir() and str(path):
        inside = next(
            (f", such as {name} in it" for name in ("best.ckpt", "last.ckpt") if Path(path, name).is_file()), ""
        )
        raise CheckpointError(f"checkpoint {path} is a folder; give a file{inside}")
    if not Path(path).is_file():
        url = re.match(r"\w+:/+", str(path))
        fix = "download it first, and give the file" if url else "give the best.ckpt or last.ckpt of a run"
        raise FileNotFoundError(f"checkpoint {path} does not exist; {fix}")
    try:
        checkpoint = read_file(path)
    except RuntimeError as error:
        raise CheckpointError(str(error)) from error
    saved = checkpoint.get("vitdet") if isinstance(checkpoint, dict) else None
    if not isinstance(saved, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"{path} was not written by vitdet; wanted a best.ckpt or last.ckpt of a run")
    if saved["format"] > FORMAT:
        raise CheckpointError(f"{path} has format {saved['format']}, this vitdet reads {FORMAT}: update vitdet")
    if saved["format"] < OLDEST:
        raise CheckpointError(
            f"{path} has format {saved['format']}, of models whose parts were others; this vitdet reads {FORMAT}: "
            "train again, or use the vitdet of then"
        )
    checkpoint["vitdet"] = renew(saved)
    return checkpoint


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of anybody's `.safetensors` or torch file by name.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is cut off, or holds something else than tensors and plain values.
    """
    try:
        return read_weights(path)
    except RuntimeError as error:
        raise CheckpointError(str(error)) from error
