"""RF-DETR in vitdet beside RF-DETR in its authors' package: the same random weights, the same images, in turn.

python benchmarks/compare_rfdetr.py [MODEL …] [--modes eager bf16] [--no-train]     (pip install rfdetr)
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from vitdet import zoo
from vitdet.deploy.benchmark import flops
from vitdet.structures import Target
from vitdet.zoo.cards import Card

MODES = ("eager", "bf16", "compile", "compile bf16")
OBJECTS, TRAIN_BATCH = 12, 4


def reference(name: str) -> tuple[nn.Module, Any, Any]:
    """Their model with random weights, its criterion and its post-processing.

    Raises:
        ImportError: rfdetr is not installed.
    """
    try:
        from rfdetr import config
        from rfdetr.models.lwdetr import build_criterion_from_config, build_model_from_config
    except ImportError as error:
        raise ImportError("the comparison needs the authors' package: pip install rfdetr") from error
    size = "".join(part.capitalize() for part in name.removeprefix("rf-detr-").split("-"))
    options = getattr(config, f"RFDETR{size}Config")(num_classes=90, device="cpu", pretrain_weights="none")
    train = config.SegmentationTrainConfig if "Seg" in size else config.TrainConfig
    torch.manual_seed(0)
    model = build_model_from_config(options)
    criterion, post = build_criterion_from_config(options, train(dataset_dir=".", output_dir="."))
    return model, criterion, post


def sides(name: str) -> tuple[dict[str, Callable[[Tensor], Any]], dict[str, nn.Module], Card]:
    """Both models as functions from images to predictions, both as modules, and the card."""
    card = zoo.find(name)
    theirs, _, post = reference(name)
    ours = card.build()
    ours.load_state_dict(card.convert(theirs.state_dict()))
    modules = {"vitdet": ours.eval(), "rfdetr": theirs.eval()}
    return {"vitdet": _our_prediction(ours), "rfdetr": _their_prediction(theirs, post)}, modules, card


def _our_prediction(model: nn.ModuleDict) -> Callable[[Tensor], Any]:
    def predict(images: Tensor) -> Any:
        return model["head"].predict(model["head"](model["backbone"](images)), [images.shape[-2:]] * len(images))

    return predict


def _their_prediction(model: nn.Module, post: Any) -> Callable[[Tensor], Any]:
    def predict(images: Tensor) -> Any:
        return post(model(images), torch.tensor([images.shape[-2:]] * len(images)))

    return predict


def alternate(runs: dict[str, Callable[[], Any]], *, rounds: int) -> dict[str, float]:
    """Median seconds of each, run in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if i:  # the first one warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


@torch.inference_mode()
def latency(name: str, *, batch: int, mode: str, rounds: int) -> dict[str, float]:
    """Median seconds of a prediction, post-processing included."""
    predictions, modules, card = sides(name)
    images = torch.randn(batch, 3, card.transform["size"]["square"], card.transform["size"]["square"])
    if "compile" in mode:
        modules["vitdet"]["backbone"].compile(), modules["vitdet"]["head"].compile(), modules["rfdetr"].compile()
    half = torch.autocast("cpu", torch.bfloat16) if "bf16" in mode else contextlib.nullcontext()
    with half:
        return alternate({side: lambda run=run: run(images) for side, run in predictions.items()}, rounds=rounds)


def train_step(name: str, side: str) -> Callable[[], None]:
    """A training step: forward, loss, backward, AdamW."""
    card = zoo.find(name)
    images = torch.randn(TRAIN_BATCH, 3, card.transform["size"]["square"], card.transform["size"]["square"])
    boxes = torch.rand(TRAIN_BATCH, OBJECTS, 4) * 0.3 + 0.2
    labels = torch.randint(80, (TRAIN_BATCH, OBJECTS))
    masks = torch.rand(TRAIN_BATCH, OBJECTS, *images.shape[-2:]) > 0.5 if "seg" in name else [None] * TRAIN_BATCH
    if side == "vitdet":
        model = card.build().train()
        size = tuple(images.shape[-2:])
        targets = [Target(b, k, size, size, masks=m) for b, k, m in zip(boxes, labels, masks)]

        def loss() -> Tensor:
            head = model["head"]
            return head.total(head.loss(head(model["backbone"](images), targets), targets))
    else:
        model, criterion, _ = reference(name)
        model.train()
        known = [
            {"boxes": b, "labels": k} | ({} if m is None else {"masks": m}) for b, k, m in zip(boxes, labels, masks)
        ]

        def loss() -> Tensor:
            terms = criterion(model(images, known), known)
            return sum(terms[key] * weight for key, weight in criterion.weight_dict.items() if key in terms)

    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()

    return step


def peak_memory(name: str, side: str) -> float:
    """GiB at the peak of a process that takes three training steps."""
    code = f"import compare_rfdetr; compare_rfdetr.take_steps({name!r}, {side!r}, {torch.get_num_threads()})"
    options = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "check": True}
    run = subprocess.run([sys.executable, "-c", code], **options)
    return float(run.stdout.split()[-1])


def take_steps(name: str, side: str, threads: int) -> None:
    torch.set_num_threads(threads)
    step = train_step(name, side)
    for _ in range(3):
        step()
    # getrusage would give the peak of the process that started this one
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(int(status.partition("VmHWM:")[2].split()[0]) / 2**20)


def ceiling() -> float:
    """GFLOP/s of a product of two 2048 × 2048 matrices in fp32."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / alternate({"product": lambda: a @ b}, rounds=7)["product"] / 1e9


def compare(names: list[str], *, rounds: int = 7, modes: tuple[str, ...] = MODES, train: bool = True) -> None:
    """Print both sides' times, and vitdet's as a share of theirs."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{torch.get_num_threads()} threads, ceiling {ceiling():.0f} GFLOP/s fp32")
    table = Table("model", "what", "vitdet", "rfdetr", "ratio", "vitdet GFLOP/s")
    for name in names:
        _, modules, card = sides(name)
        side = card.transform["size"]["square"]
        work = flops(modules["vitdet"]["backbone"], modules["vitdet"]["head"], [torch.zeros(3, side, side)]) / 1e9
        for mode in modes:
            for batch in (1, 8):
                found = latency(name, batch=batch, mode=mode, rounds=rounds)
                _row(table, console, name, f"{mode}, batch {batch}", found, f"{work * batch / found['vitdet']:.0f}")
        if train:
            found = alternate(
                {side: train_step(name, side) for side in ("vitdet", "rfdetr")}, rounds=max(rounds // 2, 3)
            )
            _row(table, console, name, f"training step, batch {TRAIN_BATCH}", found)
            memory = {side: peak_memory(name, side) for side in ("vitdet", "rfdetr")}
            ratio = memory["vitdet"] / memory["rfdetr"]
            table.add_row(name, "its peak memory", *(f"{value:.2f} GiB" for value in memory.values()), f"{ratio:.2f}")
    console.print(table)


def _row(table: Table, console: Console, name: str, what: str, found: dict[str, float], rate: str = "") -> None:
    cells = [f"{1e3 * found[side]:.0f} ms" for side in ("vitdet", "rfdetr")]
    table.add_row(name, what, *cells, f"{found['vitdet'] / found['rfdetr']:.2f}", rate)
    console.print(f"{name}, {what}: {' against '.join(cells)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["rf-detr-nano", "rf-detr-small"])
    parser.add_argument("--modes", nargs="*", choices=MODES, default=MODES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-train", dest="train", action="store_false")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    compare(given.models, rounds=given.rounds, modes=tuple(given.modes), train=given.train)
