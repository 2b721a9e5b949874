"""The image files of a data module: how deep they are, which are missing, and which were skipped."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from vitdet.data.bad import LINES, Bad
from vitdet.data.dataset import Samples, stopping
from vitdet.data.depth import Depth, find_depth
from vitdet.data.look import look
from vitdet.data.names import missing, why
from vitdet.data.sources import ImageSource
from vitdet.errors import DataError, UserError
from vitdet.images import ImageError
from vitdet.remote import Remote, place

log = logging.getLogger("vitdet")
T = TypeVar("T")


class Files:
    """What a data module knows of its image files.

    Args:
        data: the `ImageData`.
    """

    def __init__(self, data: Any) -> None:
        self.data = data
        self._bad: dict[str, Bad] = {}
        self._places: dict[str, Path | Remote] = {}

    def at(self, path: str) -> Path | Remote:
        """What reads from a path or an address; all who read from an address share the list of its files."""
        if path not in self._places:
            reading = self.data.reading
            self._places[path] = place(path, tries=reading.tries, timeout=reading.timeout)
        return self._places[path]

    @functools.cached_property
    def depth(self) -> Depth:
        """How deep images with more than 8 bits a channel are, by a sample of the first split."""
        return find_depth(self.data.make_source(next(iter(self.data.splits))), given=self.data.reading.bit_depth)

    def read_like(self, eval_transform: dict[str, Any]) -> Any:
        """Reads images as deep as a trained model did, whose transform this was; returns the `EvalTransform` of now."""
        bits = eval_transform.get("bit_depth")
        if self.data.reading.bit_depth is None and bits not in (None, self.depth.bits):
            self.depth = Depth(bits, [f"16-bit images: {bits} bits, as in the training"])
            log.info(self.depth.lines[0])
        return self.data.eval_transform()

    def source(self, split: str) -> ImageSource:
        """What reads the images of a split, as deep as they are."""
        source = self.data.make_source(split)
        for part in getattr(source, "sources", [source]):
            part.bit_depth = self.depth.bits
        return source

    def bad(self, split: str) -> Bad:
        """The images of a split that were skipped so far."""
        if split not in self._bad:
            self._bad[split] = Bad(split, len(self.data.index(split)), self.data.reading.max_bad)
        return self._bad[split]

    def check(self, stage: str) -> None:
        """Checks that all files that a stage needs exist, so that none is found missing after hours.

        Args:
            stage: what Lightning calls it: fit, validate, test or predict.

        Raises:
            ImageError: files are missing and stop the run; the message has their number, and what is probably meant.
            DataError: more are missing than may be skipped.
        """
        self._once(lambda: self._check(stage))

    def _check(self, stage: str) -> None:
        for split in self.used(stage):
            source, first = self.data.make_source(split), 0
            for part in getattr(source, "sources", [source]):
                for k, reason in enumerate(getattr(part.index, "bad", ())):
                    # these are not in the index any more, so they have no position in it
                    self.bad(split).add((first, k), reason)
                for what, root, names in part.files():
                    names = dict(names)
                    absent = missing(root, names.items())
                    if absent and self.data.reading.on_bad_image == "error":
                        some = f"{len(absent)} of {len(names)} {what} of {split} can't be read"
                        raise stopping(ImageError(f"{some} ({part.index.path}): {why(root, names[absent[0]])}"))
                    for k, i in enumerate(absent):
                        name = names[i]
                        self.bad(split).add(first + i, why(root, name) if k < LINES else f"{root}/{name} is missing")
                first += len(part)

    def look(self) -> None:
        """Looks at a sample of the splits that the trainer will use, once for all processes, and says what is odd.

        Raises:
            DataError: nothing is left to find, or a sample can't be made.
        """
        if self.data.trainer is not None:
            self._once(self._look)

    def _look(self) -> None:
        for split in self.used(str(self.data.trainer.state.fn.value)):
            loader = self.data.train_dataloader() if split == "train" else self.data.evaluation(split)
            if isinstance(loader.dataset, Samples):
                for line in look(self.data, split, loader.dataset, self.bad(split)):
                    log.warning(line)

    def _once(self, function: Callable[[], None]) -> None:
        """Calls a function in the first process only; its error is raised in all."""
        trainer, error = self.data.trainer, None
        if trainer is None or trainer.is_global_zero:
            try:
                function()
            except UserError as caught:
                error = caught
        if trainer is not None:
            error, reasons = trainer.strategy.broadcast((error, self._reasons()))
            self._know(reasons)
        if error is not None:
            raise error

    def used(self, stage: str) -> list[str]:
        """The splits that a stage of Lightning uses."""
        last = "test" if "test" in self.data.splits else "val"
        wanted = {"fit": ("train", "val"), "validate": ("val",)}.get(stage, (last,))
        return [split for split in wanted if split in self.data.splits]

    def summary(self) -> list[str]:
        """Lines about the images that all processes skipped, for the end of a run; every process must call it."""
        if dist.is_available() and dist.is_initialized():
            parts: list = [None] * dist.get_world_size()
            dist.all_gather_object(parts, self._reasons())
            for part in parts:
                self._know(part)
        return [line for bad in self._bad.values() if (line := bad.summary()) is not None]

    def _reasons(self) -> dict[str, dict[Any, str]]:
        return {split: bad.reasons for split, bad in self._bad.items()}

    def _know(self, reasons: dict[str, dict[Any, str]]) -> None:
        """Takes note of images that another process has spoken of."""
        for split, known in reasons.items():
            self.bad(split).reasons |= known

    def scored(self, split: str, read: Callable[[int], T], void: Callable[[int], T]) -> Callable[[int], T]:
        """A function that reads the labels of an image, given its position, for the scores.

        Args:
            split: the name of the split.
            read: reads the labels.
            void: makes labels in which nothing is scored, in place of those that can't be used and may be skipped.
        """

        def reading(i: int) -> T:
            try:
                return read(i)
            except DataError as error:
                self.bad(split).add(i, f"{error}; it is not scored")
                return void(i)

        return read if self.data.reading.on_bad_image == "error" else reading
