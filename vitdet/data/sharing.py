"""How a global batch, the images of one optimiser step, is shared out over processes and over accumulated batches.

The global batches of an epoch follow from the order of its images alone. A run that goes on with another number of
processes therefore sees the same ones: each process then takes fewer images, or takes its images in more batches.

W processes, A batches of a process in a step, K budgets of tokens in a global batch
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vitdet.errors import UserError


class Sharing(NamedTuple):
    """The size of a global batch, and who takes which part of it.

    Attributes:
        size: the number of images in a global batch or, with `max_tokens`, of budgets.
        max_tokens: the most tokens in a budget, which an image with more tokens fills alone; `None` where images are
            counted.
        ranks: the number of processes.
        accumulate: the number of batches of a process in a global batch.
    """

    size: int
    max_tokens: int | None = None
    ranks: int = 1
    accumulate: int = 1

    @classmethod
    def of(cls, batch_size: int, max_tokens: int | None, ranks: int = 1, accumulate: int = 1) -> "Sharing":
        """Where each process takes `accumulate` batches of `batch_size` images, or of `max_tokens` tokens."""
        return cls(ranks * accumulate * (1 if max_tokens else batch_size), max_tokens, ranks, accumulate)

    def on(self, ranks: int, batch_size: int) -> "Sharing":
        """The same global batch on another number of processes, where a batch has at most `batch_size` images.

        Raises:
            UserError: so many processes can't share it equally.
        """
        if self.max_tokens is None and self.size % ranks == 0:
            share = self.size // ranks
            least = next(a for a in range(1, share + 1) if share % a == 0 and share // a <= batch_size)
            return self._replace(ranks=ranks, accumulate=least)
        if self.max_tokens is not None and (self.size % ranks == 0 or ranks % self.size == 0):
            return self._replace(ranks=ranks, accumulate=max(1, self.size // ranks))
        key, fits = "batch_size", "divides"
        if self.max_tokens is not None:
            key, fits = "max_tokens", "divides, or is a multiple of,"
        raise UserError(
            f"a global batch of the checkpoint has {self.describe()}, which {ranks} processes can't share equally; "
            f"go on with a number of processes that {fits} {self.size}, or set another data.{key}, which holds from "
            "here on"
        )

    def describe(self) -> str:
        """How much is in a global batch, in words."""
        if self.max_tokens is None:
            return f"{self.size} image{'s' * (self.size > 1)}"
        return f"{self.size} times at most {self.max_tokens} tokens"

    def describe_share(self) -> str:
        """What each process takes of it, in words."""
        batches = f"{self.accumulate} accumulated batches of " if self.accumulate > 1 else ""
        if self.max_tokens is None:
            images = self.size // (self.ranks * self.accumulate)
            share = f"{images} image{'s' * (images > 1)}"
        else:
            parts = self.ranks // self.size
            share = f"at most {self.max_tokens} tokens" + (f", shared by {parts}" if parts > 1 else "")
        return f"{self.ranks} process{'es' * (self.ranks > 1)}, {batches}{share} each"

    def fitted(self, images: int) -> "Sharing":
        """With fewer accumulated batches, if an epoch has so few `images` that a batch of a process would be empty."""
        if self.max_tokens is not None or images >= self.size:
            return self
        return self._replace(accumulate=min(self.accumulate, max(1, images // self.ranks)))

    def cut(self, order: np.ndarray, tokens: np.ndarray, steps: int | None = None) -> list[list[np.ndarray]]:
        """The global batches of an epoch: each a single part, or its budgets.

        Images that do not fill another global batch are left out, unless they are all.

        Args:
            order: the images of the epoch; those from `len(tokens)` on are repetitions.
            tokens: the number of tokens of each image.
            steps: how many global batches there are to be; the first ones are repeated if there are fewer.
        """
        if self.max_tokens is None:
            rounds = [order[i : i + self.size] for i in range(0, max(1, len(order) - self.size + 1), self.size)]
            return [[rounds[i % len(rounds)]] for i in range(len(rounds) if steps is None else steps)]
        budgets = self._budgets(order, tokens)
        steps = max(1, len(budgets) // self.size) if steps is None else steps
        return [[budgets[(step * self.size + k) % len(budgets)] for k in range(self.size)] for step in range(steps)]

    def _budgets(self, order: np.ndarray, tokens: np.ndarray) -> list[np.ndarray]:
        budgets, start, used = [], 0, 0
        for i, count in enumerate(tokens[order % len(tokens)].tolist()):
            if i > start and used + count > self.max_tokens:
                budgets.append(order[start:i])
                start, used = i, 0
            used += count
        return [*budgets, order[start:]]

    def deal(self, batch: Sequence[np.ndarray], rank: int) -> list[np.ndarray]:
        """The batches of a process in a global batch, none of which is empty.

        Where there are fewer images than processes, some images are repeated.
        """
        if self.max_tokens is None:
            # (G,) -> A parts, of which process r takes images r, r+W, ...
            images = _at_least(self.ranks * self.accumulate, batch[0])
            return [part[rank :: self.ranks] for part in np.array_split(images, self.accumulate)]
        if self.size >= self.ranks:
            return [batch[i * self.ranks + rank] for i in range(self.accumulate)]
        # several processes share a budget
        parts = self.ranks // self.size
        return [_at_least(parts, batch[rank // parts])[rank % parts :: parts]]


def _at_least(count: int, images: np.ndarray) -> np.ndarray:
    return np.resize(images, count) if len(images) < count else images
