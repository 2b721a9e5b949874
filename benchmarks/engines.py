"""Exported models in their engines: the score, and the time of a prediction, beside PyTorch; or RF-DETR's own export.

python benchmarks/engines.py CHECKPOINT [--data FOLDER|CONFIG] [--pt2]     engine × type: score, ms at batch 1 and 8
python benchmarks/engines.py rf-detr-nano                                  beside rfdetr's ONNX of the same weights

All of a table take turns, A B C A B C, on the same images; times are medians.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import vitdet
from vitdet import zoo
from vitdet.command.data_only import read_data
from vitdet.deploy.engines import EngineDetector, convert
from vitdet.deploy.engines.compiling import to_package
from vitdet.deploy.export import export_onnx
from vitdet.deploy.predict import Detector
from vitdet.deploy.score import prepare, score

console = Console(highlight=False, soft_wrap=True)


class Half(Detector):
    """A detector in PyTorch's mixed precision."""

    def infer(self, x: Any, sizes: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return super().infer(x, sizes)


class Again:
    """What a function yields, as often as it is wanted."""

    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[Any]:
        return self.make()


def in_turn(runs: dict[str, Callable[[], Any]], *, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each, run in turn; the first round warms up.

    Threads of an engine spin for a while after it has run, and would take the time of the next: each runs twice, and
    the second counts.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name, run in runs.items():
            time.sleep(0.1)
            run()
            start = time.perf_counter()
            run()
            if i:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def variants(model: Detector, data: Any, folder: Path, *, threads: int, pt2: bool) -> Iterator[tuple[str, Detector]]:
    """The model in each engine and type."""
    yield "PyTorch fp32", model
    half = Half.__new__(Half)
    half.__dict__.update(model.__dict__)
    yield "PyTorch bf16 (autocast)", half
    graph = export_onnx(model, folder / "model.onnx")
    yield "onnxruntime fp32", EngineDetector(graph, threads=threads)
    yield "onnxruntime int8", EngineDetector(convert.to_int8_onnx(graph, folder / "int8.onnx"), threads=threads)
    whole, small = convert.to_openvino(graph, folder / "m.xml"), convert.to_openvino(graph, folder / "h.xml", half=True)
    yield "OpenVINO fp32", EngineDetector(whole, threads=threads)
    yield "OpenVINO bf16 (--half)", EngineDetector(small, threads=threads)
    prepare(data, model)

    def images() -> Iterator[np.ndarray]:
        for batch, _ in data.evaluation("train"):
            yield from (image.numpy()[None] for image in batch)

    yield "OpenVINO int8", EngineDetector(convert.to_int8(graph, folder / "i.xml", Again(images)), threads=threads)
    if pt2:
        yield "pt2 (AOTInductor) fp32", EngineDetector(to_package(model, folder / "m.pt2"), threads=threads)


def judge(name: str, *, config: str | None, threads: int, rounds: int, pt2: bool) -> None:
    """Prints score and times of a checkpoint in each engine."""
    model = vitdet.load(name, device="cpu")
    data = read_data("benchmark", [], config=config, saved=model.data, name=name)
    with tempfile.TemporaryDirectory() as folder:
        models = dict(variants(model, data, Path(folder), threads=threads, pt2=pt2))
        prepare(data, model, split="val")
        seen = [(image, target.orig_size) for batch in data.evaluation("val") for image, target in zip(*batch)]
        # of equal size, as a camera gives them
        shape = statistics.mode(tuple(image.shape) for image, _ in seen)
        seen = [pair for pair in seen if tuple(pair[0].shape) == shape][:8]
        seen = (seen * 8)[:8]
        times = {}
        with torch.inference_mode():
            for count in (1, 8):
                x, sizes = [image for image, _ in seen[:count]], [size for _, size in seen[:count]]
                runs = {key: partial(one.infer, x, sizes) for key, one in models.items()}
                times[count] = in_turn(runs, rounds=rounds)
        table = Table(
            "engine", "score", "ms, batch 1", "ms, batch 8", title=f"{name}, {tuple(shape)}, {threads} threads"
        )
        for key, one in models.items():
            found = score(one, data, split="val")
            figures = [f"{statistics.median(times[count][key]):.1f}" for count in (1, 8)]
            table.add_row(key, "{} {:.4f}".format(*found.main), *figures)
            console.print(key, found.main, *figures)
        console.print(table)


def beside_rfdetr(name: str, *, threads: int, rounds: int) -> None:
    """Prints the times of our graph and of rfdetr's own, of the same random weights, in each engine."""
    import onnxruntime
    import openvino
    import rfdetr

    size = "".join(part.capitalize() for part in name.removeprefix("rf-detr-").split("-"))
    theirs = getattr(rfdetr, f"RFDETR{size}")(pretrain_weights=None, device="cpu")
    card = zoo.find(name)
    ours = card.build().eval()
    ours.load_state_dict(card.convert(theirs.model.model.state_dict()))
    transform = vitdet.data.EvalTransform(**card.eval_transform)
    names = {"classes": card.classes, "category_ids": card.category_ids}
    detector = Detector(ours["backbone"], ours["head"], **names, transform=transform, device="cpu")
    side, core = card.transform["size"]["square"], openvino.Core()
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "vitdet, any size": export_onnx(detector, Path(folder) / "free.onnx"),
            "vitdet, --size": export_onnx(detector, Path(folder) / "fixed.onnx", size=(side, side)),
            "rfdetr": theirs.export(output_dir=folder, dynamic_batch=True, verbose=False),
        }
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        for count in (1, 8):
            x = np.random.default_rng(0).standard_normal((count, 3, side, side)).astype(np.float32)
            runs: dict[str, Callable[[], Any]] = {}
            for key, file in files.items():
                session = onnxruntime.InferenceSession(str(file), options)
                feed = {session.get_inputs()[0].name: x}
                runs[f"onnxruntime fp32 | {key}"] = partial(session.run, None, feed)
            for kind in ("f32", "bf16"):
                for key, file in files.items():
                    given = {"INFERENCE_PRECISION_HINT": kind, "INFERENCE_NUM_THREADS": threads}
                    compiled = core.compile_model(core.read_model(file), "CPU", given)
                    runs[f"OpenVINO {kind} | {key}"] = partial(compiled, [x])
            times = in_turn(runs, rounds=rounds)
            table = Table("engine", "graph", "median ms", "fastest ms", title=f"{name}, {side}×{side}, batch {count}")
            for key, values in times.items():
                table.add_row(*key.split(" | "), f"{statistics.median(values):.0f}", f"{min(values):.0f}")
            console.print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="checkpoints, or names of RF-DETR models")
    parser.add_argument("--config", help="a config or checkpoint whose data are used; else the checkpoint's own")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pt2", action="store_true", help="compile a package of AOTInductor, too: minutes")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for model in given.models:
        if model.startswith("rf-detr"):
            beside_rfdetr(model, threads=given.threads, rounds=given.rounds)
        else:
            judge(model, config=given.config, threads=given.threads, rounds=given.rounds, pt2=given.pt2)
