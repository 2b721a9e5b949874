"""The backbone: images in, feature levels out.

B images, N tokens of all images, C channels, h×w a patch grid, b images of a group with equal grids
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
from vitdet.ranges import INTEGER, Rule, listed, number, ranged, whole
from vitdet.structures import Features

log = logging.getLogger("vitdet")

OURS = {"checkpoint_path", "dynamic_img_pad", "dynamic_img_size", "features_only", "in_chans", "model_name"}
OURS |= {"num_classes", "pretrained"}


def _are_timms(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) and name not in OURS for name in value)


RANGES: dict[str, Rule] = {
    "name": ((lambda v: isinstance(v, str) and v != ""), "the name of a model of timm"),
    "checkpoint": ((lambda v: isinstance(v, (str, Path)) and str(v) != ""), "the path of a file with weights"),
    "patch_size": whole(1),
    "depth": whole(1),
    "model_args": (
        _are_timms,
        f"arguments of the timm model by name, without {', '.join(sorted(OURS))}, which are vitdet's to set",
    ),
    "tail": whole(0),
    "out_blocks": listed(INTEGER),  # -1 is the last one
    "out_strides": listed(number(0, without=[0])),
    "out_channels": whole(2),
    "neck": (callable, "a neck, such as Projector, Pyramid, CSPNeck or HybridNeck"),
    "stem": (callable, "a stem, ConvStem or SpatialAdapter"),
    "trunk": ((lambda v: isinstance(v, TrunkOptions)), "TrunkOptions, or some of them by name"),
    "drop_path": number(0, 1, without=[1]),
}


class Backbone(nn.Module, Configurable):
    """A plain ViT of timm and a neck: images of any sizes to feature levels.

    Args:
        name: of a timm model, such as `vit_small_patch14_dinov2.lvd142m`.
        pretrained: fetch timm's weights (or find them in the Hugging Face cache).
        checkpoint: a `.safetensors` or `.pth` file with weights instead.
        patch_size: another one than the model's, in pixels; the patch kernel is resampled (FlexiViT, arXiv:2212.08013).
        depth: another number of blocks than the model's.
        model_args: further arguments of the timm model, such as `embed_dim` and `num_heads`, to train a ViT of another
            size from scratch, `mlp_ratio`, `img_size` or `reg_tokens`.
        stem: convolutions on the pixels: `ConvStem`, in place of the patch embedding, to train from scratch, or
            `SpatialAdapter`, beside the ViT.
        trunk: how the ViT is run: windows, relative positions, the canvas, gradient checkpointing (`TrunkOptions`).
        tail: so many of the last blocks are left to the head, which runs them on its queries, too (`EoMTHead`).
        out_blocks: the blocks whose outputs are used, from 0; by default what the neck reads: the ends of the four
            quarters, or the last block.
        neck: `Projector` or `CSPNeck` (of LW-DETR and RF-DETR) over several blocks, `Pyramid` over the last one,
            `HybridNeck` (of the real-time DETRs) over one for each level or the last for all; or `None`, a level for
            each of `out_blocks`, at the patch's stride.
        out_strides: of the levels, finest first; by default half, one and two patches (`Pyramid`: a quarter, too).
        out_channels: of the levels that a neck makes.
        freeze: so many blocks, and what is before them, are not trained and stay in eval mode; `"all"` (or -1) is the
            ViT.
        drop_path: stochastic depth of the last block, growing from 0; drops whole images.

    Attributes:
        channels: width of the ViT.
        strides, out_channels: of every level, finest first.
        patch_size: an image is padded, right and bottom, to a multiple of it (or see `canvas`).
        canvas: the side of the square that every image is padded to, if it is.
        mean, std: what images must be normalised with, for values in [0, 1].
        num_layers: for layer-wise decay, one more than the largest of `layer_ids`.

    Raises:
        UserError: an option does not fit the model.
        WeightsError: the weights cannot be fetched, or do not fit.

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
        count = _body(len(model.blocks), tail, trunk)
        several = neck is not None and getattr(_class(neck), "several_taps", True)
        taps = choose_blocks("out_blocks", out_blocks, count, quarters(count) if several else [count - 1])
        global_blocks = choose_global_blocks(trunk, count, taps[-1], model.num_prefix_tokens)
        windows = None if trunk.windows is None else Windows.parse(trunk.windows, trunk.window_prefix)
        if trunk.relative_position is not None:
            add_relative_position(model, trunk.relative_position, windows, global_blocks)
        if checkpoint:
            load_checkpoint(model, name, checkpoint)
        _resample_patches(model, patch_size, report=bool(pretrained or checkpoint))
        # a backbone that a checkpoint builds again gets its weights from there
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
        self.canvas = _canvas(trunk.canvas, self.patch_size)
        self._add_stem(stem, trained=bool(pretrained or checkpoint))
        self._add_neck(neck, len(taps), out_strides, out_channels)
        self._freeze(freeze)

    def forward(self, images: Sequence[Tensor] | Tensor) -> Features:
        """Images `(3, H, W)` of any sizes, or `(B, 3, H, W)`, normalised, to feature levels.

        Raises:
            ValueError: an image is not a float `(3, H, W)`.
        """
        black = -torch.tensor(self.mean) / torch.tensor(self.std)
        groups = group_images(images, self.patch_size, None if self.canvas is None else (self.canvas, black))
        embedded = [self.trunk.patch_embed(group.pixels) for group in groups]
        order = [i for group in groups for i in group.indices]
        taps, unfinished = self.trunk([patches for patches, _ in embedded], order)
        if self.neck is not None:
            finer = [maps for _, maps in embedded]
            if self.adapter is not None:
                finer = [self.adapter(group.pixels) for group in groups]
            taps = [self.neck(tap, maps) for tap, maps in zip(taps, finer)]
        levels = [pack_level(list(maps), groups, stride) for maps, stride in zip(zip(*taps), self.strides)]
        return Features(levels, [(image.shape[-2], image.shape[-1]) for image in images], unfinished)

    def _add_stem(self, stem: Callable[[int, int], Stem] | None, *, trained: bool) -> None:
        self.adapter: Stem | None = None
        if stem is None:
            return
        made = self.make_part("stem", stem, self.channels, self.patch_size)
        if made.beside:
            self.adapter = made
            return
        if trained:
            log.warning(
                "weights not used: patch_embed, which the stem replaces by an untrained %s", type(made).__name__
            )
        self.trunk.patch_embed = made

    def _add_neck(self, neck: Callable[..., Neck] | None, taps: int, strides, out_channels: int) -> None:
        self.neck: Neck | None = None
        self.strides, self.out_channels = [self.patch_size] * taps, [self.channels] * taps
        if neck is None:
            if strides is not None or self.adapter is not None:
                raise UserError("out_strides and SpatialAdapter need a neck; neck: null gives the patch stride only")
            return
        if strides is None:
            finest = getattr(_class(neck), "first_step", -1)
            strides = [_plain(self.patch_size * 2.0**step) for step in range(finest, 2)]
        stem = self.trunk.patch_embed if self.adapter is None else self.adapter
        if self.adapter is not None and not set(strides) & set(stem.strides):
            name = type(stem).__name__
            raise UserError(f"{name} has maps of strides {stem.strides}; the neck's, {strides}, use none")
        finer = dict(zip(stem.strides, stem.channels))
        sizes = (self.channels, taps, self.patch_size, strides, out_channels, finer)
        self.neck = self.make_part("neck", neck, *sizes)
        self.strides, self.out_channels = list(strides), [out_channels] * len(strides)

    def layer_ids(self) -> dict[str, int]:
        """Depth of every parameter, for layer-wise learning-rate decay.

        Embeddings have 0, block `i` has `i + 1`, the final norm, an adapter and the neck have `num_layers - 1`.
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
        """Names of the embeddings among the parameters; norms and biases are known by their one dimension."""
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
            for parameter in trunk.parameters(recurse=False):  # position embedding and prefix tokens
                parameter.requires_grad_(False)
        for module in self._frozen:
            module.requires_grad_(False).eval()


def create_backbone(name: str, **options: Any) -> Backbone:
    """`Backbone(name, **options)`."""
    return Backbone(name, **options)


def _class(factory: Callable) -> Any:
    """The class behind a factory, which is that class, or a partial as Python or the parser of configs makes it."""
    while isinstance(factory, partial):
        factory = next((arg for arg in factory.args if isinstance(arg, type)), factory.func)
    return factory


def _body(blocks: int, tail: int, options: TrunkOptions) -> int:
    """How many blocks the backbone runs itself."""
    if not 0 <= tail < blocks or (tail and (options.windows is not None or options.relative_position is not None)):
        raise UserError(
            f"tail is {tail}; wanted fewer than the model's {blocks} blocks, and neither windows nor relative_position"
        )
    return blocks - tail


def _resample_patches(model: Any, patch_size: int | None, *, report: bool) -> None:
    before = model.patch_embed.patch_size[0]
    if patch_size in (None, before):
        return
    if report:
        log.info("weights resampled: patch_embed from patches of %d pixels to %d", before, patch_size)
    h, w = model.patch_embed.grid_size  # the position embedding keeps its grid
    model.set_input_size(img_size=(h * patch_size, w * patch_size), patch_size=patch_size)


def _canvas(side: int | None, patch_size: int) -> int | None:
    if side is not None and side % patch_size:
        raise UserError(f"canvas is {side}; wanted a multiple of the patch size, {patch_size}")
    return side


def _plain(stride: float) -> float | int:
    return int(stride) if stride == int(stride) else stride
