"""What metrics need of `torch.distributed`, and nothing where there is one process."""

from typing import Any

import torch.distributed as dist


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(value: Any) -> list[Any]:
    """The value of every process, in the order of their ranks; all must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    parts: list = [None] * dist.get_world_size()
    dist.all_gather_object(parts, value)
    return parts
