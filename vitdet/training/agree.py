"""What all ranks of a training decide together, so that none waits for another that does something else."""

from typing import Any

import lightning as L
import torch
import torch.distributed as dist

from vitdet import signals

# the processes that are connected, and how their CPUs are
_group: tuple[Any, Any] = (None, None)


def agreed(trainer: L.Trainer, *values: int) -> list[int]:
    """The largest of each value over all ranks, which must call this together.

    It communicates between the CPUs, and does not wait for the devices.

    Args:
        values: whole numbers, such as the signal by which this rank was asked to end.
    """
    if trainer.world_size == 1:
        return list(values)
    global _group
    if _group[0] is not dist.group.WORLD:
        own = dist.get_backend() != "gloo" and dist.is_gloo_available()
        _group = (dist.group.WORLD, dist.new_group(backend="gloo") if own else dist.group.WORLD)
    on_cpu = dist.get_backend(_group[1]) == "gloo"
    box = torch.tensor(values, device="cpu" if on_cpu else trainer.strategy.root_device)
    dist.all_reduce(box, op=dist.ReduceOp.MAX, group=_group[1])
    return [int(value) for value in box.tolist()]


def asked(trainer: L.Trainer) -> int:
    """The signal by which any rank was asked to end; 0 if none was. All ranks must call this together."""
    return agreed(trainer, signals.asked())[0]
