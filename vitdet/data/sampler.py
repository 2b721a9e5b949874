"""The batch samplers and the loader, which give equal batches for any number of ranks and workers, and after a resume.

A `Draw` holds everything that a sample depends on besides the seed. The order of the images is a function of the seed
and the epoch; each rank takes its share of every global batch, see `vitdet.data.sharing`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Sampler

from vitdet.data.bad import Bad, Noted
from vitdet.data.options import RANGES
from vitdet.data.repeats import rounded
from vitdet.data.sharing import Sharing
from vitdet.data.workers import shielded
from vitdet.errors import UserError
from vitdet.progress import Progress
from vitdet.ranges import ranged


def count_tokens(
    index: Any,
    size: Callable[[int, int, float], tuple[int, int]],
    *,
    scale: float,
    patch: int,
    canvas: int | None,
    crop: tuple[int, int] | None,
) -> list[int]:
    """How many patches each image has.

    Args:
        index: has the heights and widths of the images.
        size: gives `(H, W)` to which an image of a height and a width is resized, times `scale`.
        scale: see `size`.
        patch: the side of a patch in pixels.
        canvas: the side of the square on which the model sees each image, if there is one.
        crop: the largest `(H, W)` of an image.
    """
    if canvas is not None:
        return [(canvas // patch) ** 2] * len(index.heights)
    sizes = (size(h, w, scale) for h, w in zip(index.heights.tolist(), index.widths.tolist()))
    if crop is not None:
        sizes = ((min(h, crop[0]), min(w, crop[1])) for h, w in sizes)
    return [ceil(h / patch) * ceil(w / patch) for h, w in sizes]


class Draw(NamedTuple):
    """The request for a sample, which a batch sampler makes and a data set answers.

    Attributes:
        index: the position of the image in the data set.
        epoch: the epoch for which the sample is made.
        progress: the fraction of the training that is done, in [0, 1].
        scale: the factor by which the usual size of the image is multiplied.
        repetition: how often the epoch has drawn the image before.
    """

    index: int
    epoch: int = 0
    progress: float = 0.0
    scale: float = 1.0
    repetition: int = 0


class BatchSampler(Sampler[list[Draw]]):
    """Shuffled training batches of a fixed number of images, or of at most `max_tokens` tokens.

    Args:
        tokens: the number of tokens (patches) of each image at the largest scale.
        batch_size: the number of images in a batch of a rank.
        max_tokens: the most tokens in a batch of a rank, instead of `batch_size`. An image with more tokens makes a
            batch by itself.
        scales: the range from which the scale of each batch is drawn. Batches at a small scale cost less time and
            memory.
        progressive: whether the scale grows from the lowest to the highest of `scales` over the first 80 % of the
            training, instead of being drawn at random.
        seed: the seed of the order and of the scales.
        progress: how much of the training is done.
        repeats: how often an epoch draws each image, on average; by default once. The number of batches is that of the
            first epoch.
        rank: the number of this process, from 0.
        world_size: the number of processes.

    Attributes:
        sharing: how a global batch is shared out; by default each rank takes one batch of it.
        same_order: whether every epoch repeats the batches of the first, as Lightning's `overfit_batches` requires. The
            augmentation still differs between epochs.

    Raises:
        UserError: an argument is out of range.

    Example:
        >>> options = dict(scales=(1.0, 1.0), progressive=False, seed=0, progress=Progress(max_epochs=1))
        >>> batches = list(BatchSampler([64] * 6, batch_size=2, max_tokens=None, **options))
        >>> [len(batch) for batch in batches], sorted(draw.index for batch in batches for draw in batch)
        ([2, 2, 2], [0, 1, 2, 3, 4, 5])
    """

    @ranged(RANGES)
    def __init__(
        self,
        tokens: Sequence[int],
        *,
        batch_size: int,
        max_tokens: int | None,
        scales: tuple[float, float],
        progressive: bool,
        seed: int,
        progress: Progress,
        repeats: np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.progress, self.repeats = progress, repeats
        self.tokens, self.scales, self.progressive, self.seed = np.asarray(tokens), scales, progressive, seed
        self.rank = rank
        self.epoch = self.position = 0
        self.same_order = False
        # Lightning calls `set_epoch` of this attribute
        self.sampler = self
        self.share(Sharing.of(batch_size, max_tokens, world_size))

    def share(self, sharing: Sharing) -> None:
        """Shares out the global batches in another way, before the first batch is drawn."""
        order = self._order(epoch=0)
        self.sharing = sharing.fitted(len(order))
        self._steps = len(self.sharing.cut(order, self.tokens))
        self._planned: tuple[int, list[list[np.ndarray]]] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; Lightning calls this at the start of each."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        return self.state_at(self.position)

    def state_at(self, position: int) -> dict[str, Any]:
        """The state after `position` batches of this rank, with all that another number of ranks needs to go on."""
        done = self._global_batches()[: position // self.sharing.accumulate]
        images = sum(len(part) for batch in done for part in batch)
        return {"epoch": self.epoch, "position": position, "images": images, "sharing": self.sharing._asdict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]
        # checkpoints of an older vitdet don't say how they shared out their batches
        before = Sharing(**state["sharing"]) if "sharing" in state else self.sharing
        if (before.size, before.max_tokens) != (self.sharing.size, self.sharing.max_tokens):
            # the whole global batches that fit into what was drawn
            sizes = [sum(map(len, batch)) for batch in self._global_batches()]
            steps = int(np.searchsorted(np.cumsum(sizes), state["images"], side="right"))
            self.position = steps * self.sharing.accumulate
        elif before != self.sharing:
            # gradients that were accumulated for an unfinished step are not in a checkpoint
            self.position = self.position // before.accumulate * self.sharing.accumulate

    def __len__(self) -> int:
        """The number of batches of this rank, which is equal in every epoch, so that a schedule knows the total.

        With `max_tokens` or `repeats`, the number of batches depends on the order of the images. An epoch that has more
        batches than the first leaves out the last; an epoch that has fewer repeats its first, and so do epochs with
        fewer budgets of tokens than a global batch has.
        """
        return self._steps * self.sharing.accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        batches, epoch, total, accumulate = self._global_batches(), self.epoch, len(self), self.sharing.accumulate
        rng = np.random.default_rng((self.seed, epoch, 1))
        random_scales = rng.uniform(*self.scales, size=self._steps)
        images = len(self.tokens)
        for position in range(self.position, total):
            # the batches of a step have the same scale on any number of ranks
            step, part = divmod(position, accumulate)
            progress = self.progress.at(epoch, step * accumulate, total)
            low, high = self.scales
            scale = low + (high - low) * min(1.0, progress / 0.8) if self.progressive else float(random_scales[step])
            self.position = position + 1
            drawn = self.sharing.deal(batches[step], self.rank)[part].tolist()
            yield [Draw(i % images, epoch, progress, scale, i // images) for i in drawn]
        self.position = 0

    def _global_batches(self) -> list[list[np.ndarray]]:
        """All global batches of the epoch, each a list of parts, see `Sharing.cut`."""
        epoch = 0 if self.same_order else self.epoch
        if self._planned is None or self._planned[0] != epoch:
            self._planned = (epoch, self.sharing.cut(self._order(epoch), self.tokens, self._steps))
        return self._planned[1]

    def _order(self, epoch: int) -> np.ndarray:
        """The images of an epoch; repetitions of an image are higher by multiples of the number of images."""
        rng = np.random.default_rng((self.seed, epoch, 0))
        if self.repeats is None:
            return rng.permutation(len(self.tokens))
        return rng.permutation(rounded(self.repeats, np.random.default_rng((self.seed, epoch, 2))))


class EvalBatchSampler(Sampler[list[Draw]]):
    """Evaluation batches, in which every image occurs exactly once over all ranks.

    The numbers of images of the ranks may differ. Images of similar size are in a batch together. With fewer images
    than ranks some images are repeated, because the other ranks would wait for a rank that has no image and skips the
    validation; the metrics count repeated images once.

    Args:
        tokens: the number of tokens (patches) of each image.
        batch_size: the number of images in a batch of a rank.
        rank: the number of this process, from 0.
        world_size: the number of processes.

    Raises:
        UserError: `batch_size` is out of range.

    Example:
        >>> [[draw.index for draw in batch] for batch in EvalBatchSampler([10, 40, 20], batch_size=2)]
        [[1, 2], [0]]
    """

    @ranged(RANGES)
    def __init__(self, tokens: Sequence[int], *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        order = np.argsort(-np.asarray(tokens), kind="stable")
        order = (np.resize(order, world_size) if 0 < len(order) < world_size else order)[rank::world_size]
        self.batches = [[Draw(int(i)) for i in order[j : j + batch_size]] for j in range(0, len(order), batch_size)]

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: the batches do not depend on the epoch."""

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self.batches)


