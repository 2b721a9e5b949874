"""The trunk: a plain ViT of timm, applied to packed tokens.

B images, b of them with equal grids, h×w a patch grid, C channels, P prefix tokens (class, registers)
L tokens of an image: P + h*w, N tokens of all images together, d channels of a head
"""

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitdet.backbone.attention import pack_block
from vitdet.backbone.relative import Places, find_places
from vitdet.backbone.stems import PatchStem, Stem
from vitdet.backbone.windows import Windows, window_layout
from vitdet.config import options
from vitdet.errors import UserError
from vitdet.ranges import INTEGER, listed, whole
from vitdet.structures import UnfinishedTokens

SUPPORTED = (
    "the plain ViTs of timm: VisionTransformer (augreg, DeiT-3, MAE, CLIP, SigLIP, DINO, DINOv2, FlexiViT) "
    "and Eva (EVA-02, DINOv3, RoPE ViT)"
)


def check_plain(model: nn.Module, name: str) -> None:
    """Raises:
    UserError: `model` is not a ViT that the trunk supports.
    """
    plain = type(model) in (VisionTransformer, VisionTransformerDistilled, Eva)
    embed = getattr(model, "patch_embed", None)
    if not plain or type(embed) is not PatchEmbed:
        got = type(model).__name__ + (f" with {type(embed).__name__}" if plain else "")
        raise UserError(f"{name} is a {got}; supported are {SUPPORTED}")
    if embed.patch_size[0] != embed.patch_size[1]:
        raise UserError(f"{name} has patches of {embed.patch_size}; supported are square ones")
    if 0 in embed.grid_size:
        raise UserError(f"{name} has an img_size of {embed.img_size}, less than a patch of {embed.patch_size}")


