"""Size, speed and memory of a backbone with a head.

`benchmark` takes the model and the batches from a task and a data module, and prints a table. The other functions take
a backbone, a head and batches, and each measures a single property. In code, `h` and `w` are the height and width of an
image in patches.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitdet.deploy.predict import pick_device
from vitdet.errors import UserError, check
from vitdet.ranges import whole
from vitdet.structures import Target

Batch = tuple[Sequence[Tensor], list[Target]]
PHASES = ("data", "forward", "loss", "backward", "optimiser")


def benchmark(
    task: Any, data: Any, *, steps: int = 10, repeats: int = 20, device: str | torch.device | None = None
) -> dict[str, str]:
    """Measures a task on its data and prints a table. Training is timed only if there is training data.

    Args:
        task: the task with the model.
        data: the data module.
        steps: number of training steps that are timed.
        repeats: number of predictions that are timed for each batch size.
        device: the device to run on. By default CUDA if it is available, otherwise the CPU.

    Returns:
        The rows of the table.

    Raises:
        UserError: the device does not exist, there is no batch, or the head does not fit the data.
    """
    check("steps", steps, whole(1)[0](steps), whole(1)[1])
    check("repeats", repeats, whole(2)[0](repeats), whole(2)[1])
    device = pick_device(device)
    task.use_data(data)
    backbone, head = task.backbone.to(device), task.head.to(device)
    seen = next(name for name in ("val", "test", "train") if name in data.splits)
    loader = getattr(data, f"{seen}_dataloader")()
    batches = _first_images(loader, 32)
    images = [image.to(device) for image in itertools.chain.from_iterable(images for images, _ in batches)]
    rows = {"device": f"{device}, {torch.get_num_threads()} threads, {next(backbone.parameters()).dtype}"}
    rows |= describe_size(backbone, head, images[0]) | describe_tokens(
        batches, backbone.patch_size, getattr(backbone, "canvas", None)
    )
    for count in (1, 8):
        p50, p95 = latency(backbone, head, images, batch_size=count, repeats=repeats)
        rows[f"prediction, batch {count}"] = (
            f"{1e3 * p50:.1f} ms p50, {1e3 * p95:.1f} ms p95 ({count / p50:.1f} images/s)"
        )
    if "train" in data.splits:
        loader = data.train_dataloader()
        # progressive augmentation lets images grow during training: they are measured at their final size
        task.progress.time = 1.0
        split, tokens = train_split(backbone, head, loader, task.make_optimizer(), steps=steps)
        total = sum(split.values())
        rows["training step"] = f"{1e3 * total:.0f} ms, {tokens:.0f} tokens"
        rows |= {f"  {phase}": f"{1e3 * split[phase]:.0f} ms, {split[phase] / total:.0%}" for phase in PHASES}
    if peak := peak_memory(device):
        rows["peak memory"] = f"{peak / 2**20:.0f} MB" + ("" if device.type == "cuda" else " (whole process)")
    table = Table("", "", title="benchmark", show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    Console(highlight=False, markup=False, emoji=False).print(table)
    return rows


def describe_size(backbone: nn.Module, head: nn.Module, image: Tensor) -> dict[str, str]:
    """Counts the parameters, and the floating-point operations of predicting an image."""
    counts = [sum(parameter.numel() for parameter in part.parameters()) / 1e6 for part in (backbone, head)]
    height, width = image.shape[-2:]
    return {
        "parameters": f"{sum(counts):.2f} M (backbone {counts[0]:.2f} M, head {counts[1]:.2f} M)",
        "arithmetic": f"{flops(backbone, head, [image]) / 1e9:.2f} GFLOPs at {width}×{height} (a multiply-add is two)",
    }


def flops(backbone: nn.Module, head: nn.Module, images: Sequence[Tensor]) -> int:
    """Counts the floating-point operations of a prediction with torch's counter.

    It counts matrix products, convolutions and attention.
    """
    backbone.eval(), head.eval()
    # The math backend computes attention as matrix products, which are counted on every device. Gradients stay enabled,
    # since the counter fails without them where a module receives a parameter as its input.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        head(backbone(images))
    return counter.get_total_flops()


def describe_tokens(batches: Sequence[Batch], patch: int, canvas: int | None = None) -> dict[str, str]:
    """Describes the length of the sequences and the share of padding among the tokens.

    For comparison, it also gives the share of padding if each batch were padded to its largest image.
    """
    tokens, filled, dense = 0, 0.0, 0
    for images, _ in batches:
        grids = _grids(images, patch) if canvas is None else [(canvas // patch,) * 2] * len(images)
        tokens += sum(h * w for h, w in grids)
        filled += sum(image.shape[-2] * image.shape[-1] for image in images) / patch**2
        dense += len(grids) * max(h for h, _ in grids) * max(w for _, w in grids)
    count = sum(len(images) for images, _ in batches)
    return {
        "tokens": f"{tokens / count:.0f} an image (patch {patch}, {count} images)",
        "padding": f"{1 - filled / tokens:.1%} of the tokens; "
        f"{1 - filled / dense:.1%} if batches were padded to their largest image",
    }


@torch.inference_mode()
def latency(
    backbone: nn.Module,
    head: nn.Module,
    images: Sequence[Tensor],
    *,
    batch_size: int,
    repeats: int = 20,
    warmup: int = 2,
) -> tuple[float, float]:
    """Times predictions on batches of `batch_size` normalised images, cycling through `images`.

    Returns:
        Median and 95th percentile of the seconds for a batch.
    """
    backbone.eval(), head.eval()
    device, source, seconds = images[0].device, itertools.cycle(images), []
    for _ in range(warmup + repeats):
        batch = list(itertools.islice(source, batch_size))
        start = _now(device)
        head.infer(backbone, batch, [tuple(image.shape[-2:]) for image in batch])
        seconds.append(_now(device) - start)
    timed = seconds[warmup:]
    return statistics.median(timed), statistics.quantiles(timed, n=20, method="inclusive")[-1]


def train_split(
    backbone: nn.Module,
    head: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int = 10,
    warmup: int = 2,
) -> tuple[dict[str, float], float]:
    """Times the phases of training steps. This changes the weights of the model.

    Args:
        backbone: the backbone, with a `patch_size`.
        head: the head.
        batches: batches to train on; iteration starts again when they end.
        optimizer: the optimiser.
        steps: number of steps that are timed.
        warmup: number of steps before these that are not timed.

    Returns:
        The mean seconds of each phase in `PHASES`, and the mean number of tokens in a step.

    Raises:
        UserError: there is no batch.
    """
    device = next(backbone.parameters()).device
    backbone.train(), head.train()
    source, times, tokens = _forever(batches), dict.fromkeys(PHASES, 0.0), 0.0
    for step in range(warmup + steps):
        marks, images = _train_step(backbone, head, source, optimizer, lambda: _now(device))
        if step >= warmup:
            tokens += sum(h * w for h, w in _grids(images, backbone.patch_size)) / steps
            for phase, start, end in zip(PHASES, marks, marks[1:]):
                times[phase] += (end - start) / steps
    return times, tokens


def _train_step(
    backbone, head, source: Iterator[Batch], optimizer, now: Callable[[], float]
) -> tuple[list[float], list[Tensor]]:
    device = next(backbone.parameters()).device
    marks = [now()]
    images, targets = next(source)
    images, targets = [image.to(device) for image in images], [target.to(device) for target in targets]
    marks.append(now())
    outputs = head(backbone(images), targets)
    marks.append(now())
    loss = head.total(head.loss(outputs, targets))
    marks.append(now())
    optimizer.zero_grad()
    loss.backward()
    marks.append(now())
    optimizer.step()
    return [*marks, now()], images


def _grids(images: Sequence[Tensor], patch: int) -> list[tuple[int, int]]:
    return [(-(-image.shape[-2] // patch), -(-image.shape[-1] // patch)) for image in images]


def peak_memory(device: torch.device) -> int:
    """Returns the peak memory in bytes since the process started; 0 where the system does not report it.

    On a GPU this is the memory that torch has allocated, otherwise the memory of the process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        # Windows has no module `resource`
        return 0
    # `ru_maxrss` is in kilobytes on Linux and in bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _forever(batches: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        batch = None
        for batch in batches:
            yield batch
        if batch is None:
            raise UserError("there is no batch to train on")


def _first_images(loader: Iterable[Batch], count: int) -> list[Batch]:
    batches, images = [], 0
    for batch in loader:
        batches.append(batch)
        images += len(batch[0])
        if images >= count:
            break
    return batches
