"""Runs a step again whose loss or gradients were not finite, and says where it begins."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from vitdet.checkpoint import Checkpoint
from vitdet.handshake import Labels
from vitdet.training import diverged
from vitdet.training.finite import broken
from vitdet.training.quiet import quiet
from vitdet.training.task import Task

# how many names a line has at most
MOST = 5


def replay(folder: str | Path, *, device: str | None = None) -> Iterator[str]:
    """Runs the step of a folder `diverged` again: for each rank forward and backward, without updating the weights.

    Args:
        folder: the folder, or that of its run.
        device: where, such as `cpu` or `cuda:1`; by default a GPU if there is one.

    Yields:
        Lines that say what is not finite, in the order in which the step computes it.

    Raises:
        ReplayError: it is no such folder, or a file in it is damaged.
        CheckpointError: the model can't be built.
    """
    path, ranks = diverged.read(folder)
    saved = Checkpoint.read(path)
    task = Task.load_from_checkpoint(path)
    # as they are trained, not their average
    task.load_state_dict(saved.state_dict)
    step = _Step(task, saved, ranks[0]["precision"], device)
    yield from step.begin(ranks[0])
    bad = False
    for rank in ranks:
        yield from step.run(rank)
        bad |= step.bad
    yield step.verdict(ranks[0], bad)


class _Step:
    """The step: the model, its precision and its device.

    Attributes:
        bad: whether loss or gradients of the last rank are not finite.
    """

    def __init__(self, task: Any, saved: Checkpoint, precision: Any, device: str | None) -> None:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        quiet()
        devices = [place.index or 0] if place.type == "cuda" else 1
        nothing = dict.fromkeys(
            ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
        )
        # it knows how each precision is computed
        trainer = L.Trainer(accelerator=place.type, devices=devices, precision=precision, **nothing)
        self.plugin: Any = trainer.precision_plugin
        self.device = trainer.strategy.root_device
        if (scale := saved.contents.get(type(self.plugin).__qualname__)) and hasattr(self.plugin, "scaler"):
            self.plugin.load_state_dict(scale)
        self.task: Any = self.plugin.convert_module(task).to(self.device)
        self.bad = False

    def begin(self, rank: dict[str, Any]) -> Iterator[str]:
        ranks = f"{rank['ranks']} rank{'s' if rank['ranks'] > 1 else ''}"
        yield (
            f"step {rank['step']} of epoch {rank['epoch']}, {ranks}, precision {rank['precision']}, on {self.device} "
            f"(trained on {rank['device']})"
        )
        wrong = broken((*self.task.named_parameters(), *self.task.named_buffers()))
        yield f"weights that are not finite: {_some(wrong)}" if wrong else "weights: all finite"

    def run(self, rank: dict[str, Any]) -> Iterator[str]:
        """Runs the batches of a rank."""
        self._prepare(rank)
        self.task.zero_grad()
        losses_bad = False
        for number, batch in enumerate(rank["batches"]):
            of = f" {number + 1} of {len(rank['batches'])}" if len(rank["batches"]) > 1 else ""
            yield f"rank {rank['rank']}, batch{of}: {_images(batch)}"
            if "images" not in batch:
                continue
            watch = _Watch(self.task)
            with watch.watching():
                losses, total = self._forward(batch)
                terms = {name: float(value.detach()) for name, value in losses.items()}
                losses_bad |= not bool(total.isfinite())
                total = self.plugin.scaler.scale(total) if getattr(self.plugin, "scaler", None) else total
                (total / len(rank["batches"])).backward()
            yield from (f"  {line}" for line in (*_inputs(batch), *watch.forward(), *_terms(terms), *watch.backward()))
        gradients = [(name, p.grad) for name, p in self.task.named_parameters() if p.grad is not None]
        wrong = broken(gradients)
        norm = torch.nn.utils.get_total_norm([gradient for _, gradient in gradients])
        yield f"  gradients: norm {float(norm):.4g}" + (
            f", not finite in {len(wrong)} of {len(gradients)}: {_some(wrong)}" if wrong else ""
        )
        self.bad = losses_bad or bool(wrong) or not bool(norm.isfinite())

    def _prepare(self, rank: dict[str, Any]) -> None:
        task = self.task
        labels = rank["labels"] and Labels(**rank["labels"])
        task.head.prepare(task.progress, labels)
        task.progress.done = rank["progress"]
        task.train()
        modules = dict(task.named_modules())
        for name in rank["evaluating"]:
            if name in modules:
                modules[name].training = False

    def _forward(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
        images = [image.to(self.device) for image in batch["images"]]
        targets = [target.to(self.device) for target in batch["targets"]]
        images = self.plugin.convert_input(images)
        diverged.set_generators(batch["generators"], self.device)
        with self.plugin.train_step_context():
            losses = self.task.head.loss(self.task.head(self.task.backbone(images), targets), targets)
            return losses, self.task.head.total(losses)

    def verdict(self, rank: dict[str, Any], bad: bool) -> str:
        if bad:
            return "the step is not finite here, too"
        return (
            "the step is finite here: what was not is neither in weights, batches nor random numbers, but in a "
            f"callback of yours, in another version of a library, or in the device it was trained on ({rank['device']})"
        )


class _Watch:
    """Notes, in the order of computation, the modules whose outputs, or the gradients of these, are not finite."""

    def __init__(self, task: nn.Module) -> None:
        self.task = task
        self._outputs: list[str] = []
        self._gradients: list[str] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watches all modules inside the block."""
        named = [(name, module) for name, module in self.task.named_modules() if name]
        hooks = [module.register_forward_hook(self._hook(name)) for name, module in named]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = list(_tensors(output))
            if not all(_good(tensor) for tensor in tensors):
                given = "its input is finite" if all(map(_good, _tensors(inputs))) else "its input is not, either"
                self._outputs.append(f"{name} ({type(module).__name__}), {given}")
            for tensor in tensors:
                if tensor.requires_grad:
                    tensor.register_hook(lambda gradient: self._note(name, gradient))

        return hook

    def _note(self, name: str, gradient: Tensor) -> None:
        if not _good(gradient):
            self._gradients.append(name)

    def forward(self) -> Iterator[str]:
        if self._outputs:
            yield f"first module whose output is not finite: {self._outputs[0]} ({len(self._outputs)} in all)"
        else:
            yield "outputs of the modules: all finite"

    def backward(self) -> Iterator[str]:
        if self._gradients and not self._outputs:
            yield f"the gradient is first not finite at the output of {self._gradients[0]}"


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in a value."""
    if isinstance(value, Tensor):
        yield from [value] if value.is_floating_point() else []
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _good(tensor: Tensor) -> bool:
    return bool(tensor.detach().isfinite().all())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more


def _images(batch: dict[str, Any]) -> str:
    if "images" not in batch:
        return "it is no batch of vitdet's data, and was not written"
    shown = [f"{target.image_id} {name}".strip() for target, name in zip(batch["targets"], batch["names"])]
    return f"{len(shown)} images: {_some(shown)}"


def _inputs(batch: dict[str, Any]) -> Iterator[str]:
    wrong = [target.image_id for image, target in zip(batch["images"], batch["targets"]) if not _good(image)]
    if wrong:
        yield f"images with pixels that are not finite: {_some(list(map(str, wrong)))}"
    wrong = [target.image_id for target in batch["targets"] if not _good(target.boxes_cxcywh)]
    if wrong:
        yield f"images with boxes that are not finite: {_some(list(map(str, wrong)))}"


def _terms(losses: dict[str, float]) -> Iterator[str]:
    wrong = [f"{name} {value:g}" for name, value in losses.items() if not math.isfinite(value)]
    if wrong:
        yield f"loss terms that are not finite: {_some(wrong)}"
    else:
        yield "loss: " + ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
