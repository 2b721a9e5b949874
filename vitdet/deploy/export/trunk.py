"""The trunk for images of equal size, dense: its blocks are those of the trained model.

B images, h×w a patch grid, C channels, P prefix tokens, L tokens of an image, N = B*L
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitdet.backbone import Backbone
from vitdet.backbone.rotary import rotations
from vitdet.backbone.sequences import EqualSequences
from vitdet.backbone.trunk import ViT
from vitdet.deploy.export.dynamic import Size, cubic_matrix, divided, resample, rounded_up
from vitdet.deploy.export.places import Cut, RelativePlaces, cut


@dataclass
class Rest:
    """The tokens `(B, L, C)` before the blocks that a head runs, and these blocks with their rotary embeddings
    `(L, heads or 1, 2*d)` or `None`."""

    x: Tensor
    blocks: list[tuple[nn.Module, Tensor | None]]
    norm: nn.Module
    grid: tuple[Size, Size]
    num_prefix: int
    scale: float | None


class DenseTrunk(nn.Module):
    """From patches `(B, h, w, C)` to the taps, each `(B, h, w, C)`, and the tokens for the head if there is a tail."""

    def __init__(self, trunk: ViT) -> None:
        super().__init__()
        self.trunk: Any = trunk
        # of the logits of attention, see `EqualSequences`
        done = trunk.relative or all(getattr(block.attn, "scaled", False) for block in trunk.blocks)
        self.scale = 1.0 if done else None

    def forward(self, patches: Tensor, grid: tuple[Size, Size]) -> tuple[list[Tensor], Rest | None]:
        trunk, batch = self.trunk, patches.shape[0]
        windows = None if trunk.windows is None else cut(trunk.windows, grid)
        x = self._tokens(patches, grid, windows)
        L = x.shape[1]
        ropes = self._ropes(grid, windows)
        packed = [None if rope is None else rope.repeat(batch, 1, 1) for rope in ropes]
        whole, inside = self._sequences(batch, L, windows)
        far, near = self._places(batch, grid, windows)
        x, outputs = trunk.norm_pre(x.flatten(0, 1)), []
        body = len(trunk.blocks) - trunk.tail
        for i, block in enumerate(trunk.blocks[:body]):
            wide = i in trunk.global_blocks
            rope = packed[i] if len(packed) > 1 else packed[0]
            x = block(x, whole if wide else inside, whole, rope, None, far if wide else near)
            if i in trunk.taps:
                outputs.append(self._patches(divided(trunk.norm(x), 0, (batch, L)), grid, windows))
        if not trunk.tail:
            return outputs, None
        blocks = [(block, ropes[i] if len(ropes) > 1 else ropes[0]) for i, block in enumerate(trunk.blocks)][body:]
        return outputs, Rest(divided(x, 0, (batch, L)), blocks, trunk.norm, grid, trunk.num_prefix, self.scale)

    def _tokens(self, patches: Tensor, grid: tuple[Size, Size], windows: Cut | None) -> Tensor:
        """Tokens `(B, L, C)` with positions, in the order of windows."""
        trunk, batch, P = self.trunk, patches.shape[0], self.trunk.num_prefix
        prefix = torch.cat([getattr(trunk, name) for name in trunk.prefix_names], 1) if P else None
        if trunk.pos_embed is not None:
            table = trunk.pos_embed
            if P and trunk.embeds_prefix:
                prefix, table = prefix + table[:, :P], table[:, P:]
            native = divided(table.float(), 1, trunk.native_grid)  # (1, h*w, C) -> (1, h, w, C)
            sides = zip(grid, trunk.native_grid)
            weights = [cubic_matrix(new, old, antialias=trunk.pos_antialias) for new, old in sides]
            patches = patches + resample(native, *weights)
        x = patches.flatten(1, 2)
        if windows is None:
            return x if prefix is None else torch.cat([prefix.expand(batch, -1, -1), x], 1)
        x = x[:, windows.order]
        if prefix is None:
            return x
        if trunk.windows.prefix == "image":
            return torch.cat([prefix.expand(batch, -1, -1), x], 1)
        x = divided(x, 1, (windows.count, windows.length))
        prefix = prefix[:, None].expand(batch, windows.count, -1, -1)
        return torch.cat([prefix, x], 2).flatten(1, 2)

    def _around(self, values: Tensor, windows: Cut | None, first: Tensor) -> Tensor:
        """A value of every token of an image, from those of the patches in the windows' order, dimension 0, and those
        of prefix tokens, `first`."""
        if not self.trunk.num_prefix:
            return values
        if windows is None or self.trunk.windows.prefix == "image":
            return torch.cat([first, values])
        values = divided(values, 0, (windows.count, windows.length))
        first = first[None].expand(windows.count, *first.shape)
        return torch.cat([first, values], 1).flatten(0, 1)

    def _ropes(self, grid: tuple[Size, Size], windows: Cut | None) -> list[Tensor | None]:
        """Sine and cosine `(L, heads or 1, 2*d)`, of all blocks together or for each block."""
        if self.trunk.rope is None:
            return [None]
        tables = []
        for table in rotations(self.trunk.rope, grid).unbind():
            table = table if windows is None else table[windows.order]
            half = torch.zeros(self.trunk.num_prefix, table.shape[1], table.shape[2] // 2)
            tables.append(self._around(table, windows, torch.cat([half, half + 1], -1)))
        return tables

    def _sequences(self, batch: Size, L: Size, windows: Cut | None) -> tuple[EqualSequences, EqualSequences]:
        """The sequences of global blocks and of blocks with windows."""
        if windows is None:
            whole = EqualSequences(batch, 1, L, scale=self.scale)
            return whole, whole
        P, front, hidden = self.trunk.num_prefix, 0, None
        if self.trunk.windows.prefix == "image":
            front, P = P, 0
        if windows.copies is not None:
            hidden = windows.copies.float().masked_fill(windows.copies, -torch.inf)
            hidden = F.pad(hidden, (P, 0)) if P else hidden
        everywhere = None if hidden is None else F.pad(hidden.view(1, -1), (front, 0))
        return (
            EqualSequences(batch, 1, L, 0, everywhere, self.scale),
            EqualSequences(batch, windows.count, P + windows.length, front, hidden, self.scale),
        )

    def _places(self, batch: Size, grid: tuple[Size, Size], windows: Cut | None) -> tuple[Any, Any]:
        """The places of tokens in images and in windows, for relative positions."""
        if not self.trunk.relative:
            return None, None
        h, w = grid
        cell = torch.arange(h * w)
        first = torch.full((2, self.trunk.num_prefix), -1)
        order = cell if windows is None else windows.order
        whole = torch.stack([order // w, order % w])
        places = [whole] if windows is None else [whole, windows.places]
        places = [self._around(place.T, windows, first.T).T for place in places]
        far = RelativePlaces(places[0], batch, grid, grid)
        if windows is None:
            return far, far
        size = self.trunk.windows.size
        return far, RelativePlaces(places[1], batch, windows.extent, (size, size) if size else windows.extent)

    def _patches(self, x: Tensor, grid: tuple[Size, Size], windows: Cut | None) -> Tensor:
        """Tokens `(B, L, C)` to patches `(B, h, w, C)`, row by row."""
        P = self.trunk.num_prefix
        if windows is None:
            return divided(x[:, P:], 1, grid)
        if self.trunk.windows.prefix == "image":
            x = x[:, P:]
        else:
            x = divided(x, 1, (windows.count, P + windows.length))[:, :, P:].flatten(1, 2)
        return divided(x[:, windows.inverse], 1, grid)


class DenseBackbone(nn.Module):
    """From images `(B, 3, H, W)` of equal size to levels `(B, h, w, C)`, finest first."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone, self.dense = backbone, DenseTrunk(backbone.trunk)

    def forward(self, images: Tensor, size: tuple[Size, Size]) -> tuple[list[Tensor], Rest | None]:
        pixels, grid = self._padded(images, size)
        patches, finer = self.backbone.trunk.patch_embed(pixels)
        taps, rest = self.dense(patches, grid)
        if self.backbone.adapter is not None:
            finer = self.backbone.adapter(pixels)
        return taps if self.backbone.neck is None else self.backbone.neck(taps, finer), rest

    def _padded(self, images: Tensor, size: tuple[Size, Size]) -> tuple[Tensor, tuple[Size, Size]]:
        """The images, padded to whole patches or to the canvas, and the grid of their patches."""
        patch, canvas = self.backbone.patch_size, self.backbone.canvas
        grid = tuple(rounded_up(side, patch) for side in size) if canvas is None else (canvas // patch,) * 2
        down, right = (cells * patch - side for cells, side in zip(grid, size))
        if canvas is None:
            return F.pad(images, (0, right, 0, down)), grid
        black = (-torch.tensor(self.backbone.mean) / torch.tensor(self.backbone.std)).view(-1, 1, 1)
        return F.pad(images - black, (0, right, 0, down)) + black, grid
