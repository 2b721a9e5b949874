"""Tensors that are shared out over the processes, each of which holds some of the rows, and plain tensors alike."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Placement, Shard, distribute_tensor
from torch.utils._pytree import tree_map


def local(tensor: Tensor) -> Tensor:
    """The rows of a tensor that this process holds, in the same memory; all of them where it is not shared out."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def share_out(whole: Tensor, like: Tensor) -> Tensor:
    """Shares out a tensor, which every process has as a whole, as `like` is shared out, on its device."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def join(part: Tensor, like: Tensor) -> Tensor:
    """The tensor of the shape of `like` whose rows are the `part` of each process; all processes call this."""
    if not isinstance(like, DTensor):
        return part
    return _join(part, like, like.placements, like.shape)


def _join(part: Tensor, like: DTensor, placements: Sequence[Placement], shape: Sequence[int]) -> Tensor:
    stride = torch.empty(shape, device="meta").stride()
    tensor = DTensor.from_local(
        part, like.device_mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride
    )
    return tensor.full_tensor()


def join_stacked(parts: Tensor, like: Tensor) -> Tensor:
    """Stacked matrices `(n, rows, columns)` of which this process has the rows `parts` `(n, r, columns)`.

    Args:
        parts: the rows of this process.
        like: one of the n parameters, `(rows, …)`.
    """
    if not isinstance(like, DTensor):
        return parts
    return _join(parts, like, [Shard(1)], (len(parts), len(like), parts.shape[2]))


def rows_of_stacked(matrices: Tensor, like: Tensor) -> Tensor:
    """The rows of this process `(n, r, columns)` of stacked matrices `(n, rows, columns)`; see `join_stacked`."""
    if not isinstance(like, DTensor):
        return matrices
    return distribute_tensor(matrices, like.device_mesh, [Shard(1)], src_data_rank=None).to_local()


def gather(tree: Any, *, keep: bool) -> Any:
    """The nested mappings and lists of `tree` with whole tensors on the CPU; all processes call this.

    Args:
        tree: holds tensors, among other things.
        keep: whether this process wants the result; the others get an empty mapping.
    """

    def whole(value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        full = value.full_tensor()
        return full.cpu() if keep else None

    gathered = tree_map(whole, tree)
    return gathered if keep else {}
