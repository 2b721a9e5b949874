"""How fast `vitdet predict` goes through a folder, beside its model alone.

    python benchmarks/folder.py [--model CHECKPOINT|NAME] [--count 64] [--side 640] [--batch_size 8] [--rounds 3]

Photographs of noise and shapes are written as JPEG into a temporary folder. In each round, in turn: the model on images
that are in memory and transformed; the files read ahead of the model; and whole runs, without and with drawings. What
is printed is the median of the rounds.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

import vitdet
from vitdet.deploy import predict_files
from vitdet.deploy.ahead import batched


def photographs(folder: Path, count: int, side: int) -> list[Path]:
    """`count` JPEG files of `side` pixels, with detail as photographs have it."""
    rng = np.random.default_rng(0)
    files = []
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (side // 16, side // 12, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((side, side * 3 // 4), Image.Resampling.BICUBIC)).astype(int)
        noisy = (pixels + rng.integers(-12, 13, pixels.shape)).clip(0, 255).astype(np.uint8)
        files.append(folder / f"{i:05}.jpg")
        Image.fromarray(noisy).save(files[-1], quality=90)
    return files


def model_alone(detector: vitdet.Detector, files: list[Path], size: int) -> float:
    """Seconds for all images, which have been read and transformed before."""
    reads = [[detector.read(path) for path in some] for some in batched(files, size)]
    start = time.perf_counter()
    for some in reads:
        detector.find(some)
    return time.perf_counter() - start


def read_ahead(detector: vitdet.Detector, files: list[Path], size: int) -> float:
    """Seconds for all files, read ahead of the model."""
    start = time.perf_counter()
    for _ in detector.stream(files, batch_size=size):
        pass
    return time.perf_counter() - start


def whole_run(detector: vitdet.Detector, folder: Path, size: int, *, drawings: bool) -> float:
    """Seconds for a run over the folder, with all files that it writes."""
    with tempfile.TemporaryDirectory() as output, open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        start = time.perf_counter()
        predict_files(detector, folder, output=output, batch_size=size, drawings=drawings)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="rf-detr-nano")
    parser.add_argument("--count", type=int, default=64, help="number of images (%(default)s)")
    parser.add_argument("--side", type=int, default=640, help="their width in pixels (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device")
    given = parser.parse_args()
    detector = vitdet.load(given.model, device=given.device)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files, size = photographs(Path(folder), given.count, given.side), given.batch_size
        kinds = {
            "the model alone": lambda: model_alone(detector, files, size),
            "files read ahead of it": lambda: read_ahead(detector, files, size),
            "a run without drawings": lambda: whole_run(detector, Path(folder), size, drawings=False),
            "a run with drawings": lambda: whole_run(detector, Path(folder), size, drawings=True),
        }
        # the first batch of a process takes longer
        model_alone(detector, files[:size], size)
        for _ in range(given.rounds):
            for name, measure in kinds.items():
                seconds.setdefault(name, []).append(measure())
    threads = torch.get_num_threads()
    table = Table(
        "", "images/s", "of the model's", title=f"{given.model} on {detector.device}, {threads} threads of torch"
    )
    alone = statistics.median(seconds["the model alone"])
    for name, values in seconds.items():
        median = statistics.median(values)
        table.add_row(name, f"{given.count / median:.1f}", f"{alone / median:.0%}")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
