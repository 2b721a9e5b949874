"""Which images make a batch: the same on any number of ranks and workers, and after a resume.

A draw says all that a sample depends on. The order is that of (seed, epoch); rank r takes its share of each global batch.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Sampler

from vitdet.data.options import RANGES
from vitdet.errors import UserError
from vitdet.progress import Progress
from vitdet.ranges import ranged


class Draw(NamedTuple):
    """One sample to make: image number `index` in `epoch`, after `progress` in [0, 1] of the training, at `scale` times the usual size."""

    index: int
    epoch: int = 0
    progress: float = 0.0
    scale: float = 1.0


class BatchSampler(Sampler[list[Draw]]):
    """Shuffled training batches of a fixed number of images, or of at most `max_tokens` tokens.

    Args:
        tokens: how many tokens each image has at the largest scale.
        batch_size: images in a batch of one rank.
        max_tokens: instead, tokens in a batch of one rank; an image with more is a batch of its own.
        scales: each batch is made at one scale from this range: a random one, or, with `progressive`, from the lowest to the highest over the first
            80 % of the training. Batches at a small scale cost less.
        seed: of the order and of the scales.
        progress: how far the training is.

    Attributes:
        same_order: every epoch has the batches of the first, as Lightning's `overfit_batches` wants; augmentation still differs.
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
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.progress = progress
        self.tokens, self.batch_size, self.max_tokens = np.asarray(tokens), batch_size, max_tokens
        self.scales, self.progressive, self.seed = scales, progressive, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = self.position = 0
        self.same_order = False
        self.sampler = self  # where Lightning looks for `set_epoch`
        self._length = max(1, len(self._batches(epoch=0)) // world_size)
        self._planned: tuple[int, list[np.ndarray]] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of each epoch."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]

    def __len__(self) -> int:
        """Batches of this rank in every epoch, so that a schedule knows how long the training is.

        A token budget may fill one more or fewer in another order: then the last is left out, or the first comes again. So it
        does where there are fewer batches than ranks.
        """
        return self._length

    def __iter__(self) -> Iterator[list[Draw]]:
        plan, epoch, total = self._plan(), self.epoch, len(self)
        rng = np.random.default_rng((self.seed, epoch, 1))
        random_scales = rng.uniform(*self.scales, size=max(total, 1))
        for step in range(self.position, total):
            progress = self.progress.at(epoch, step, total)
            low, high = self.scales
            scale = low + (high - low) * min(1.0, progress / 0.8) if self.progressive else float(random_scales[step])
            self.position = step + 1
            yield [Draw(int(i), epoch, progress, scale) for i in plan[step * self.world_size + self.rank]]
        self.position = 0

    def _plan(self) -> list[np.ndarray]:
        """All batches of the epoch, those of all ranks in turn."""
        epoch = 0 if self.same_order else self.epoch
        if self._planned is None or self._planned[0] != epoch:
            batches, count = self._batches(epoch), len(self) * self.world_size
            self._planned = (epoch, [batches[i % len(batches)] for i in range(count)])
        return self._planned[1]

    def _batches(self, epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng((self.seed, epoch, 0)).permutation(len(self.tokens))
        return self._by_tokens(order) if self.max_tokens else self._by_count(order)

    def _by_count(self, order: np.ndarray) -> list[np.ndarray]:
        # rank r of N takes images r, r+N, ... of each global batch, whose images are then the same for any N
        share = self.batch_size * self.world_size
        rounds = [order[i : i + share] for i in range(0, len(order), share)]
        if len(rounds) > 1 and len(rounds[-1]) < share:
            rounds.pop()
        elif len(rounds[-1]) < self.world_size:
            rounds[-1] = np.resize(rounds[-1], self.world_size)
        return [batch[rank :: self.world_size] for batch in rounds for rank in range(self.world_size)]

    def _by_tokens(self, order: np.ndarray) -> list[np.ndarray]:
        batches, start, used = [], 0, 0
        for i, count in enumerate(self.tokens[order].tolist()):
            if i > start and used + count > self.max_tokens:
                batches.append(order[start:i])
                start, used = i, 0
            used += count
        return [*batches, order[start:]]


class EvalBatchSampler(Sampler[list[Draw]]):
    """Every image exactly once over all ranks: ranks may have unequal counts. Images of like size share a batch.

    Where there are fewer images than ranks, some come twice: a rank without any would skip the validation, and the others wait for it. The metrics
    count them once.
    """

    @ranged(RANGES)
    def __init__(self, tokens: Sequence[int], *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        order = np.argsort(-np.asarray(tokens), kind="stable")
        order = (np.resize(order, world_size) if 0 < len(order) < world_size else order)[rank::world_size]
        self.batches = [[Draw(int(i)) for i in order[j : j + batch_size]] for j in range(0, len(order), batch_size)]

    def set_epoch(self, epoch: int) -> None:
        """Nothing changes from epoch to epoch."""

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self.batches)


class Loader(DataLoader):
    """A DataLoader that knows how many batches it has handed out, so that a run goes on in the middle of an epoch.

    What the user can put right, such as a damaged image, it raises as it was raised in a worker; torch would put the worker's traceback into the message.
    """

    _given = 0

    def __iter__(self) -> Iterator[Any]:
        self._given = getattr(self.batch_sampler, "position", 0)
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            self._given += 1
            yield batch
        self._given = 0

    def state_dict(self) -> dict[str, int]:
        """Batches handed out, not those that workers have drawn ahead."""
        return {"epoch": getattr(self.batch_sampler, "epoch", 0), "position": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if isinstance(self.batch_sampler, BatchSampler):
            self.batch_sampler.load_state_dict(state)
