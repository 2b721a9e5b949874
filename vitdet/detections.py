"""What is found in an image as a sequence: indexed, filtered, put together; `vitdet.prediction` adds the other forms.

T detections of an image, H×W its size in pixels, K classes
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, TypeVar, overload

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from vitdet.errors import UserError
from vitdet.thresholds import Threshold, check_threshold, reach

Some = TypeVar("Some", bound="Detections")
# the most detections that `str` lists
LISTED = 20
# the attributes of a prediction that have an entry for each detection
PER_OBJECT = ("boxes_xyxy", "scores", "labels", "masks", "queries")


def with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of the dataclass `value` with `change` applied to its tensors."""
    known = ((field.name, getattr(value, field.name)) for field in fields(value))
    return replace(value, **{name: change(item) for name, item in known if isinstance(item, Tensor)})


@dataclass(frozen=True)
class Detection:
    """A single object that was found.

    Attributes:
        box_xyxy: corners in pixels of the original image.
        score: score in [0, 1].
        label: class, 0..K-1.
        name: name of the class, or its number where names are not known.
        mask: `(H, W)` bool, if the model has masks.
    """

    box_xyxy: tuple[float, float, float, float]
    score: float
    label: int
    name: str
    mask: Tensor | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        corners = ", ".join(f"{value:.1f}" for value in self.box_xyxy)
        return f"Detection({self.name} {self.score:.2f} at [{corners}]{'' if self.mask is None else ', with a mask'})"


