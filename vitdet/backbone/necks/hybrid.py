"""The hybrid encoder of the real-time DETRs: attention on the coarsest level, then fusion from coarse to fine and back.

It follows RT-DETR, Zhao et al. 2023 (arXiv:2304.08069), with the blocks of DEIMv2, Huang et al. 2025
(arXiv:2509.20787), which also adds levels where RT-DETR concatenates them.

b images with equal grids, h×w a grid, C channels; maps are (b, h, w, C), channels last
"""

from collections.abc import Mapping, Sequence
from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitdet.backbone.necks.convolutions import ConvBN
from vitdet.backbone.necks.simple import Neck
from vitdet.errors import UserError
from vitdet.ranges import check_divides, ranged, whole


class RepVGG(nn.Module):
    """The sum of a 3×3 and a 1×1 convolution, and SiLU, Ding et al. 2021 (arXiv:2101.03697)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide, self.narrow = ConvBN(channels, channels, 3), ConvBN(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.wide(x) + self.narrow(x))


class CSPRep(nn.Module):
    """The sum of two halves of the channels, the second after `depth` RepVGG blocks."""

    def __init__(self, in_channels: int, out_channels: int, depth: int) -> None:
        super().__init__()
        self.enter = ConvBN(in_channels, 2 * out_channels, activation=nn.SiLU())
        self.blocks = nn.Sequential(*(RepVGG(out_channels) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        beside, through = self.enter(x).chunk(2, dim=-1)
        return beside + self.blocks(through)


class ELAN(nn.Module):
    """Two halves of the channels, concatenated with the outputs of two `CSPRep` in a row on the second half.

    This is GELAN's block (arXiv:2402.13616) without the convolutions between its stages.
    """

    def __init__(self, channels: int, csp_channels: int, depth: int) -> None:
        super().__init__()
        self.enter = ConvBN(channels, 2 * channels, activation=nn.SiLU())
        self.first = CSPRep(channels, csp_channels, depth)
        self.second = CSPRep(csp_channels, csp_channels, depth)
        self.leave = ConvBN(2 * channels + 2 * csp_channels, channels, activation=nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, dim=-1))
        for stage in (self.first, self.second):
            parts.append(stage(parts[-1]))
        return self.leave(torch.cat(parts, dim=-1))


def grid_embedding(grid: tuple[int, int], channels: int, device: torch.device) -> Tensor:
    """Sines and cosines `(h*w, C)` of the row of each token, then of its column."""
    octave = 10000.0 ** (torch.arange(channels // 4, device=device) * 4 / channels)
    rows, columns = torch.meshgrid(*(torch.arange(side, device=device) for side in grid), indexing="ij")
    angles = [side.flatten()[:, None] / octave for side in (rows, columns)]  # (h, w) -> (h*w, C/4)
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)


class MapAttention(nn.Module):
    """A post-norm transformer layer among the tokens of each map."""

    def __init__(self, channels: int, num_heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, num_heads, batch_first=True)
        self.ffn = nn.Sequential(nn.Linear(channels, ffn_dim), nn.GELU(), nn.Linear(ffn_dim, channels))
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)

    def forward(self, maps: Tensor) -> Tensor:
        x = maps.flatten(1, 2)  # (b, h, w, C) -> (b, h*w, C)
        q = x + grid_embedding(maps.shape[1:3], x.shape[-1], x.device).to(x.dtype)
        x = self.norm1(x + self.attention(q, q, x, need_weights=False)[0])
        return self.norm2(x + self.ffn(x)).view_as(maps)


class HybridNeck(Neck):
    """The hybrid encoder of RT-DETR and DEIMv2: self-attention on the coarsest level, then fusion of all levels.

    Levels start from the taps, concatenated with the stem's maps of equal stride.

    Args:
        channels, taps, patch_size, strides, out_channels, stem: see `Neck`; there is a tap for each level or a single
            tap for all, and each stride is twice the stride before.
        depth: the number of RepVGG blocks in a row.
        csp_channels: channels of the RepVGG blocks; half of `out_channels` if not given.
        ffn_dim: hidden width of the MLP after the self-attention.
        num_heads: attention heads of the self-attention.

    Raises:
        UserError: a stride cannot be reached, or the taps do not fit.

    Example:
        >>> from functools import partial
        >>> from vitdet import Backbone
        >>> backbone = Backbone("vit_tiny_patch16_224", depth=2, neck=partial(HybridNeck, csp_channels=64))
        >>> backbone.strides
        [8, 16, 32]
    """

    several_taps = False

    @ranged({"depth": whole(0), "csp_channels": whole(1), "ffn_dim": whole(1), "num_heads": whole(1)})
    def __init__(
        self,
        channels: int,
        taps: int,
        patch_size: int,
        strides: Sequence[float],
        out_channels: int,
        stem: Mapping[float, int],
        *,
        depth: int = 1,
        csp_channels: int | None = None,
        ffn_dim: int = 1024,
        num_heads: int = 8,
    ) -> None:
        super().__init__()
        # the sines and the cosines of two coordinates have a quarter of the channels each
        check_divides("out_channels", out_channels, num_heads=num_heads, quarters=4)
        self.steps = [log2(patch_size / stride) for stride in strides]
        if any(step != self.steps[0] - i or step != int(step) for i, step in enumerate(self.steps)):
            wanted = [f"{patch_size * 2.0**i:g}" for i in range(-1, 2)]
            raise UserError(f"out_strides is {list(strides)}; HybridNeck doubles them, as in {', '.join(wanted)}")
        if taps not in (1, len(strides)):
            raise UserError(f"got {taps} out_blocks for {len(strides)} levels; HybridNeck wants as many, or one")
        # for each level, the index of the stem's map of equal stride
        self.beside = [list(stem).index(s) if s in stem else None for s in strides]
        widths = [channels + stem.get(s, 0) for s in strides]
        c, fusions = out_channels, range(len(strides) - 1)
        block = {"csp_channels": csp_channels or c // 2, "depth": depth}
        self.enter = nn.ModuleList(ConvBN(width, c) for width in widths)
        self.attend = MapAttention(c, num_heads, ffn_dim)
        self.lateral = nn.ModuleList(ConvBN(c, c) for _ in fusions)
        self.top_down = nn.ModuleList(ELAN(c, **block) for _ in fusions)
        # odd sides are rounded up
        self.halve = nn.ModuleList(nn.Sequential(ConvBN(c, c), ConvBN(c, c, 3, stride=2, groups=c)) for _ in fusions)
        self.bottom_up = nn.ModuleList(ELAN(c, **block) for _ in fusions)

    def forward(self, taps: list[Tensor], stem: list[Tensor]) -> list[Tensor]:
        """Taps `(b, h, w, C)` and the stem's maps to levels `(b, h', w', out_channels)`, finest first."""
        taps = taps if len(taps) > 1 else taps * len(self.steps)
        levels = []
        for tap, step, i, enter in zip(taps, self.steps, self.beside, self.enter):
            parts = [resize(tap, int(step)), *([] if i is None else [stem[i]])]
            levels.append(enter(torch.cat(parts, dim=-1)))
        levels[-1] = self.attend(levels[-1])
        for i, lateral, fuse in zip(reversed(range(len(levels) - 1)), self.lateral, self.top_down):
            levels[i + 1] = lateral(levels[i + 1])
            levels[i] = fuse(levels[i] + double(levels[i + 1], levels[i].shape[1:3]))
        for i, halve, fuse in zip(range(len(levels) - 1), self.halve, self.bottom_up):
            levels[i + 1] = fuse(levels[i + 1] + halve(levels[i]))
        return levels


def resize(x: Tensor, step: int) -> Tensor:
    """Maps `(b, h, w, C)` at `2**step` times the resolution: bilinear if larger, mean values if smaller.

    Odd sides are rounded up.
    """
    if step == 0:
        return x
    x = x.permute(0, 3, 1, 2)  # (b, h, w, C) -> (b, C, h, w)
    if step > 0:
        x = F.interpolate(x, scale_factor=2.0**step, mode="bilinear", align_corners=False)
    else:
        x = F.avg_pool2d(x, 2**-step, ceil_mode=True)
    return x.permute(0, 2, 3, 1)


def double(x: Tensor, size: Sequence[int]) -> Tensor:
    """Maps with every token repeated 2×2 times, cut to `size`, which may be odd."""
    return x.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)[:, : size[0], : size[1]]
