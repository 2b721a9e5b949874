"""Steps whose loss or gradients are not finite change nothing, and the host never waits for the device to know it.

All of it happens on the device. A loss that is not finite makes its gradients NaN, and DDP's sum of gradients brings
NaN from any rank to all. The norm of the gradients then says whether the step counts, and the ranks agree on that:
optimisers that run as one kernel take it as `found_inf`, as they do from a gradient scaler.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def spoil(loss: Tensor) -> Tensor:
    """The loss, whose gradients are NaN where the loss is not finite itself; a finite one keeps all of its bits.

    An infinite loss may have finite gradients, such as the L1 distance from an infinite box.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)


def clip(parameters: Sequence[Tensor], limit: float | None, *, by_value: bool = False) -> Tensor:
    """Clips the gradients to the norm `limit`, or each of them to `[-limit, limit]`, as torch does; or none of them.

    Returns:
        The norm before, which is not finite if a gradient, or the square of one, is not.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if limit and by_value:
        torch.nn.utils.clip_grad_value_(parameters, limit)
    elif limit:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def is_bad(norm: Tensor) -> Tensor:
    """1 if a norm is not finite, else 0: float32, without dimensions, on the device of the norm."""
    # the norm of sharded gradients is a sum that is still to be made over the ranks
    return _whole(norm).isfinite().logical_not().float()


def _whole(value: Any) -> Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def on_any_rank(bad: Tensor) -> Tensor:
    """1 if `bad` is 1 on any rank, on all of them. The host does not wait for a GPU.

    The gradients are equal on all ranks, but for what happened to those of one after they were summed.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(bad, op=dist.ReduceOp.MAX)
    return bad


def skip_if(bad: Tensor, optimizer: Any) -> None:
    """Makes the next step of an optimiser change neither weights nor moments, if `bad` is 1.

    An optimiser that isn't fused takes no such flag: the host waits for it, and removes the gradients.
    """
    fused = all(group.get("fused") for group in optimizer.param_groups)
    if fused and getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = bad
    elif bool(bad):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


def broken(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of the tensors that hold NaN or infinity.

    The sum of a tensor is not finite if an element is not, so that a single transfer of all sums from the device is
    enough. This takes a few hundredths of the time of a save.
    """
    named = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    sums = [_whole(tensor.detach().sum(dtype=torch.float32)) for _, tensor in named]
    if not sums:
        return []
    good = torch.stack([total.to(sums[0].device) for total in sums]).isfinite().tolist()
    return [name for (name, _), one in zip(named, good) if not one]


class Later:
    """Brings a few numbers from the device to the host some steps later, so that the host doesn't wait for them.

    Args:
        lag: after how many calls of `send` numbers of a GPU arrive. While the host waits for them, the device still has
            the work of as many steps. On other devices they arrive at once.
    """

    def __init__(self, lag: int = 2) -> None:
        self.lag = lag
        self._sent: list[tuple[int, Tensor, Any]] = []

    def send(self, step: int, numbers: Tensor) -> None:
        """Sends the present values of `numbers`, those of a step."""
        if numbers.device.type != "cuda":
            self._sent.append((step, numbers.clone(), None))
            return
        kept = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True).copy_(numbers, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        self._sent.append((step, kept, arrived))

    def receive(self, *, all: bool = False) -> list[tuple[int, list[float]]]:
        """The steps whose numbers have arrived, with these, oldest first; with `all`, the host waits for the rest."""
        received = []
        while self._sent and (all or self._sent[0][2] is None or len(self._sent) > self.lag):
            step, kept, arrived = self._sent.pop(0)
            if arrived is not None:
                arrived.synchronize()
            received.append((step, kept.tolist()))
        return received
