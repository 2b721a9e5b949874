"""Weight files: vitdet's own checkpoints, and those of others. Code in a file is never run."""

import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

FORMAT = 1  # of vitdet's own checkpoints that this version reads
WRAPPERS = ("model", "state_dict", "ema_state_dict")
_UNREADABLE = (RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError, ValueError, KeyError, OSError)


class CheckpointError(ValueError):
    """A model or a file that can't be used; the message names it, and says what to do."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A vitdet checkpoint's tensors and plain values.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, or was not written by vitdet.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    checkpoint = _load(Path(path))
    saved = checkpoint.get("vitdet") if isinstance(checkpoint, dict) else None
    if not isinstance(saved, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"{path} was not written by vitdet; wanted a best.ckpt or last.ckpt of a run")
    if saved["format"] > FORMAT:
        raise CheckpointError(f"{path} has format {saved['format']}, this vitdet reads up to {FORMAT}: update vitdet")
    return checkpoint


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of anybody's `.safetensors` or torch file by name.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is cut off, or holds something else than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    contents = _load(path)
    for wrapper in WRAPPERS:
        if isinstance(contents, dict) and isinstance(contents.get(wrapper), dict):
            contents = contents[wrapper]
    state = {k: v for k, v in contents.items() if isinstance(v, Tensor)} if isinstance(contents, dict) else {}
    if not state:
        raise CheckpointError(f"{path} holds no tensors by name")
    return {key.removeprefix("module.").removeprefix("_orig_mod."): value for key, value in state.items()}


def _load(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([Namespace]):  # plain values: the training options of many authors
            return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise CheckpointError(
            f"{path} can't be read: it is cut off, or holds something else than tensors and plain values ({reason})"
        ) from error
