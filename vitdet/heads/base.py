"""The head contract: features in, outputs, losses and predictions out. Plain PyTorch; no Lightning, no data, no timm."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vitdet.config import Configurable
from vitdet.structures import Features, Prediction, Target

CLASS_PARTS = {"classify", "dense_classify", "classify_tokens", "things"}  # what heads call the parts that know classes
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

    def use_data(self, kind: str, things: Sequence[bool]) -> None:
        """What kind of labels the data has (`instances`, `semantic` or `panoptic`), and which classes are things; a `Task` calls it before it trains."""

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
