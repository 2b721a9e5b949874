"""From the bytes of an image to an answer: decoding, batches, the model, and what is told.

H×W is the size of the original image in pixels, h×w that at which masks are made, H'×W' what the model sees.
"""

import asyncio
import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from vitdet import __version__
from vitdet.data.transforms import resize
from vitdet.deploy import Detector
from vitdet.serve.addresses import Fetcher
from vitdet.serve.answer import objects, picture, scaled, work_size
from vitdet.serve.asking import Asked
from vitdet.serve.batching import Batcher
from vitdet.serve.decoding import decode
from vitdet.serve.limits import Limits
from vitdet.serve.metrics import Metrics
from vitdet.serve.refusal import Refusal
from vitdet.structures import Prediction
from vitdet.thresholds import Threshold

T = TypeVar("T")
# of all bodies together that are held at a time, in the largest allowed images
HELD = 16


@dataclass
class Job:
    """An image on its way to the model: `x` `(3, H', W')`, the sizes, and the pixels `(h, w, 3)` for a picture."""

    x: Tensor
    size: tuple[int, int]
    asked_size: tuple[int, int]
    image: np.ndarray | None


@dataclass
class Found:
    """What the model found, how many images it saw with it, and when it began and ended."""

    prediction: Prediction
    batch: int
    began: float
    ended: float


