"""A metric that adds up what is counted in each image.  # H×W an image in pixels"""

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from vitdet.errors import UserError
from vitdet.metrics.base import Metric
from vitdet.structures import Prediction


class PerImageMetric(Metric):
    """Base of those that keep an array of counts for every image, and need no more; they never count an image that they
    were not given.

    Args:
        start: an array of counts of no image.
        total, seen_only: see `Metric`.
    """

    what: str  # for `protocol`
    names: list[str]

    def __init__(self, start: np.ndarray, total: int, *, seen_only: bool) -> None:
        super().__init__(total, seen_only=seen_only)
        self._parts: dict[int, np.ndarray] = {}
        self._images = 0
        self.add_state("counts", torch.from_numpy(start), dist_reduce_fx="sum")

    @abstractmethod
    def _count(self, image_id: int, prediction: Prediction) -> np.ndarray:
        """What is counted in one image; the prediction is on the CPU."""

    def reset(self) -> None:
        super().reset()
        self._parts.clear()

    def _add(self, image_id: int, prediction: Prediction) -> None:
        self._parts[image_id] = self._count(image_id, prediction)

    def _pack(self, images: list[int]) -> None:
        self.counts = torch.from_numpy(sum((self._parts[i] for i in images), self._defaults["counts"].numpy()))

    def _total(self) -> np.ndarray:
        """The counts of all images of all processes."""
        self._images = len(self.images)
        return self.counts.numpy()

    def protocol(self) -> str:
        some = f"only the {self._images} images seen of {self.total}"
        which = f"all {self.total} images" if self._images == self.total else some
        return f"{self.what}, {which}, {len(self.names)} classes, classes that never occur not averaged"


def check_map(found: Tensor | None, shape: tuple[int, ...], image_id: int) -> np.ndarray:
    """A predicted map `(H, W)` as an array.

    Raises:
        ValueError: there is none, or it is not of the `shape` of the truth.
    """
    if found is None or tuple(found.shape) != shape:
        got = "no map" if found is None else f"a map of {tuple(found.shape)}"
        raise UserError(f"image id {image_id}: got {got}, wanted one of {shape} (H, W)")
    return found.numpy()
