"""Sequences of equal length as dense tensors: attention without lists of lengths, for graphs whose sizes are dynamic.

B images, L tokens of an image, P of them in front of all windows, S windows of T tokens: L = P + S*T; heads, d channels
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor


def fixed(x: Tensor, dim: int) -> int:
    """A size of `x` that is the same for all inputs: as a number even where a trace records sizes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return int(x.shape[dim])


@dataclass
class EqualSequences:
    """Describes packed tokens `(B*L, …)`: of each image a sequence of `front` tokens, then `count` windows of `length`.

    Attributes:
        batch: the number of images.
        count, length: the number of windows of an image and of their tokens; one window is the entire image.
        front: how many tokens are a sequence before the windows.
        hidden: `(count, length)` float that is added to the logits of keys, -inf for those that are padding.
        scale: factor of the logits; one over the square root of d if not given.
    """

    batch: int
    count: int
    length: int
    front: int = 0
    hidden: Tensor | None = None
    scale: float | None = None

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Softmax attention `(B*L, heads, d)` inside each sequence."""
        batch, length, heads, channels = self.batch, self.front + self.count * self.length, fixed(q, 1), fixed(v, 2)
        q, k, v = (part.reshape(batch, length, heads, -1) for part in (q, k, v))
        queries, keys, values = (
            (part[:, self.front :] if self.front else part).reshape(batch * self.count, self.length, heads, -1)
            for part in (q, k, v)
        )
        # (S, T) -> (B*S, 1, 1, T)
        mask = None if self.hidden is None else self.hidden.repeat(batch, 1)[:, None, None]
        y = self._softmax(queries, keys, values, mask)
        if self.front:
            y = y.reshape(batch, self.count * self.length, heads, channels)
            q, k, v = (part[:, : self.front] for part in (q, k, v))
            y = torch.cat([self._softmax(q, k, v, None), y], 1)
        return y.reshape(batch * length, heads, channels)

    def _softmax(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention `(S, T, heads, d)`, written out, so that an exporter has nothing to decompose."""
        # a factor of 1 is left out: the graph would multiply by it
        if self.scale != 1.0:
            q = q * (q.shape[-1] ** -0.5 if self.scale is None else self.scale)
        q = q.transpose(1, 2)  # (S, T, heads, d) -> (S, heads, T, d)
        logits = q @ k.permute(0, 2, 3, 1)
        weights = (logits if mask is None else logits + mask).softmax(-1)
        return (weights @ v.transpose(1, 2)).transpose(1, 2)
