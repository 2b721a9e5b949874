"""The backbone: images in, feature levels out.

B images, N tokens of all images, C channels, h×w a patch grid, b images of a group with equal grids
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitdet.backbone.adapter import SpatialAdapter
from vitdet.backbone.necks import NECKS, SEVERAL_TAPS, make_neck
from vitdet.backbone.options import INTEGER, RANGES
from vitdet.backbone.patches import ConvStem, Group, group_images
from vitdet.backbone.relative import NAMES, add_relative_position
from vitdet.backbone.roles import body, choose_blocks, choose_global_blocks, quarters
from vitdet.backbone.trunk import ViT
from vitdet.backbone.weights import create_timm_model, load_checkpoint
from vitdet.backbone.windows import Windows
from vitdet.config import Configurable
from vitdet.errors import UserError
from vitdet.ranges import ranged
from vitdet.structures import Features, Level

log = logging.getLogger("vitdet")


class Backbone(nn.Module, Configurable):
    """A plain ViT of timm and a neck: images of any sizes to feature levels.

    Args:
        name: of a timm model, such as `vit_small_patch14_dinov2.lvd142m`.
        pretrained: fetch timm's weights (or find them in the Hugging Face cache).
        checkpoint: a `.safetensors` or `.pth` file with weights instead.
        patch_size: if not the model's own; the patch kernel is resampled (FlexiViT, arXiv:2212.08013).
        embed_dim, depth, num_heads: if not the model's own, to train a ViT of another size from scratch.
        model_args: further arguments of the timm model, such as `mlp_ratio`, `img_size` or `reg_tokens`.
        stem: `"patch"`, `"conv"` to train from scratch (arXiv:2106.14881), or `"adapter"`: the patches, and convolutions beside the ViT (`SpatialAdapter`).
        stem_width: channels of the convolutions at stride 2; they double with every stride.
        stem_taps: give the convolutions' maps of strides 4, 8 … to the neck's levels of those strides.
        tail: so many of the last blocks are left to the head, which runs them on tokens of its own too (`EoMTHead`).
        out_blocks: the blocks whose outputs are used, from 0; by default the ends of the four quarters for necks of several taps, else the last.
        windows: a size in tokens (`14`) or a count (`"2x2"`): most blocks then attend inside windows (ViTDet, arXiv:2203.16527).
        global_blocks: the blocks that attend inside the whole image all the same; by default the ends of the four quarters.
        window_prefix: `"image"`, class and register tokens sit out windowed blocks, or `"window"`, each window has its own (see `Windows`).
        relative_position: a side in tokens: attention learns from the distances of tokens, too, down and across (ViTDet), by tables that cover windows, and
            this side in global blocks (64 in ViTDet); there they are resampled to every image's grid.
        neck: `"projector"` (several taps), `"pyramid"` (the last one), `"csp"` (several taps, wider: that of LW-DETR and RF-DETR), `"hybrid"` (a tap for each
            level, or the last for all, fused both ways: that of the real-time DETRs), or `None`: one level per tap at the patch stride.
        out_strides: of the neck's levels, finest first; by default half, one and two patches (pyramid: a quarter, too).
        out_channels: of the neck's levels.
        neck_depth: 3×3 stages that refine each level.
        neck_args: what only this neck takes: `norm` of `"csp"`, `csp_channels`, `ffn_dim` and `num_heads` of `"hybrid"`, see there.
        freeze: that many blocks, and what is before them, are not trained and stay in eval mode; -1 or `"all"` is the whole trunk.
        drop_path: stochastic depth of the last block, growing from 0; drops whole images.
        canvas: pad every image with black to a square of this side, as many published models were trained; it wastes tokens.
        grad_checkpointing: trade time for memory.
        pos_antialias: resample position embeddings to an image's grid as timm does; `False` is plain bicubic, as in ViTDet's and LW-DETR's own code.

    Attributes:
        channels: width of the ViT.
        strides, out_channels: of every level, finest first.
        patch_size: an image is padded, right and bottom, to a multiple of it (or see `canvas`).
        mean, std: what images must be normalised with, for values in [0, 1].
        num_layers: for layer-wise decay, one more than the largest of `layer_ids`.

    Raises:
        ValueError: an option does not fit the model.
        RuntimeError: the weights cannot be fetched, or do not fit.
    """

    @ranged(RANGES)
    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        checkpoint: str | None = None,
        patch_size: int | None = None,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        model_args: dict[str, Any] | None = None,
        stem: str = "patch",
        stem_width: int = 32,
        stem_taps: bool = True,
        tail: int = 0,
        out_blocks: list[int] | None = None,
        windows: int | str | None = None,
        global_blocks: list[int] | None = None,
        window_prefix: str = "image",
        relative_position: int | None = None,
        neck: str | None = "projector",
        out_strides: list[float] | None = None,
        out_channels: int = 256,
        neck_depth: int = 1,
        neck_args: dict[str, Any] | None = None,
        freeze: int | str = 0,
        drop_path: float = 0.0,
        canvas: int | None = None,
        grad_checkpointing: bool = False,
        pos_antialias: bool = True,
    ) -> None:
        super().__init__()
        _choose("stem", stem, ("patch", "conv", "adapter"))
        _choose("neck", neck, (*NECKS, None))
        overrides = {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads}
        model_args = {**(model_args or {}), **{key: value for key, value in overrides.items() if value is not None}}
        if pretrained and checkpoint:
            raise UserError(f"got pretrained=True and checkpoint={checkpoint!r}; give one of them")
        model = create_timm_model(name, pretrained=pretrained, **model_args)
        count = body(len(model.blocks), tail, windows, relative_position)
        taps = choose_blocks("out_blocks", out_blocks, count, quarters(count) if neck in SEVERAL_TAPS else [count - 1])
        whole = choose_global_blocks(global_blocks, count, taps[-1], windows, window_prefix, model.num_prefix_tokens)
        cut = None if windows is None else Windows.parse(windows, window_prefix)
        if relative_position is not None:
            add_relative_position(model, relative_position, cut, whole)
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
            windows=cut,
            global_blocks=whole,
            drop_path=drop_path,
            grad_checkpointing=grad_checkpointing,
            pos_antialias=pos_antialias,
        )
        self.patch_size, self.channels = self.trunk.patch_size, self.trunk.embed_dim
        self.canvas = _canvas(canvas, self.patch_size)
        self._add_stem(stem, stem_width, trained=bool(pretrained or checkpoint))
        options = {"out_channels": out_channels, "depth": neck_depth, "args": neck_args or {}}
        self._add_neck(neck, len(taps), out_strides, stem_taps, options)
        self._freeze(freeze)

    def forward(self, images: Sequence[Tensor] | Tensor) -> Features:
        """Images `(3, H, W)` of any sizes, or `(B, 3, H, W)`, normalised, to feature levels.

        Raises:
            ValueError: an image is not a float `(3, H, W)`.
        """
        black = -torch.tensor(self.mean) / torch.tensor(self.std)
        groups = group_images(images, self.patch_size, self.canvas and (self.canvas, black))
        embedded = [self.trunk.patch_embed(group.pixels) for group in groups]
        taps, unfinished = self.trunk([patches for patches, _ in embedded])
        if unfinished is not None:
            unfinished.order = [i for group in groups for i in group.indices]
        if self.neck is not None:
            beside = (
                [self.adapter(group.pixels) for group in groups] if self.adapter else [maps for _, maps in embedded]
            )
            taps = [self.neck(tap, maps) for tap, maps in zip(taps, beside)]
        levels = [pack_level(list(maps), groups, stride) for maps, stride in zip(zip(*taps), self.strides)]
        return Features(levels, [tuple(image.shape[-2:]) for image in images], unfinished)

    def _add_stem(self, stem: str, width: int, *, trained: bool) -> None:
        if stem == "conv":
            if trained:
                log.warning("weights not used: patch_embed, which stem='conv' replaces by an untrained stem")
            in_channels = self.trunk.patch_embed.proj.in_channels
            self.trunk.patch_embed = ConvStem(self.channels, self.patch_size, width=width, in_channels=in_channels)
        self.adapter = SpatialAdapter(width) if stem == "adapter" else None

    def _add_neck(self, neck: str | None, taps: int, strides, stem_taps: bool, options: dict[str, Any]) -> None:
        self.neck: nn.Module | None = None
        self.strides, self.out_channels = [self.patch_size] * taps, [self.channels] * taps
        if neck is None:
            if options["args"] or strides is not None or self.adapter:
                raise UserError(
                    "out_strides, neck_args and stem='adapter' need a neck; neck=None gives the patch stride only"
                )
            return
        if strides is None:
            finest = -2 if neck == "pyramid" else -1
            strides = [_plain(self.patch_size * 2.0**step) for step in range(finest, 2)]
        source = self.adapter or self.trunk.patch_embed
        if self.adapter and not (stem_taps and set(strides) & set(source.strides)):
            raise UserError(f"stem='adapter' has maps of strides {source.strides}; the neck's, {strides}, use none")
        lateral = {"stem_strides": source.strides, "stem_channels": source.channels} if stem_taps else {}
        self.neck = make_neck(neck, self.channels, taps, self.patch_size, strides=strides, **options, **lateral)
        self.strides, self.out_channels = list(strides), [options["out_channels"]] * len(strides)

    def layer_ids(self) -> dict[str, int]:
        """Depth of every parameter, for layer-wise learning-rate decay: 0 embeddings, `i + 1` block `i`, `num_layers - 1` final norm, adapter and neck."""
        return {name: self._layer_id(name) for name, _ in self.named_parameters()}

    def _layer_id(self, name: str) -> int:
        if name.startswith("trunk.blocks."):
            return int(name.split(".")[2]) + 1
        return self.num_layers - 1 if name.startswith(("trunk.norm.", "adapter.", "neck.")) else 0

    @property
    def num_layers(self) -> int:
        return len(self.trunk.blocks) + 2

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are embeddings, not weights; norms and biases are one-dimensional, which says it for them."""
        embeddings = {"pos_embed", *self.trunk.prefix_names, "rope.freqs"}
        return {
            name
            for name, _ in self.named_parameters()
            if name.removeprefix("trunk.") in embeddings or name.endswith(NAMES)
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


def pack_level(maps: list[Tensor], groups: list[Group], stride: float) -> Level:
    """Maps `(b, h, w, C)` of each group to one packed level, in the order of the batch."""
    if len(groups) == 1:
        return Level(
            maps[0].flatten(0, 2), [tuple(maps[0].shape[1:3])] * len(maps[0]), stride
        )  # (b, h, w, C) -> (N, C)
    images = {i: image for one, group in zip(maps, groups) for i, image in zip(group.indices, one)}
    ordered = [images[i] for i in range(len(images))]
    return Level(
        torch.cat([image.flatten(0, 1) for image in ordered]), [tuple(image.shape[:2]) for image in ordered], stride
    )


def _resample_patches(model: nn.Module, patch_size: int | None, *, report: bool) -> None:
    own = model.patch_embed.patch_size[0]
    if patch_size in (None, own):
        return
    if report:
        log.info("weights resampled: patch_embed from patches of %d pixels to %d", own, patch_size)
    h, w = model.patch_embed.grid_size  # the position embedding keeps its grid
    model.set_input_size(img_size=(h * patch_size, w * patch_size), patch_size=patch_size)


def _canvas(side: int | None, patch_size: int) -> int | None:
    if side is not None and side % patch_size:
        raise UserError(f"canvas is {side}; wanted a multiple of the patch size, {patch_size}")
    return side


def _choose(option: str, value: Any, choices: tuple) -> None:
    if value not in choices:
        raise UserError(f"{option} is {value!r}; choose among {', '.join(map(str, choices))}")


def _plain(stride: float) -> float | int:
    return int(stride) if stride == int(stride) else stride