@options(
    {
        "windows": (
            (lambda v: re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", str(v)) is not None),
            "a size in tokens such as 14, or a count such as '2x2'",
        ),
        "global_blocks": listed(INTEGER, least=0),
        "relative_position": whole(1),
        "canvas": whole(1),
    }
)
class TrunkOptions:
    """How the trunk differs from timm's ViT: windows, position embeddings, padding and memory.

    Args:
        windows: size of attention windows in tokens (`14`), or their number (`"2x2"`), in all blocks but
            `global_blocks` (ViTDet, arXiv:2203.16527).
        global_blocks: the blocks with attention over the entire image; by default the last blocks of the four quarters
            of the ViT.
        window_prefix: in blocks with windows, class and register tokens are either a separate sequence (`"image"`), or
            each window has a copy of them (`"window"`), see `Windows`.
        relative_position: side in tokens of the tables of relative positions, vertical and horizontal, in global blocks
            (64 in ViTDet); there they are resampled to the grid of each image. The tables of all other blocks cover a
            window.
        pos_antialias: whether position embeddings are resampled to the grid of an image with antialiasing, as in timm;
            ViTDet's and LW-DETR's code has plain bicubic resampling.
        canvas: side in pixels of a square to which every image is padded with black, as in the training of many
            published models; this wastes tokens.
        grad_checkpointing: whether training saves memory by computing the blocks again in the backward pass.
    """

    windows: int | str | None = None
    global_blocks: list[int] | None = None
    window_prefix: Literal["image", "window"] = "image"
    relative_position: int | None = None
    pos_antialias: bool = True
    canvas: int | None = None
    grad_checkpointing: bool = False


def quarters(depth: int) -> list[int]:
    return sorted({(i * depth + 3) // 4 - 1 for i in range(1, 5)})  # 12 -> 2, 5, 8, 11


def choose_blocks(option: str, blocks: Sequence[int] | None, depth: int, default: list[int]) -> list[int]:
    """The blocks that an option names, in ascending order; negative numbers count from the last block."""
    if blocks is None:
        return default
    chosen = sorted({block % depth for block in blocks if -depth <= block < depth})
    if len(chosen) != len(blocks):
        raise UserError(f"{option} is {list(blocks)}; the model's blocks are 0 to {depth - 1}, each at most once")
    return chosen


def choose_global_blocks(options: TrunkOptions, depth: int, last: int, prefix: int) -> list[int]:
    """The blocks up to the `last` tap with attention over the entire image, for a ViT with `prefix` prefix tokens."""
    if options.windows is None:
        if options.global_blocks is not None:
            raise UserError("global_blocks needs windows; without windows all blocks are global")
        return list(range(depth))
    chosen = choose_blocks("global_blocks", options.global_blocks, depth, quarters(depth))
    chosen = [block for block in chosen if block <= last]
    if not chosen and prefix and options.window_prefix == "image":
        raise UserError(
            f"no block up to the last tap, {last}, is global, so prefix tokens never meet patches; "
            "add one to global_blocks, or set window_prefix: window"
        )
    return chosen


class ViT(nn.Module):
    """A timm ViT without its classifier, with timm's parameter names.

    Args:
        model: the ViT of timm, whose modules are used.
        taps: the blocks whose output is returned, after the final norm.
        tail: the number of blocks after the last tap that are left to the head; all later blocks are dropped.
        windows: the windows of all blocks but `global_blocks`.
        global_blocks: the blocks with attention over the entire image.
        drop_path, grad_checkpointing, pos_antialias: see `Backbone` and `TrunkOptions`.

    Raises:
        UserError: the model drops patches, or has blocks that a plain ViT does not have.
    """

    def __init__(
        self,
        model: Any,
        *,
        taps: Sequence[int],
        tail: int,
        windows: Windows | None,
        global_blocks: Sequence[int],
        drop_path: float,
        grad_checkpointing: bool,
        pos_antialias: bool,
    ) -> None:
        super().__init__()
        if not isinstance(model.patch_drop, (nn.Identity, type(None))):
            raise UserError("patch_drop_rate would leave holes in the feature maps; leave it at 0")
        self.embed_dim, self.patch_size = model.embed_dim, model.patch_embed.patch_size[0]
        self.taps, self.windows, self.global_blocks = tuple(taps), windows, frozenset(global_blocks)
        self.grad_checkpointing, self.pos_antialias = grad_checkpointing, pos_antialias
        self.patch_embed: PatchStem | Stem = PatchStem(model.patch_embed)
        self.native_grid = model.patch_embed.grid_size
        self.prefix_names = [n for n in ("cls_token", "dist_token", "reg_token") if getattr(model, n, None) is not None]
        for name in self.prefix_names:
            self.register_parameter(name, getattr(model, name))
        self.num_prefix = model.num_prefix_tokens
        self.pos_embed, self.pos_drop = model.pos_embed, model.pos_drop
        self.embeds_prefix = not model.no_embed_class
        self.norm_pre = model.norm_pre
        self.rope: Any = getattr(model, "rope", None)
        # DINOv3 jitters coordinates in training
        self.augments_rope = getattr(self.rope, "aug_active", False)
        depth = len(model.blocks)
        # the rate grows with depth, as in timm
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        blocks = [pack_block(block, drop_path=rate) for block, rate in zip(model.blocks, rates)]
        self.tail = tail
        self.blocks = nn.ModuleList(blocks[: max(self.taps) + 1 + tail])
        self.relative = blocks[0].attn.rel_pos_h is not None
        # in models that average their tokens, the final norm comes after the pooling, and has another name
        self.norm = model.fc_norm if isinstance(model.norm, nn.Identity) else model.norm
        self.keeps_tables = True
        self._tables: dict = {}

    def forward(
        self, patches: list[Tensor], order: Sequence[int]
    ) -> tuple[list[list[Tensor]], UnfinishedTokens | None]:
        """The taps of each group of images with equal grids, and the tokens for the head if there is a tail.

        Args:
            patches: `(b, h, w, C)` of each group.
            order: the position in the batch of each image, group after group.
        """
        counts, grids = [len(x) for x in patches], [(x.shape[1], x.shape[2]) for x in patches]
        # (b, L, C) -> (N, C)
        x = torch.cat([self._with_prefix(x, grid).flatten(0, 1) for x, grid in zip(patches, grids)])
        x = self.norm_pre(self.pos_drop(x))
        lengths, windows = self._lengths(counts, grids, x.device)
        rope = self._rope(counts, grids)
        whole, inside = self._places(counts, grids, x.device)
        outputs, body = [], len(self.blocks) - self.tail
        for i, block in enumerate(self.blocks[:body]):
            sequences, places = (lengths, whole) if i in self.global_blocks else (windows, inside)
            arguments = (x, sequences, lengths, rope[i], None, places)
            if self.grad_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x = block(*arguments)
            if i in self.taps:
                outputs.append(self._patches(self.norm(x), counts, grids))
        rest = None
        if self.tail:
            per_image = [grid for count, grid in zip(counts, grids) for _ in range(count)]
            blocks = list(zip(self.blocks[body:], list(rope)[body:]))
            rest = UnfinishedTokens(x, lengths, per_image, list(order), self.num_prefix, blocks, self.norm)
        return [list(group) for group in zip(*outputs)], rest

    def _with_prefix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches `(b, h, w, C)` to tokens `(b, L, C)`: with prefix tokens and positions, in the order of windows."""
        x = x.flatten(1, 2)  # (b, h, w, C) -> (b, h*w, C)
        prefix = [getattr(self, name).expand(len(x), -1, -1) for name in self.prefix_names]
        x = torch.cat([*prefix, x], dim=1) if prefix else x
        if self.pos_embed is not None:
            x = x + self._table("position", grid, self.pos_embed, self._position_table)
        return x if self.windows is None else x[:, self._layout(grid, x.device).order]

    def _patches(self, x: Tensor, counts: list[int], grids: list[tuple[int, int]]) -> list[Tensor]:
        """Tokens `(N, C)` to the patches `(b, h, w, C)` of each group, row by row."""
        sizes = [self.image_length(grid, x.device) for grid in grids]
        groups = x.split([count * size for count, size in zip(counts, sizes)])
        groups = [group.unflatten(0, (count, -1)) for group, count in zip(groups, counts)]  # (b*L, C) -> (b, L, C)
        if self.windows is None:
            groups = [group[:, self.num_prefix :] for group in groups]
        else:
            groups = [group[:, self._layout(grid, x.device).patches] for group, grid in zip(groups, grids)]
        return [group.unflatten(1, grid) for group, grid in zip(groups, grids)]  # (b, h*w, C) -> (b, h, w, C)

    def _layout(self, grid: tuple[int, int], device: torch.device):
        return window_layout(self.windows, grid, self.num_prefix, device)

    def image_length(self, grid: tuple[int, int], device: torch.device) -> int:
        return self.num_prefix + grid[0] * grid[1] if self.windows is None else len(self._layout(grid, device).order)

    def _lengths(self, counts, grids, device) -> tuple[list[int], list[int]]:
        """The lengths of the sequences of global blocks, and of blocks with windows."""
        per_image = [self.image_length(grid, device) for grid in grids]
        lengths = [length for count, length in zip(counts, per_image) for _ in range(count)]
        if self.windows is None:
            return lengths, lengths
        windows = [self._layout(grid, device).lengths * count for count, grid in zip(counts, grids)]
        return lengths, list(chain(*windows))

    def _places(self, counts, grids, device) -> tuple[Places | None, Places | None]:
        """The places of the tokens in images and in windows, for relative positions."""
        if not self.relative:
            return None, None
        batch = (counts, grids, self.windows, self.num_prefix, device)
        whole = find_places(*batch, inside=False)
        return whole, whole if self.windows is None else find_places(*batch, inside=True)

    def _rope(self, counts: list[int], grids: list[tuple[int, int]]) -> Sequence[Tensor | None]:
        """Sine and cosine `(N, heads or 1, 2*d)` for each block."""
        if self.rope is None:
            return [None] * len(self.blocks)
        source = next(chain(self.rope.parameters(), self.rope.buffers()))
        tables = [self._table("rope", grid, source, self._rope_table) for grid in grids]
        packed = torch.cat([table.repeat(1, count, 1, 1) for table, count in zip(tables, counts)], dim=1)
        # all blocks share the table of axial RoPE
        return packed.expand(max(len(packed), len(self.blocks)), -1, -1, -1).unbind()

    def _position_table(self, grid: tuple[int, int]) -> Tensor:
        """The position embeddings `(1, L, C)` of prefix tokens and patches, resampled by timm."""
        prefix = self.num_prefix if self.embeds_prefix else 0
        options = {"num_prefix_tokens": prefix, "antialias": self.pos_antialias}
        table = resample_abs_pos_embed(self.pos_embed, list(grid), list(self.native_grid), **options)
        # prefix tokens without a position get zeros
        return F.pad(table, (0, 0, self.num_prefix - prefix, 0))

    def _rope_table(self, grid: tuple[int, int]) -> Tensor:
        """Sine and cosine `(blocks or 1, L, heads or 1, 2*d)`; prefix tokens are not rotated."""
        # axial: (h*w, 2*d), mixed: (blocks, heads, h*w, 2*d)
        table = self.rope.get_embed(shape=list(grid))
        table = table[None, :, None] if table.ndim == 2 else table.transpose(1, 2)
        sin, cos = F.pad(table, (0, 0, 0, 0, self.num_prefix, 0)).chunk(2, dim=-1)
        cos = torch.cat([torch.ones_like(cos[:, : self.num_prefix]), cos[:, self.num_prefix :]], dim=1)
        table = torch.cat([sin, cos], dim=-1)
        return table if self.windows is None else table[:, self._layout(grid, table.device).order]

    def _table(self, kind: str, grid: tuple[int, int], source: Tensor, build) -> Tensor:
        """`build(grid)`, from a cache while `source`, the parameter or buffer that it depends on, seems unchanged."""
        trained = source.requires_grad and (torch.is_grad_enabled() or not self.keeps_tables)
        augmented = kind == "rope" and self.augments_rope and self.training
        if trained or augmented or torch.compiler.is_compiling():
            return build(grid)
        version = 0 if source.is_inference() else source._version
        state = (source.data_ptr(), version, source.dtype, source.device)
        found = self._tables.get((kind, grid))
        if found is None or found[0] != state:
            # a limit for data sets in which every image has another grid
            if len(self._tables) >= 256:
                self._tables.clear()
            # without inference mode, so that a table that is made in validation can be used in training
            with torch.inference_mode(False), torch.no_grad():
                table = build(grid)
            # the source is kept, so that no other tensor can have its address
            found = self._tables[kind, grid] = (state, table, source.detach())
        return found[1]
