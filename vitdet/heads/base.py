"""The head contract: features in, outputs, losses and predictions out. Plain PyTorch; no Lightning, no data, no timm."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from vitdet.config import Configurable
from vitdet.errors import UserError
from vitdet.heads.options import RANGES
from vitdet.ranges import ranged
from vitdet.structures import Features, Prediction, Target

DATA = {"instances": "CocoData", "semantic": "SemanticData", "panoptic": "PanopticData"}  # for messages, as are these:
HEADS = {"instances": "DETRHead or MaskDecoderHead", "semantic": "SemanticHead or MaskDecoderHead"}
HEADS["panoptic"] = "MaskDecoderHead or EoMTHead"


class Head(nn.Module, Configurable):
    """Base of all heads.

    A head must accept images without any object, with the same autograd graph (add zero-weight terms), so that DDP never
    waits for a missing gradient.

    Args:
        in_channels: channels of each feature level, finest first.
        strides: their strides in pixels.
        num_classes: how many classes there are.
    """

    progress: float = 0.0
    """How much of the training is done, in [0, 1]; a `Task` keeps it up to date."""
    needs_masks: bool = False
    """Whether the loss reads `Target.masks`."""
    runs_tail: bool = False
    """Whether the head runs the ViT's last blocks, which the backbone then leaves to it."""
    kinds: Sequence[str] = ()
    """The kinds of labels that it can learn from, see `use_data`; any, if none is named."""
    groups: int = 1
    """How many sets of queries are trained side by side; inference uses the first."""
    class_parts: Sequence[str] = ("classify",)
    """The parts whose parameters have a row for every class, in the order of the labels, and perhaps one more for "nothing".

    They are names as in the state dict, where `*` stands for any number: `selection.groups.*.classify`. By them the weights
    of one list of classes are taken over for another.
    """
    query_parts: Sequence[str] = ("queries",)
    """The parts whose parameters have a row for every query, those of one group after those of the other."""
    loss_weights: dict[str, float]
    """The weight of every term that `loss` returns; a term without one is an error, a term with weight 0 is only logged."""

    @ranged(RANGES)
    def __init__(self, in_channels: Sequence[int], strides: Sequence[float], num_classes: int) -> None:
        super().__init__()
        self.in_channels, self.strides, self.num_classes = list(in_channels), list(strides), num_classes

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
        made = list(backbone.out_channels)
        if made != self.in_channels:
            raise UserError(
                f"{name} was made for features of {self.in_channels} channels, the backbone gives {made}; make it from backbone.out_channels and .strides"
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
        """The entries of the state dict that belong to `class_parts`."""
        return self._entries(self.class_parts)

    def query_rows(self) -> list[str]:
        """The entries of the state dict that belong to `query_parts`."""
        return self._entries(self.query_parts)

    def _entries(self, parts: Sequence[str]) -> list[str]:
        patterns = [pattern for part in parts for pattern in (part, f"{part}.*")]
        return [name for name in self.state_dict() if any(fnmatchcase(name, pattern) for pattern in patterns)]

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
