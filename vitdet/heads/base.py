"""The base class of all heads: features in, outputs, losses and predictions out.

It is plain PyTorch, and knows nothing of Lightning, of data sets or of timm.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from vitdet.config import Configurable
from vitdet.handshake import Labels
from vitdet.heads.options import RANGES
from vitdet.progress import Progress
from vitdet.ranges import ranged
from vitdet.structures import Features, Prediction, Target


class Head(nn.Module, Configurable):
    """The base class of all heads.

    Its loss must also work for images without any object, and every parameter must then still get a gradient (add
    terms that are zero): otherwise DDP waits for the missing gradient forever.

    Args:
        in_channels: channels of each feature level, finest first.
        strides: their strides in pixels.
        num_classes: how many classes there are.
    """

    # outside training
    _progress = Progress()
    predicts: str | None = None
    """What is scored of its predictions: `boxes`, `masks`, `semantic` or `panoptic`; with `None` nothing is scored."""
    needs_masks: bool = False
    """Whether the loss reads `Target.masks`."""
    runs_tail: bool = False
    """Whether the head itself runs the ViT's last blocks, which the backbone then leaves out."""
    kinds: Sequence[str] = ()
    """The kinds of labels that it can learn from, see `Labels`; an empty sequence allows all kinds."""
    groups: int = 1
    """How many sets of queries are trained side by side; inference uses the first."""
    class_parts: Sequence[str] = ("classify",)
    """The parts whose parameters have a row for every class, in the order of the labels, and perhaps a last row for
    "nothing".

    They are named as in the state dict, where `*` stands for any number: `selection.groups.*.classify`. When a model
    starts from the weights of a model with other classes, the rows of these parameters are assigned class by class.
    """
    query_parts: Sequence[str] = ("queries",)
    """The parts whose parameters have a row for every query, group after group."""
    loss_weights: dict[str, float]
    """The weight of every term that `loss` returns; a term without a weight is an error, a term of weight 0 is only
    logged."""

    @ranged(RANGES)
    def __init__(self, in_channels: Sequence[int], strides: Sequence[float], num_classes: int) -> None:
        super().__init__()
        self.in_channels, self.strides, self.num_classes = list(in_channels), list(strides), num_classes

    def forward(self, features: Features, targets: list[Target] | None = None) -> Any:
        """The outputs, in the form that this head's `loss` and `predict` take; `targets` are given in training only."""
        raise NotImplementedError

    def loss(self, outputs: Any, targets: list[Target]) -> dict[str, Tensor]:
        """The unweighted scalar loss terms, by name."""
        raise NotImplementedError

    def predict(self, outputs: Any, sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """A `Prediction` for each image, in pixels of the original images, whose `(H, W)` are `sizes`."""
        raise NotImplementedError

    def infer(
        self, backbone: nn.Module, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Prediction]:
        """A `Prediction` for each of the normalised images `(3, H, W)`, as a single batch; `sizes` as in `predict`."""
        return self.predict(self(backbone(images)), sizes)

    def prepare(self, progress: Progress, labels: Labels | None = None) -> None:
        """Gives the head what it needs to know of the run; a `Task` calls this before it trains or evaluates.

        Args:
            progress: how far the training is; `self.progress` reads it.
            labels: what kind of labels the data set has; `None` if the user gives plain data loaders.

        Raises:
            UserError: the head's options do not fit such labels.
        """
        self._progress = progress

    @property
    def progress(self) -> float:
        """The fraction of the training that is done, in [0, 1]."""
        return self._progress.done

    def metric(self, data: Any) -> Any:
        """A `torchmetrics.Metric` that replaces the scores of what the head `predicts`, or `None` to keep those.

        It is made for each evaluation of a data module, and has `update(predictions, targets)` and `compute() -> {name:
        score}`.
        """
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
