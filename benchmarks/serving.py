"""A server under load, beside the bare model with the same sizes of batches.

python benchmarks/serving.py MODEL [--images FOLDER] [--clients 200] [--seconds 60] [--batches 1 8]

MODEL is a checkpoint; a name that `vitdet zoo` lists is taken with random weights, which take the same time. Every
client sends one image after the other on a connection of its own, without a pause, so that as many images wait as there
are clients. Each answer is compared with what the model finds in its image without a server.
"""

import argparse
import asyncio
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

import vitdet
from vitdet import zoo
from vitdet.checkpoint import write

# images of a model with random weights are told apart by so many objects each
OBJECTS = 5


class Sample(NamedTuple):
    """An image file, and the boxes and scores that the model finds in it, `(T, 5)`."""

    data: bytes
    expected: np.ndarray


def random_checkpoint(name: str, folder: Path) -> Path:
    """A published model with random weights, as a checkpoint."""
    card = zoo.find(name)
    torch.manual_seed(0)
    model = card.build()
    names = {"classes": card.classes, "category_ids": card.category_ids, "eval_transform": card.eval_transform}
    path = folder / f"{name}.ckpt"
    torch.save(write({}, model["backbone"], model["head"], **names), path)
    return path


def drawn(count: int, side: int) -> list[bytes]:
    """Distinct JPEG files of coarse noise."""
    rng, files = np.random.default_rng(0), []
    for _ in range(count):
        file = io.BytesIO()
        blocks = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        blocks.resize((side, side * 3 // 4), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def told(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes.reshape(-1, 4), scores.reshape(-1, 1)], 1)


class Bare(NamedTuple):
    """Images per second of the model alone and of `Detector.predict`, and the latter's seconds of CPU for an image."""

    model: float
    predict: float
    cpu: float


def bare(detector: vitdet.Detector, files: list[bytes], batch: int, seconds: float) -> Bare:
    """The model alone gets transformed images; `Detector.predict` gets files, which it decodes in turn."""
    arrays = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in (files * batch)[:batch]]
    x = [detector.transform(array).to(detector.device) for array in arrays]
    sizes = [array.shape[:2] for array in arrays]

    def infer() -> None:
        with torch.inference_mode():
            detector.infer(x, sizes)

    def predict() -> None:
        images = [Image.open(io.BytesIO(data)) for data in (files * batch)[:batch]]
        detector.predict(images, batch_size=batch)

    return Bare(_rate(infer, batch, seconds)[0], *_rate(predict, batch, seconds))


def _rate(function, batch: int, seconds: float) -> tuple[float, float]:
    """Images per second, and seconds of CPU for an image."""
    function()
    times, began, end = [], cpu(os.getpid()), time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return batch / statistics.median(times), (cpu(os.getpid()) - began) / len(times) / batch


class Load:
    """Clients that send images to a server until a time is over.

    Attributes:
        seconds: how long each answer took.
        wrong: answers that are not those of their image.
        other: statuses other than 200, and connections that broke.
    """

    def __init__(self, host: str, port: int, samples: list[Sample], threshold: float) -> None:
        self._place, self._samples, self._threshold = (host, port), samples, threshold
        self.seconds: list[float] = []
        self.wrong, self.other = 0, dict[str, int]()
        self._next = 0

    async def run(self, clients: int, seconds: float) -> float:
        """Images per second, counted from the first request to the last answer."""
        began = time.perf_counter()
        await asyncio.gather(*(self._client(began + seconds) for _ in range(clients)))
        return len(self.seconds) / (time.perf_counter() - began)

    async def _client(self, end: float) -> None:
        reader, writer = await asyncio.open_connection(*self._place)
        while time.perf_counter() < end:
            sample = self._samples[self._next % len(self._samples)]
            self._next += 1
            began = time.perf_counter()
            try:
                status, body = await self._ask(reader, writer, sample.data)
            except (OSError, asyncio.IncompleteReadError) as error:
                self._count(type(error).__name__)
                return
            if status != "200":
                self._count(status)
                await asyncio.sleep(1)
                continue
            self.seconds.append(time.perf_counter() - began)
            self._check(sample, body)
        writer.close()

    async def _ask(self, reader, writer, data: bytes) -> tuple[str, bytes]:
        head = f"POST /predict?masks=none&threshold={self._threshold} HTTP/1.1\r\nHost: localhost\r\n"
        writer.write(f"{head}Content-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(re.search(r"content-length: (\d+)", answer)[1])
        return answer.split(" ", 2)[1], await reader.readexactly(length)

    def _check(self, sample: Sample, body: bytes) -> None:
        objects = json.loads(body)["objects"]
        if not self._same(sample.expected, objects):
            self.wrong += 1

    def _same(self, expected: np.ndarray, objects: list[dict]) -> bool:
        """The objects that score clearly more than the threshold are there, and no others."""
        found = np.array([[*one["box"], one["score"]] for one in objects]).reshape(-1, 5)
        certain = expected[expected[:, 4] > self._threshold + 2e-3]
        return len(found) >= len(certain) and all(
            (np.abs(found - one) <= [0.1, 0.1, 0.1, 0.1, 2e-3]).all(1).any() for one in certain
        )

    def _count(self, what: str) -> None:
        self.other[what] = self.other.get(what, 0) + 1


def serve(model: Path, batch: int) -> tuple[subprocess.Popen, int]:
    """A server of its own process, and its port."""
    command = [sys.executable, "-m", "vitdet", "serve", str(model), "--port", "0", "--max_batch", str(batch)]
    # the last of so many clients waits for all others, which is no fault of the server
    command += ["--timeout", "300"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines = [process.stdout.readline() for _ in range(2)]
    return process, int(re.search(r":(\d+)/", lines[1])[1])


def cpu(pid: int) -> float:
    """Seconds that a process has computed, on all cores; 0 where the system does not tell."""
    stat = Path(f"/proc/{pid}/stat")
    words = stat.read_text().rpartition(")")[2].split() if stat.exists() else ["0"] * 13
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> str:
    """The most memory that a process has had; Linux alone tells."""
    status = Path(f"/proc/{pid}/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return f"{int(found[1]) / 1024:,.0f} MB" if found else "?"


def measure(model: Path, samples: list[Sample], threshold: float, batch: int, clients: int, seconds: float) -> Load:
    process, port = serve(model, batch)
    try:
        load = Load("127.0.0.1", port, samples, threshold)
        began = cpu(process.pid)
        load.rate = asyncio.run(load.run(clients, seconds))
        load.cpu = (cpu(process.pid) - began) / max(1, len(load.seconds))
        load.memory = memory(process.pid)
    finally:
        process.terminate()
        load.last = process.communicate(timeout=60)[0].strip()
    return load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--images", type=Path, help="a folder of JPEG files; drawn ones by default")
    parser.add_argument("--count", type=int, default=32, help="distinct images")
    parser.add_argument("--side", type=int, default=640, help="longer side of drawn images")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(options.model)
        known = zoo.of(options.model)[0]
        model = model if known is None else random_checkpoint(options.model, Path(folder))
        paths = sorted(options.images.glob("*.jpg"))[: options.count] if options.images else []
        files = [path.read_bytes() for path in paths] or drawn(options.count, options.side)
        report(model, files, options)


def report(model: Path, files: list[bytes], options: argparse.Namespace) -> None:
    detector = vitdet.load(model)
    found = [detector.predict(Image.open(io.BytesIO(data)), threshold=0.0) for data in files]
    scores = sorted((score for one in found for score in one.scores.tolist()), reverse=True)
    threshold = scores[min(len(scores), OBJECTS * len(files)) - 1]
    samples = [Sample(data, told(p.boxes_xyxy.numpy(), p.scores.numpy())) for data, p in zip(files, found)]
    threads = torch.get_num_threads()
    table = Table(title=f"{options.model}: {options.clients} clients, {options.seconds:g} s, {threads} threads")
    for column in (
        "batch",
        "model alone",
        "predict",
        "server",
        "CPU predict",
        "CPU server",
        "p50",
        "p95",
        "p99",
        "memory",
        "lost",
        "wrong",
    ):
        table.add_column(column, justify="right")
    for batch in options.batches:
        # before and after, the better of the two: other work on the machine must not flatter the server
        before = bare(detector, files, batch, min(10.0, options.seconds))
        load = measure(model, samples, threshold, batch, options.clients, options.seconds)
        after = bare(detector, files, batch, min(10.0, options.seconds))
        alone, predict = max(before.model, after.model), max(before.predict, after.predict)
        spent = min(before.cpu, after.cpu)
        p50, p95, p99 = (f"{np.percentile(load.seconds, q):.2f} s" for q in (50, 95, 99))
        rates = [f"{rate:.1f}/s" for rate in (alone, predict, load.rate)]
        lost = sum(load.other.values())
        table.add_row(
            str(batch),
            *rates,
            f"{1000 * spent:.0f} ms",
            f"{1000 * load.cpu:.0f} ms",
            p50,
            p95,
            p99,
            load.memory,
            str(lost),
            str(load.wrong),
        )
        print(f"batch {batch}: {len(load.seconds)} answers, not answered: {load.other or 0}; {load.last}", flush=True)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