@dataclass(repr=False, eq=False)
class Detections:
    """The attributes of a `Prediction`, and what makes it a sequence of `Detection`s."""

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor
    size: tuple[int, int]
    names: Sequence[str] = ()
    category_ids: Sequence[int] = ()
    image_id: int = 0
    masks: Tensor | None = None
    semantic: Tensor | None = None
    panoptic: Tensor | None = None
    path: str | None = None
    queries: Tensor | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __eq__(self, other: object) -> bool:
        # the comparison that a dataclass makes asks tensors for a single truth value, which they don't have
        if not isinstance(other, Detections):
            return NotImplemented
        # which query found a thing is no part of what was found, and not known of every engine
        compared = (field.name for field in fields(self) if field.name != "queries")
        return all(_same(getattr(self, name), getattr(other, name)) for name in compared)

    def __iter__(self) -> Iterator[Detection]:
        boxes, scores, labels = self.boxes_xyxy.tolist(), self.scores.tolist(), self.labels.tolist()
        for i, (box, score, label) in enumerate(zip(boxes, scores, labels)):
            yield Detection(
                tuple(box), score, label, self.name_of(label), None if self.masks is None else self.masks[i]
            )

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | Sequence[bool] | Tensor | np.ndarray) -> Self: ...
    def __getitem__(self, index: Any) -> Detection | Self:
        """A detection for a number; a prediction of some for a slice, a list of numbers, or T values that say whether
        each is kept. Pixels of those that are not kept belong to no segment.

        Raises:
            IndexError: there is no such detection, or not one value for each of them.
        """
        # such as the result of `argmax`
        if isinstance(index, (Tensor, np.ndarray)) and index.ndim == 0:
            index = index.item()
        if isinstance(index, (int, np.integer)):
            if not -len(self) <= index < len(self):
                raise IndexError(f"there is no detection {index}: {len(self)} were found")
            i = int(index) % len(self)
            return next(iter(self[i : i + 1]))
        kept = torch.arange(len(self), device=self.scores.device)[_positions(index, len(self))]
        some = {name: value[kept] for name in PER_OBJECT if (value := getattr(self, name)) is not None}
        if self.panoptic is not None:
            number = torch.zeros(len(self) + 1, dtype=self.panoptic.dtype, device=kept.device)
            number[kept + 1] = torch.arange(1, len(kept) + 1, dtype=number.dtype, device=kept.device)
            some["panoptic"] = number[self.panoptic.long()]
        return replace(self, **some)

    def __add__(self, other: Self) -> Self:
        return self.concatenate([self, other])

    def __repr__(self) -> str:
        place = f"{self.path}, " if self.path else ""
        return f"Prediction({place}{self.size[1]}×{self.size[0]}: {self.describe()})"

    def __str__(self) -> str:
        rows = [f"  {one!r}" for one in self[:LISTED]]
        more = [f"  … and {len(self) - LISTED} more"] if len(self) > LISTED else []
        return "\n".join([repr(self), *rows, *more])

    @staticmethod
    def concatenate(predictions: "Sequence[Some]") -> "Some":
        """All detections of several predictions on the same image, best score first; the rest is that of the first.

        Raises:
            UserError: there is none, they are of images or classes of other numbers, some only have masks, or one has a
                map of the whole image.
        """
        if not predictions:
            raise UserError("there is nothing to concatenate; give at least one prediction")
        first, *others = predictions
        for other in others:
            if other.size != first.size or list(other.names) != list(first.names):
                raise UserError(f"{other!r} is not of the image and the classes of {first!r}; give those of one image")
            if (other.masks is None) != (first.masks is None):
                raise UserError(
                    "some of the predictions have masks and some have none; give those of one kind of model"
                )
        if others and any(one.semantic is not None or one.panoptic is not None for one in predictions):
            raise UserError("a semantic or panoptic map says what each pixel is, once; it can't be concatenated")
        parts = {name: [getattr(p, name) for p in predictions] for name in PER_OBJECT}
        whole: dict[str, Any] = {
            name: None if any(one is None for one in some) else torch.cat(some) for name, some in parts.items()
        }
        return replace(first, **whole)[whole["scores"].sort(descending=True, stable=True).indices]

    def cpu(self) -> Self:
        return with_tensors(self, lambda tensor: tensor.detach().cpu())

    def above(self, threshold: Threshold) -> Self:
        """Only the detections with a score of at least `threshold`; pixels of all others belong to no segment.

        Args:
            threshold: a score in [0, 1], or a list of scores, indexed by label.

        Raises:
            UserError: the threshold is not in [0, 1], or is a list without a score for each class.
        """
        check_threshold(threshold, classes=len(self.names) or None)
        return self[reach(self.scores, self.labels, threshold)]

    def filter(
        self,
        *,
        classes: str | int | Sequence[str | int] | None = None,
        threshold: Threshold = 0.0,
        min_area: float = 0.0,
        max_area: float = float("inf"),
    ) -> Self:
        """Only the detections of some classes, scores and areas.

        Args:
            classes: a name or a label, or several; a name that several classes have means all of them.
            threshold: the lowest score, as in `above`.
            min_area, max_area: the bounds of the areas, in pixels, of masks or, without these, of boxes.

        Raises:
            UserError: there is no such class, or the threshold is not in [0, 1].
        """
        check_threshold(threshold, classes=len(self.names) or None)
        areas = self.areas
        keep = reach(self.scores, self.labels, threshold) & (areas >= min_area) & (areas <= max_area)
        if classes is not None:
            wanted = [classes] if isinstance(classes, str) else np.atleast_1d(np.asarray(classes, object)).tolist()
            labels = [label for one in wanted for label in self._labels(one)]
            keep &= torch.isin(self.labels, torch.tensor(labels, dtype=self.labels.dtype, device=self.labels.device))
        return self[keep]

    @property
    def areas(self) -> Tensor:
        """`(T,)` float, the areas of the masks or, without these, of the boxes, in pixels."""
        if self.masks is not None:
            return self.masks.flatten(1).sum(1).to(self.scores.dtype)
        width, height = (self.boxes_xyxy[:, 2:] - self.boxes_xyxy[:, :2]).clamp(min=0).unbind(1)
        return width * height

    def describe(self) -> str:
        """What was found, in a few words: how many of each class or, of a semantic map, the share of each class."""
        if self.semantic is not None:
            labels, areas = np.unique(self.semantic.cpu().numpy(), return_counts=True)
            shares = sorted(zip((areas / areas.sum()).tolist(), labels.tolist()), reverse=True)
            return ", ".join(f"{share:.0%} {self.name_of(label)}" for share, label in shares if share >= 0.005)
        counts = Counter(self.name_of(label) for label in self.labels.tolist())
        return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"

    def category_of(self, label: int) -> int:
        """The data set's id of a label, or the label where ids are not known."""
        return self.category_ids[label] if len(self.category_ids) else label

    def name_of(self, label: int) -> str:
        """The class name of a label, or the label's number if names are not known."""
        return self.names[label] if len(self.names) else str(label)

    def _labels(self, one: str | int) -> list[int]:
        """The labels of the classes of a name, or the one that is given."""
        names = list(self.names)
        if isinstance(one, str):
            if one not in names:
                near = get_close_matches(one, names, 1) or names[:5]
                raise UserError(
                    f"there is no class {one!r}; " + (f"did you mean {near[0]!r}?" if near else "no names are known")
                )
            return [label for label, name in enumerate(names) if name == one]
        if names and not 0 <= one < len(names):
            raise UserError(f"there is no label {one!r}: the {len(names)} classes have 0 to {len(names) - 1}")
        return [int(one)]


def _same(a: Any, b: Any) -> bool:
    tensors = isinstance(a, Tensor) + isinstance(b, Tensor)
    return torch.equal(a, b) if tensors == 2 else not tensors and a == b


def _positions(index: Any, count: int) -> Tensor:
    """What selects some of `count` entries of a tensor: numbers or truth values."""
    if isinstance(index, Tensor):
        return index if len(index) else index.long()
    # a slice of a tensor can't go backwards
    values = np.array(range(*index.indices(count))) if isinstance(index, slice) else np.asarray(index)
    # an empty list has no type of its own
    return torch.from_numpy(values.astype(np.int64) if not values.size else values)