class Service:
    """Answers requests for predictions; all methods but `held` run in one event loop.

    Args:
        detector: the model.
        name, version: what its answers call it.
        limits: how much is taken at a time.
        fetcher: fetches images at addresses.
    """

    def __init__(self, detector: Detector, *, name: str, version: str, limits: Limits, fetcher: Fetcher) -> None:
        self.detector, self.name, self.version, self.limits = detector, name, version, limits
        self._fetcher, self.metrics = fetcher, Metrics(name, version)
        self._waiting = self._bytes = 0
        self.answered, self._seconds = 0, 0.1
        self.state = "starting"
        # masks and maps of every pixel, of which a single large image would fill the memory
        self.dense = False
        self._threads = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "vitdet-images")
        self._fetching = ThreadPoolExecutor(16, "vitdet-fetch")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Accepts requests inside; at the end all that were accepted have been answered."""
        batcher = Batcher(
            self._infer,
            max_batch=self.limits.max_batch,
            max_wait=self.limits.max_wait / 1000,
            size=lambda job: job.x[0].numel(),
            max_size=self.limits.batch_pixels,
        )
        self._batcher, self._work = batcher, asyncio.create_task(batcher.work())
        # so many images are decoded at a time, or wait for the model decoded; the others wait as files
        self._decoded = asyncio.Semaphore(2 * self.limits.max_batch)
        self.state = "ready"
        try:
            yield
        finally:
            self.state = "stopping"
            await batcher.stop(self._work)
            self._threads.shutdown()
            self._fetching.shutdown()

    @property
    def alive(self) -> bool:
        """Whether the model is still being run."""
        return not self._work.done()

    def warm_up(self) -> None:
        """Runs the model once, which allocates what it needs and tells whether it makes masks."""
        found = self._infer([self._job(np.zeros((64, 64, 3), np.uint8), Asked(b""))])[0].prediction
        self.dense = any(part is not None for part in (found.masks, found.semantic, found.panoptic))

    @contextlib.contextmanager
    def held(self, count: int) -> Iterator[None]:
        """Counts bytes of a body as held.

        Raises:
            Refusal: 429; too many are held.
        """
        if self._bytes + count > HELD * self.limits.max_bytes:
            raise Refusal(429, "too many images are being sent; try again", retry_after=self._when())
        self._bytes += count
        try:
            yield
        finally:
            self._bytes -= count

    def check_room(self) -> None:
        """Raises a `Refusal`, 429 or 503, where no more images are accepted."""
        if self.state != "ready":
            raise Refusal(503, f"the server is {self.state}", retry_after=5)
        if self._waiting >= self.limits.queue:
            raise Refusal(429, f"{self._waiting} images are waiting; try again", retry_after=self._when())

    async def answer(self, asked: Asked) -> tuple[bytes, str]:
        """The body of the answer, and its content type.

        Raises:
            Refusal: the image can't be used, there is no room for it, or it took too long.
        """
        self.check_room()
        self._waiting += 1
        self.metrics.waiting.set(self._waiting)
        began = time.perf_counter()
        try:
            answer = await asyncio.wait_for(self._answer(asked, began), self.limits.timeout)
        except asyncio.TimeoutError as error:
            text = f"no answer within {self.limits.timeout:g} seconds; try again when fewer images are waiting"
            raise Refusal(504, text, retry_after=self._when()) from error
        finally:
            self._waiting -= 1
            self.metrics.waiting.set(self._waiting)
        self.answered += 1
        return answer

    async def _answer(self, asked: Asked, began: float) -> tuple[bytes, str]:
        data = asked.image
        if isinstance(data, str):
            # in threads of its own: a slow address must not hold up the images that are here
            data = await asyncio.get_running_loop().run_in_executor(self._fetching, self._fetcher.fetch, data)
        fetched = time.perf_counter()
        async with self._decoded:
            started = time.perf_counter()
            job = await self._in_thread(lambda: self._job(self._pixels(data), asked))
            decoded = time.perf_counter()
            found: Found = await self._batcher.submit(job)
        stages = {"decode": decoded - started, "model": found.ended - found.began}
        # before it was decoded, and before its batch began
        stages = {"wait": started - fetched + max(0.0, found.began - decoded), **stages}
        for stage, seconds in stages.items():
            self.metrics.stages.labels(stage).observe(seconds)
        timing = {**{f"{stage}_ms": round(1000 * value, 1) for stage, value in stages.items()}, "batch": found.batch}
        return await self._in_thread(lambda: self._told(asked, job, found.prediction, timing, began))

    def _pixels(self, data: bytes) -> np.ndarray:
        return decode(data, self.detector.transform, self.limits)

    def _job(self, array: np.ndarray, asked: Asked) -> Job:
        size = array.shape[:2]
        work = work_size(size)
        image = None if asked.output == "json" else resize(array, *work)
        return Job(self.detector.transform(array), size, work if self.dense else size, image)

    @torch.inference_mode()
    def _infer(self, jobs: list[Job]) -> list[Found]:
        began = time.perf_counter()
        x = [job.x.to(self.detector.device) for job in jobs]
        predictions = [found.cpu() for found in self.detector.infer(x, [job.asked_size for job in jobs])]
        ended = time.perf_counter()
        self._seconds = 0.9 * self._seconds + 0.1 * (ended - began) / len(jobs)
        self.metrics.batches.observe(len(jobs))
        for prediction in predictions:
            prediction.names, prediction.category_ids = self.detector.classes, self.detector.category_ids
        return [Found(prediction, len(jobs), began, ended) for prediction in predictions]

    def _told(
        self, asked: Asked, job: Job, prediction: Prediction, timing: dict[str, Any], began: float
    ) -> tuple[bytes, str]:
        threshold = self.thresholds(asked.threshold)
        prediction = prediction.above(threshold)
        if job.image is not None:
            small = prediction if self.dense else scaled(prediction, work_size(job.size))
            return picture(small, job.image, asked.output), f"image/{asked.output}"
        told = {
            "model": {"name": self.name, "version": self.version, "vitdet": __version__},
            "size": {"width": job.size[1], "height": job.size[0]},
            "threshold": threshold,
            "objects": objects(prediction, job.size, asked.masks),
            "timing": {**timing, "total_ms": round(1000 * (time.perf_counter() - began), 1)},
        }
        return json.dumps(told, ensure_ascii=False, allow_nan=False).encode(), "application/json"

    def thresholds(self, asked: Threshold | None) -> Threshold:
        """The threshold that a request means: those of the model where it says none."""
        own = self.detector.thresholds
        if asked is None:
            return own
        return [b if math.isnan(a) else a for a, b in zip(asked, own)] if isinstance(asked, list) else asked

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    def _when(self) -> int:
        """Seconds until what is waiting now should have been answered."""
        return max(1, math.ceil(self._waiting * self._seconds))


def version_of(model: str | Path) -> str | None:
    """The first 12 digits of the SHA-256 of a model's files; `None` for what is neither a file nor a folder."""
    path = Path(model)
    # a folder holds a model and its description, and OpenVINO writes weights beside the graph
    files = [path / "model.safetensors"] if path.is_dir() else [path, path.with_suffix(".bin")]
    if not files[0].is_file():
        return None
    digest = hashlib.sha256()
    for name in dict.fromkeys(file for file in files if file.is_file()):
        with name.open("rb") as file:
            while piece := file.read(2**20):
                digest.update(piece)
    return digest.hexdigest()[:12]
