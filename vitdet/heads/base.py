"""The head contract: features in, outputs, losses and predictions out. Plain PyTorch; no Lightning, no data, no timm."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vitdet.config import Configurable
from vitdet.errors import UserError
from vitdet.structures import Features, Prediction, Target

CLASS_PARTS = {"classify", "dense_classify", "classify_tokens", "things"}  # what heads call the parts that know classes
DATA = {"instances": "CocoData", "semantic": "SemanticData", "panoptic": "PanopticData"}  # for messages, as are these:
HEADS = {"instances": "DETRHead or MaskDecoderHead", "semantic": "SemanticHead or MaskDecoderHead"}
HEADS["panoptic"] = "MaskDecoderHead or EoMTHead"
QUERY_PARTS = {"queries", "query_embed", "query_boxes", "content"}


class Head(nn.Module, Configurable):
    """Base of all heads.

    A head is built as `SomeHead(in_channels, strides, num_classes, **options)`: channels and strides of the feature levels, finest first,
    and the number of classes. It must accept images without any object, with the same autograd graph (add zero-weight terms), so that
    DDP never waits for a missing gradient.
    """

    in_channels: Sequence[int]
    strides: Sequence[float]
    num_classes: int
    progress: float = 0.0
    """How much of the training is done, in [0, 1]; a `Task` keeps it up to date."""
    needs_masks: bool = False
    """Whether the loss reads `Target.masks`."""
    runs_tail: bool = False
    """Whether the head runs the ViT's last blocks, which the backbone then leaves to it."""
    kinds: Sequence[str] = ()
    """The kinds of labels that it can learn from, see `use_data`; any, if none is named."""
    loss_weights: dict[str, float]
    """The weight of every term that `loss` returns; a term it does not name is an error, a term with weight 0 is only logged."""

    def forward(self, features: Features, targets: list[Target] | None = None) -> Any:
        """Outputs of whatever form `loss` and `predict` of the same head take. `targets` are given in training only."""
        raise NotImplementedError

    def loss(self, outputs: Any, targets: list[Target]) -> dict[str, Tensor]:
        """The unweighted scalar loss terms, by name."""
        raise NotImplementedError

    def predict(self, outputs: Any, sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """One `Prediction` per image, in pixels of the original images, whose `(H, W)` are `sizes`."""
        raise NotImplementedError

    def infer(
        self, backbone: nn.Module, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Prediction]:
        """From normalised images `(3, H, W)` to one `Prediction` each, `sizes` as in `predict`; here in one go."""
        return self.predict(self(backbone(images)), sizes)

    def use_backbone(self, backbone: nn.Module) -> None:
        """What makes the features; a `Task` calls it when it is made.

        Raises:
            UserError: the head can't work with them.
        """
        tail, name = getattr(getattr(backbone, "trunk", None), "tail", 0), type(self).__name__
        if self.runs_tail and (not tail or backbone.neck is not None):
            raise UserError(f"{name} runs the backbone's last blocks: set model.backbone.tail (3 or 4) and neck: null")
        if tail and not self.runs_tail:
            raise UserError(
                f"model.backbone.tail is {tail}, so the ViT's last blocks are left to the head, and {name} does not run them: set it to 0"
            )
        made, wanted = list(backbone.out_channels), list(getattr(self, "in_channels", backbone.out_channels))
        if made != wanted:
            raise UserError(
                f"{name} was made for features of {wanted} channels, the backbone gives {made}; make it from backbone.out_channels and .strides"
            )

    def use_data(self, kind: str, things: Sequence[bool]) -> None:
        """What kind of labels the data has (`instances`, `semantic` or `panoptic`), and which classes are things; a `Task` calls it before it trains.

        Raises:
            UserError: the head can't learn from them.
        """
        if self.kinds and kind not in self.kinds:
            raise UserError(
                f"{type(self).__name__} learns from data of {' or '.join(self.kinds)}, and this is {kind}: "
                f"choose {DATA[self.kinds[0]]}, or for this data model.head {HEADS[kind]}"
            )

    def metric(self, data: Any) -> Any:
        """How the head is scored on a data module: a name that `vitdet.metrics.create_metric` knows, an object with `update`,
        `compute` and `reset`, or `None`."""
        return None

    def class_rows(self) -> list[str]:
        """The entries of the state dict that have a row for every class, in the order of the labels, and perhaps one more for "nothing"."""
        return [
            name for name in self.state_dict() if CLASS_PARTS & set(name.split(".")) or name == "denoising.embed.weight"
        ]

    def query_rows(self) -> list[str]:
        """The entries that have a row for every query, those of one group after the other's."""
        return [name for name in self.state_dict() if QUERY_PARTS & set(name.split("."))]

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the loss terms.

        Raises:
            KeyError: a term has no weight.
        """
        unknown = set(losses) - set(self.loss_weights)
        if unknown:
            raise KeyError(
                f"loss terms without a weight: {sorted(unknown)}; add them to {type(self).__name__}.loss_weights"
            )
        return sum(self.loss_weights[name] * value for name, value in losses.items())
