"""The data structures that backbone, heads, losses and data sets exchange, and the letters that shapes are written in.

B images, N tokens of all images together, Q queries, C channels, K classes, T objects of an image,
H×W an image in pixels, h×w a grid of tokens
boxes_cxcywh   centre and size, as fractions of the image
boxes_xyxy     corners, in pixels
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitdet.detections import with_tensors
from vitdet.prediction import Prediction as Prediction
from vitdet.thresholds import THRESHOLD as THRESHOLD


def equal_grids(grids: Sequence[tuple[int, int]]) -> list[list[int]]:
    """For each distinct grid, in the order of appearance, the positions in the batch of the images with this grid."""
    members: dict[tuple[int, int], list[int]] = {}
    for i, grid in enumerate(grids):
        members.setdefault((grid[0], grid[1]), []).append(i)
    return list(members.values())


def centres(grid: tuple[int, int], step: tuple[float, float], device: torch.device | None = None) -> Tensor:
    """x and y `(h*w, 2)` of the centres of a grid's cells, row by row; `step` is the height and width of a cell."""
    h, w = grid
    y = (torch.arange(h, device=device) + 0.5) * step[0]
    x = (torch.arange(w, device=device) + 0.5) * step[1]
    return torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1).flatten(0, 1)  # (h, w, 2) -> (h*w, 2)


@dataclass
class Level:
    """A packed feature map of each image: `x` `(N, C)` holds their `h*w` tokens, image after image and row by row.

    A grid starts at the top left corner of its image: the centre of token `(i, j)` is at `(j + 0.5, i + 0.5)` strides.
    If the size of the image is no multiple of the stride, the last row and column extend beyond its border.
    """

    x: Tensor
    grids: list[tuple[int, int]]
    stride: float

    @property
    def lengths(self) -> list[int]:
        return [h * w for h, w in self.grids]

    def maps(self) -> list[Tensor]:
        """The map `(C, h, w)` of each image."""
        parts = self.x.split(self.lengths)
        return [part.T.unflatten(1, grid) for part, grid in zip(parts, self.grids)]  # (h*w, C) -> (C, h, w)

    def centres(self, i: int, size: tuple[int, int]) -> Tensor:
        """x and y `(h*w, 2)` of the tokens of image `i`, as fractions of its size `(H, W)`; above 1 in the padding."""
        height, width = size
        return centres(self.grids[i], (self.stride / height, self.stride / width), self.x.device)

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """Maps `(B, C, h, w)`, zero-padded at the right and bottom, and a mask `(B, h, w)` of the tokens that are no
        padding, or `None` if there is no padding."""
        if len(set(self.grids)) == 1:
            h, w = self.grids[0]
            return self.x.view(len(self.grids), h, w, -1).permute(0, 3, 1, 2), None  # (B*h*w, C) -> (B, C, h, w)
        height, width = (max(side) for side in zip(*self.grids))
        x = self.x.new_zeros(len(self.grids), self.x.shape[1], height, width)
        mask = torch.zeros(len(self.grids), height, width, dtype=torch.bool, device=x.device)
        for i, (image, (h, w)) in enumerate(zip(self.maps(), self.grids)):
            x[i, :, :h, :w] = image
            mask[i, :h, :w] = True
        return x, mask


@dataclass
class UnfinishedTokens:
    """Tokens `x` `(N, C)` before the ViT's last blocks, which a head runs with its queries in front of each image's.

    Images are grouped by grid: `order` has their positions in the batch, `grids` their patch grids, and `lengths` their
    numbers of tokens, of which the first `num_prefix` are not patches. `blocks` are the remaining blocks, each with its
    rotary embeddings `(N, heads or 1, 2*d)` or `None`, and `norm` is the norm after the last block.
    """

    x: Tensor
    lengths: list[int]
    grids: list[tuple[int, int]]
    order: list[int]
    num_prefix: int
    blocks: list[tuple[nn.Module, Tensor | None]]
    norm: nn.Module

    def run(self, i: int, x: Tensor, added: int, allowed: Sequence[Tensor] | None = None) -> Tensor:
        """Block `i` applied to tokens `x`, with `added` tokens in front of each image's; `allowed` as in `attend`."""
        (block, rope), lengths = self.blocks[i], [added + length for length in self.lengths]
        if rope is not None:
            # added tokens have no position in the image: their sines are 0, their cosines 1
            half = rope.shape[-1] // 2
            still = torch.cat([rope.new_zeros(half), rope.new_ones(half)]).expand(added, rope.shape[1], -1)
            rope = torch.cat([part for image in rope.split(self.lengths) for part in (still, image)])
        return block(x, lengths, lengths, rope, allowed)


@dataclass
class Features(Sequence[Level]):
    """The levels that a backbone returns, finest first, and the sizes `(H, W)` in pixels of the images before padding;
    `unfinished` is given if the backbone leaves its last blocks to the head."""

    levels: list[Level]
    sizes: list[tuple[int, int]]
    unfinished: UnfinishedTokens | None = None

    def __getitem__(self, index):
        return self.levels[index]

    def __len__(self) -> int:
        return len(self.levels)


@dataclass
class Target:
    """The objects to be found in an image.

    Attributes:
        boxes_cxcywh: `(T, 4)` float, centre and size as fractions of the image.
        labels: `(T,)` int64, classes 0..K-1.
        size: `(H, W)` in pixels of the image as the model sees it.
        orig_size: `(H, W)` in pixels of the original, upright image.
        image_id: the image's id in the data set.
        masks: `(T, H, W)` bool, if the task needs masks.
    """

    boxes_cxcywh: Tensor
    labels: Tensor
    size: tuple[int, int]
    orig_size: tuple[int, int]
    image_id: int = 0
    masks: Tensor | None = None

    def to(self, device, **kwargs) -> "Target":
        return with_tensors(self, lambda tensor: tensor.to(device, **kwargs))

    def pin_memory(self) -> "Target":
        return with_tensors(self, Tensor.pin_memory)
