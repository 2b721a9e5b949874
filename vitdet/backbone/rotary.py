"""Rotary embeddings of a grid whose size may be unknown, as in an exported graph; timm's own need it as a number.

h×w the patch grid, d channels of a head
"""

from math import pi
from typing import Any

import torch
from timm.layers.pos_embed_sincos import RotaryEmbeddingCat, RotaryEmbeddingDinoV3, RotaryEmbeddingMixed
from torch import Tensor

from vitdet.errors import UserError


def rotations(rope: Any, grid: tuple[int, int]) -> Tensor:
    """Sine and cosine of the patches, `(blocks or 1, h*w, heads or 1, 2*d)`, as timm's `get_embed` makes them.

    Raises:
        UserError: the rotary embedding is of a kind that is not known here.
    """
    kind_of = type(rope)
    if kind_of is RotaryEmbeddingMixed:
        x, y = _coordinates(rope, grid, "index").flatten(0, 1).unbind(1)
        across, down = rope.freqs.float()  # (blocks, heads, d/2) each
        angles = x[:, None, None] * across[:, None] + y[:, None, None] * down[:, None]
    elif kind_of is RotaryEmbeddingDinoV3:
        points = _coordinates(rope, grid, "centered").flatten(0, 1)
        angles = (2 * pi * points[..., None] / rope.periods).flatten(1)[None, :, None]
    elif kind_of is RotaryEmbeddingCat:
        kind = getattr(rope, "grid_type", "pixel" if rope.in_pixels else "index")
        points = _coordinates(rope, grid, kind).flatten(0, 1)
        angles = (points[..., None] * rope.bands).flatten(1)[None, :, None]
    else:
        raise UserError(f"the model's rotary embedding is a {type(rope).__name__}, which can't be exported")
    if getattr(rope, "rotate_half", False):
        angles = torch.cat([angles, angles], -1)
    else:
        angles = torch.stack([angles, angles], -1).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], -1)


def _coordinates(rope: Any, grid: tuple[int, int], kind: str) -> Tensor:
    """The coordinates `(h, w, 2)` of the patches, in the order of channels of the embedding."""
    offset, reference = getattr(rope, "grid_offset", 0.0), getattr(rope, "ref_feat_shape", None)
    totals = [torch.scalar_tensor(side, dtype=torch.float32) for side in grid]
    whole = {"max": torch.maximum, "min": torch.minimum}.get(getattr(rope, "normalize_coords", "separate"))
    sides = []
    for axis, (side, total) in enumerate(zip(grid, totals)):
        place = torch.arange(side).float()
        if kind == "pixel":
            # as `linspace` from -1 to 1; a single cell is at -1
            place = place * (2 / (total - 1).clamp(min=1)) - 1
        elif kind == "centered":
            place = 2 * ((place + 0.5 + offset) / (total if whole is None else whole(*totals))) - 1
        else:
            place = place + offset
        sides.append(place if reference is None else place / total * reference[axis])
    y, x = sides[0][:, None].expand(*grid), sides[1].expand(*grid)
    return torch.stack([x, y] if rope.grid_indexing == "xy" else [y, x], -1)
