"""The backbone: from images to feature levels.

B images, N tokens of all images together, C channels, h×w a patch grid, b images of a group, whose grids are equal
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitdet.backbone.attention import RELATIVE_TABLES
from vitdet.backbone.necks import Neck, Projector
from vitdet.backbone.relative import add_relative_position
from vitdet.backbone.stems import Stem, group_images, pack_level
from vitdet.backbone.trunk import TrunkOptions, ViT, choose_blocks, choose_global_blocks, quarters
from vitdet.backbone.weights import create_timm_model, load_checkpoint
from vitdet.backbone.windows import Windows
from vitdet.config import Configurable
from vitdet.errors import UserError
from vitdet.ranges import INTEGER, Rule, listed, maker, number, ranged, whole
from vitdet.structures import Features

log = logging.getLogger("vitdet")

SET_BY_VITDET = {"checkpoint_path", "dynamic_img_pad", "dynamic_img_size", "features_only", "in_chans", "model_name"}
SET_BY_VITDET |= {"num_classes", "pretrained"}


def _are_model_args(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) and name not in SET_BY_VITDET for name in value)


RANGES: dict[str, Rule] = {
    "name": ((lambda v: isinstance(v, str) and v != ""), "the name of a model of timm"),
    "checkpoint": ((lambda v: isinstance(v, (str, Path)) and str(v) != ""), "the path of a file with weights"),
    "patch_size": whole(1),
    "depth": whole(1),
    "model_args": (
        _are_model_args,
        f"arguments of the timm model by name, without {', '.join(sorted(SET_BY_VITDET))}, which are vitdet's to set",
    ),
    "tail": whole(0),
    "out_blocks": listed(INTEGER),
    "out_strides": listed(number(0, without=[0])),
    "out_channels": whole(2),
    "neck": maker("a neck, such as Projector, Pyramid, CSPNeck or HybridNeck"),
    "stem": maker("a stem, ConvStem or SpatialAdapter"),
    "trunk": ((lambda v: isinstance(v, TrunkOptions)), "TrunkOptions, or some of them by name"),
    "drop_path": number(0, 1, without=[1]),
}


class Backbone(nn.Module, Configurable):
    """A plain ViT of timm and a neck, which turn images of any sizes into feature levels.

    Args:
        name: the name of a timm model, such as `vit_small_patch14_dinov2.lvd142m`.
        pretrained: use timm's weights, which are downloaded unless they are in the Hugging Face cache.
        checkpoint: a `.safetensors` or `.pth` file whose weights are used instead of timm's.
        patch_size: side of a patch in pixels; if not the model's, the kernel is resampled (FlexiViT, arXiv:2212.08013).
        depth: the number of blocks, by default the model's.
        model_args: further arguments of the timm model, such as `embed_dim` and `num_heads` for a ViT of another width
            that is trained from scratch, `mlp_ratio`, `img_size` or `reg_tokens`.
        stem: convolutions on the pixels: `ConvStem` replaces the patch embedding, for training from scratch, and
            `SpatialAdapter` runs beside the ViT.
        trunk: how the ViT is run: windows, relative positions, the canvas, gradient checkpointing (`TrunkOptions`).
        tail: how many of the last blocks are left to the head, which also runs its queries through them (`EoMTHead`).
        out_blocks: the blocks whose outputs are used (0 is the first, -1 the last); by default those that the neck
            reads: the last block of each quarter of the ViT, or its last block only.
        neck: what makes the levels: `Projector` or `CSPNeck` (of LW-DETR and RF-DETR) from several blocks, `Pyramid`
            from the last, `HybridNeck` (of the real-time DETRs) from one block for each level, or the last for all;
            with `None`, each of `out_blocks` is a level at the stride of the patches.
        out_strides: in pixels, finest first; by default half, one and two patches (`Pyramid`: a quarter, too).
        out_channels: the channels of every level that the neck makes.
        freeze: how many of the first blocks, with all that is before them, are not trained and stay in eval mode;
            `"all"` (or -1) is the whole ViT.
        drop_path: the rate of stochastic depth, per image, in the last block; it grows linearly from 0 in the first.

    Attributes:
        channels: the width of the ViT.
        strides, out_channels: the stride in pixels and the channels of each level, finest first.
        patch_size: in pixels; images are padded, right and bottom, to a multiple of it, unless there is a `canvas`.
        canvas: the side in pixels of the square that every image is padded to, or `None`.
        mean, std: of each colour channel, for values in [0, 1]: images must be normalised with them.
        num_layers: layers that layer-wise learning-rate decay tells apart: one more than the largest of `layer_ids`.

    Raises:
        UserError: an option does not fit the model.
        WeightsError: the weights cannot be downloaded or read, or do not fit.

    Example:
        >>> import torch
        >>> from vitdet import Backbone
        >>> backbone = Backbone("vit_tiny_patch16_224", depth=4, out_strides=[8, 16], out_channels=64)
        >>> features = backbone([torch.rand(3, 64, 96), torch.rand(3, 50, 40)])
        >>> [(level.stride, level.grids, tuple(level.x.shape)) for level in features]
        [(8, [(8, 12), (8, 6)], (144, 64)), (16, [(4, 6), (4, 3)], (36, 64))]
    """

    @ranged(RANGES)
    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        checkpoint: str | None = None,
        patch_size: int | None = None,
        depth: int | None = None,
        model_args: dict[str, Any] | None = None,
        stem: Callable[[int, int], Stem] | None = None,
        trunk: TrunkOptions = TrunkOptions(),
        tail: int = 0,
        out_blocks: list[int] | None = None,
        neck: Callable[[int, int, int, Sequence[float], int, Mapping[float, int]], Neck] | None = Projector,
        out_strides: list[float] | None = None,
        out_channels: int = 256,
        freeze: int | str = 0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if pretrained and checkpoint:
            raise UserError(f"got pretrained=True and checkpoint={checkpoint!r}; give one of them")
        sizes = {**(model_args or {}), **({} if depth is None else {"depth": depth})}
        model = create_timm_model(name, pretrained=pretrained, **sizes)
        num_blocks = _blocks_before_tail(len(model.blocks), tail, trunk)
        reads_several = neck is not None and getattr(_class_of(neck), "several_taps", Neck.several_taps)
        default = quarters(num_blocks) if reads_several else [num_blocks - 1]
        taps = choose_blocks("out_blocks", out_blocks, num_blocks, default)
        global_blocks = choose_global_blocks(trunk, num_blocks, taps[-1], model.num_prefix_tokens)
        windows = None if trunk.windows is None else Windows.parse(trunk.windows, trunk.window_prefix)
        if trunk.relative_position is not None:
            add_relative_position(model, trunk.relative_position, windows, global_blocks)
        if checkpoint:
            load_checkpoint(model, name, checkpoint)
        _resample_patches(model, patch_size, report=bool(pretrained or checkpoint))
        # a backbone that is built again from a checkpoint of vitdet gets its weights from that checkpoint
        self.init_args = {**self.init_args, "pretrained": False, "checkpoint": None}
        self.mean, self.std = list(model.pretrained_cfg["mean"]), list(model.pretrained_cfg["std"])
        self.trunk = ViT(
            model,
            taps=taps,
            tail=tail,
            windows=windows,
            global_blocks=global_blocks,
            drop_path=drop_path,
            grad_checkpointing=trunk.grad_checkpointing,
            pos_antialias=trunk.pos_antialias,
        )
        self.patch_size, self.channels = self.trunk.patch_size, self.trunk.embed_dim
        self.canvas = _checked_canvas(trunk.canvas, self.patch_size)
        self._add_stem(stem, pretrained=bool(pretrained or checkpoint))
        self._add_neck(neck, len(taps), out_strides, out_channels)
        self._freeze(freeze)

    def forward(self, images: Sequence[Tensor] | Tensor) -> Features:
        """The feature levels of normalised images: a list of `(3, H, W)` of any sizes, or one tensor `(B, 3, H, W)`.

        Raises:
            UserError: an image is not a float `(3, H, W)`.
        """
        # the colour of the canvas around an image, normalised as images are
        black = -torch.tensor(self.mean) / torch.tensor(self.std)
        groups = group_images(images, self.patch_size, None if self.canvas is None else (self.canvas, black))
        embedded = [self.trunk.patch_embed(group.pixels) for group in groups]
        order = [i for group in groups for i in group.indices]
        taps, unfinished = self.trunk([patches for patches, _ in embedded], order)
        # a list of maps (b, h, w, C) for each group: those of the tapped blocks become those of the levels
        if self.neck is not None:
            finer = [maps for _, maps in embedded]
            if self.adapter is not None:
                finer = [self.adapter(group.pixels) for group in groups]
            taps = [self.neck(tap, maps) for tap, maps in zip(taps, finer)]
        levels = [pack_level(list(maps), groups, stride) for maps, stride in zip(zip(*taps), self.strides)]
        return Features(levels, [(image.shape[-2], image.shape[-1]) for image in images], unfinished)

    def _add_stem(self, stem: Callable[[int, int], Stem] | None, *, pretrained: bool) -> None:
        self.adapter: Stem | None = None
        if stem is None:
            return
        module = self.make_part("stem", stem, self.channels, self.patch_size)
        if module.beside:
            self.adapter = module
            return
        if pretrained:
            name = type(module).__name__
            log.warning("weights not used: patch_embed, which the stem replaces by an untrained %s", name)
        self.trunk.patch_embed = module

    def _add_neck(self, neck: Callable[..., Neck] | None, taps: int, strides, out_channels: int) -> None:
        self.neck: Neck | None = None
        self.strides, self.out_channels = [self.patch_size] * taps, [self.channels] * taps
        if neck is None:
            if strides is not None or self.adapter is not None:
                raise UserError("out_strides and SpatialAdapter need a neck; neck: null gives the patch stride only")
            return
        if strides is None:
            finest = getattr(_class_of(neck), "first_step", Neck.first_step)
            strides = [_int_if_whole(self.patch_size * 2.0**step) for step in range(finest, 2)]
        stem = self.trunk.patch_embed if self.adapter is None else self.adapter
        if self.adapter is not None and not set(strides) & set(stem.strides):
            made = f"{type(stem).__name__} has maps of strides {stem.strides}"
            raise UserError(f"{made}; the neck's, {strides}, use none")
        stem_channels = dict(zip(stem.strides, stem.channels))
        sizes = (self.channels, taps, self.patch_size, strides, out_channels, stem_channels)
        self.neck = self.make_part("neck", neck, *sizes)
        self.strides, self.out_channels = list(strides), [out_channels] * len(strides)

    def layer_ids(self) -> dict[str, int]:
        """The layer of each parameter, by name, for layer-wise learning-rate decay.

        Embeddings are in layer 0, block `i` in layer `i + 1`, and the final norm, the adapter and the neck in the last.
        """
        return {name: self._layer_id(name) for name, _ in self.named_parameters()}

    def _layer_id(self, name: str) -> int:
        if name.startswith("trunk.blocks."):
            return int(name.split(".")[2]) + 1
        return self.num_layers - 1 if name.startswith(("trunk.norm.", "adapter.", "neck.")) else 0

    @property
    def num_layers(self) -> int:
        return len(self.trunk.blocks) + 2

    def no_weight_decay(self) -> set[str]:
        """Names of the embeddings, which are not decayed; norms and biases are known by their single dimension."""
        embeddings = {"pos_embed", *self.trunk.prefix_names, "rope.freqs"}
        return {
            name
            for name, _ in self.named_parameters()
            if name.removeprefix("trunk.") in embeddings or name.endswith(RELATIVE_TABLES)
        }

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def _freeze(self, freeze: int | str) -> None:
        trunk = self.trunk
        self._frozen: list[nn.Module] = []
        if freeze in (-1, "all"):
            trunk.requires_grad_(False)
            self._frozen = [trunk]
        elif not INTEGER[0](freeze) or not 0 <= freeze <= len(trunk.blocks):
            raise UserError(f"freeze is {freeze!r}; give a number of blocks from 0 to {len(trunk.blocks)}, or 'all'")
        elif freeze:
            self._frozen = [trunk.patch_embed, trunk.pos_drop, trunk.norm_pre, *trunk.blocks[:freeze]]
            self._frozen += [trunk.rope] if trunk.rope is not None else []
            # the position embedding and the prefix tokens
            for parameter in trunk.parameters(recurse=False):
                parameter.requires_grad_(False)
        for module in self._frozen:
            module.requires_grad_(False).eval()


def create_backbone(name: str, **options: Any) -> Backbone:
    """The same as `Backbone(name, **options)`, as a function in the manner of `timm.create_model`."""
    return Backbone(name, **options)


def _class_of(factory: Callable) -> Any:
    """The class that a factory makes; the factory is that class, or a partial, from Python or the parser of configs."""
    while isinstance(factory, partial):
        factory = next((arg for arg in factory.args if isinstance(arg, type)), factory.func)
    return factory


def _blocks_before_tail(blocks: int, tail: int, options: TrunkOptions) -> int:
    """How many of the model's blocks the backbone runs itself; the others, the tail, are left to the head."""
    if not 0 <= tail < blocks or (tail and (options.windows is not None or options.relative_position is not None)):
        raise UserError(
            f"tail is {tail}; wanted fewer than the model's {blocks} blocks, and neither windows nor relative_position"
        )
    return blocks - tail


def _resample_patches(model: Any, patch_size: int | None, *, report: bool) -> None:
    model_size = model.patch_embed.patch_size[0]
    if patch_size in (None, model_size):
        return
    if report:
        log.info("weights resampled: patch_embed from patches of %d pixels to %d", model_size, patch_size)
    # the position embedding keeps its grid
    h, w = model.patch_embed.grid_size
    model.set_input_size(img_size=(h * patch_size, w * patch_size), patch_size=patch_size)


def _checked_canvas(side: int | None, patch_size: int) -> int | None:
    if side is not None and side % patch_size:
        raise UserError(f"canvas is {side}; wanted a multiple of the patch size, {patch_size}")
    return side


def _int_if_whole(stride: float) -> float | int:
    return int(stride) if stride == int(stride) else stride
