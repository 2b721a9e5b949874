"""Training of models that do not fit a device: FSDP2, by Lightning's strategy and torch's `fully_shard`."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from vitdet.backbone.trunk import ViT
from vitdet.contents import optimizers_of, weights_of
from vitdet.training.shards import gather, share_out


class FSDP(ModelParallelStrategy):
    """Shares out weights, gradients and the states of the optimiser over all processes: `trainer.strategy: fsdp`.

    A process gathers the weights of a block of the ViT when it needs them, and of all else for the whole step. A
    checkpoint is the same file as of a training on one device, which can load it and go on with it, and the other way
    round. Each process reads all of it, rank 0 writes it.

    Args:
        options: other arguments of Lightning's `ModelParallelStrategy`, such as `timeout`.

    Example:
        >>> FSDP().restore_checkpoint_after_setup
        False
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(save_distributed_checkpoint=False, **options)

    # Lightning would let its own functions restore everything after the set-up; its keys of the optimiser's states
    # are those of the model's order of parameters, in which vitdet's groups of parameters are not
    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    @property
    def _task(self) -> Any:
        return self.lightning_module

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return gather(self._task.state_dict(), keep=self.is_global_zero)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        known, saved = self._task.state_dict(), weights_of(checkpoint)
        shared = {name: share_out(tensor, known.get(name, tensor)) for name, tensor in saved.items()}
        self._task.load_state_dict(shared, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return gather(Strategy.optimizer_state(self, optimizer), keep=self.is_global_zero)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, optimizers_of(checkpoint)):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            numbers = [number for group in saved["param_groups"] for number in group["params"]]
            known = dict(zip(numbers, parameters))
            states = {number: _share_out_state(state, known[number]) for number, state in saved["state"].items()}
            optimizer.load_state_dict({**saved, "state": states})

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)


def _share_out_state(state: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
    # a count of steps is a single number
    return {
        key: share_out(value, parameter) if isinstance(value, Tensor) and value.ndim else value
        for key, value in state.items()
    }


def shard(task: Any) -> None:
    """Shares out the weights of a task over its device mesh, those of rank 0; a task that is shared out stays so.

    Args:
        task: a `Task` whose trainer has the strategy `FSDP`.
    """
    if isinstance(task, FSDPModule):
        return
    mesh, device = task.device_mesh["data_parallel"], task.trainer.strategy.root_device
    trunks = [module for module in task.modules() if isinstance(module, ViT)]
    for trunk in trunks:
        # they are made of weights that only seem unchanged, since all processes gather them into the same memory
        trunk.keeps_tables = False
    # one after the other, so that a device never holds all weights
    for module in [*(block for trunk in trunks for block in trunk.blocks), task]:
        _same_everywhere(module, device)
        fully_shard(module, mesh=mesh)
    # all that reads weights outside of blocks happens in these
    for name in ("training_step", "predict_step"):
        register_fsdp_forward_method(task, name)


def _same_everywhere(module: nn.Module, device: torch.device) -> None:
    """Moves the weights that are not yet shared out to the device, those of rank 0."""
    for holder in module.modules():
        for tensor in (*holder.parameters(recurse=False), *holder.buffers(recurse=False)):
            if not isinstance(tensor, DTensor):
                tensor.data = tensor.data.to(device)
                dist.broadcast(tensor.data, src=0)
