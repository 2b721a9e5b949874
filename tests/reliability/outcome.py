"""What a training leaves, in a form that can be compared: `python outcome.py RUN_FOLDER` prints a fingerprint of it."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch


def _plain(value: Any, run: Path) -> Any:
    """What is compared of a checkpoint: paths in the folder of the run are those in any folder."""
    if isinstance(value, torch.Tensor):
        data = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(data).hexdigest()}"
    if isinstance(value, dict):
        return {str(_plain(key, run)): _plain(item, run) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, run) for item in value]
    return value.replace(str(run), "RUN") if isinstance(value, str) else value


def outcome(run: Path) -> dict:
    """What a training leaves."""
    found = {"metrics.csv": (run / "metrics.csv").read_text()}
    for name in ("last.ckpt", "best.ckpt"):
        contents = torch.load(run / name, weights_only=True)
        found |= {f"{name} {key}": _plain(value, run) for key, value in contents.items()}
    return found


def differences(one: dict, other: dict, path: str = "") -> list[str]:
    """Where two outcomes differ, and how."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return [text for key in keys for text in differences(one.get(key), other.get(key), f"{path}/{key}")]
    # as text, since NaN is no number that is equal to itself
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    return [] if same else [f"{path}: {str(one)[:300]} | {str(other)[:300]}"]


if __name__ == "__main__":
    text = json.dumps(outcome(Path(sys.argv[1])), sort_keys=True)
    print(hashlib.sha256(text.encode()).hexdigest())