class Loader(DataLoader):
    """A DataLoader that counts the batches it has returned, so that a run can be resumed in the middle of an epoch.

    It raises the `UserError` of a worker, such as for a damaged image, without change; torch would add the traceback of
    the worker to the message.

    Args:
        bad: where it is noted which images the data set skipped.
        options: see `torch.utils.data.DataLoader`.

    Attributes:
        waited: the seconds that the process has waited for batches.
    """

    _given = 0
    waited = 0.0

    def __init__(self, *args: Any, bad: Bad | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.bad = bad

    def __iter__(self) -> Iterator[Any]:
        self._given = getattr(self.batch_sampler, "position", 0)
        batches, end = shielded(self, super().__iter__), object()
        while (batch := self._next(batches, end)) is not end:
            if isinstance(batch, UserError):
                raise batch
            if isinstance(batch, Noted):
                if self.bad is not None:
                    for i, reason in batch.notes:
                        self.bad.add(i, reason)
                batch = batch.batch
            self._given += 1
            yield batch
        self._given = 0

    def _next(self, batches: Iterator[Any], end: Any) -> Any:
        start = time.perf_counter()
        try:
            batch = next(batches, end)
        except RuntimeError as error:
            # torch says so of a worker that was killed, for which it knows no more than the signal
            if not str(error).startswith("DataLoader worker (pid"):
                raise
            raise UserError(
                f"a process that loads data has ended ({str(error).rstrip('.')}): most often the memory, or the shared "
                "memory, is full; set a smaller data.num_workers, or 0 to see the reason"
            ) from error
        self.waited += time.perf_counter() - start
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The epoch and the number of batches returned, without the batches that workers have prepared in advance."""
        if isinstance(self.batch_sampler, BatchSampler):
            return self.batch_sampler.state_at(self._given)
        return {"epoch": getattr(self.batch_sampler, "epoch", 0), "position": self._given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if isinstance(self.batch_sampler, BatchSampler):
            self.batch_sampler.load_state_dict(state)
            # a run that resumes with a validation may save again before it has drawn a batch
            self._given = self.batch_sampler.position
