"""The base of metrics that sum the counts of single images."""

import hashlib
from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from vitdet.annotations.index import DIGITS
from vitdet.errors import UserError
from vitdet.metrics.base import Metric
from vitdet.structures import Prediction


class PerImageMetric(Metric):
    """Base of the metrics that need only an array of counts for every image; images without a prediction don't count.

    Args:
        start: the array of counts before the first image, which is zero.
        total: the number of images in the data set.
        seen_only: whether only images that were given to `update` are scored, see `Metric`.
    """

    # the name of the metric in `protocol`
    what: str
    # the class names
    names: list[str]

    def __init__(self, start: np.ndarray, total: int, *, seen_only: bool) -> None:
        super().__init__(total, seen_only=seen_only)
        self._parts: dict[int, np.ndarray] = {}
        self._hashes: dict[int, int] = {}
        self._images, self._digest = 0, ""
        self.add_state("counts", torch.from_numpy(start), dist_reduce_fx="sum")
        # the sum of the hashes of the ground truth of all images, modulo 2**64
        self.add_state("hashes", torch.tensor(0), dist_reduce_fx="sum")

    @abstractmethod
    def _count(self, image_id: int, prediction: Prediction) -> np.ndarray:
        """The counts of an image, whose prediction is on the CPU."""

    def reset(self) -> None:
        super().reset()
        self._parts.clear()
        self._hashes.clear()

    def _hash(self, image_id: int, *truth: np.ndarray) -> None:
        """Notes the ground truth of an image, for the hash of all data."""
        digest = hashlib.blake2b(str(image_id).encode(), digest_size=8)
        for array in truth:
            digest.update(np.ascontiguousarray(array).data)
        self._hashes[image_id] = int.from_bytes(digest.digest(), "little")

    def _add(self, image_id: int, prediction: Prediction) -> None:
        self._parts[image_id] = self._count(image_id, prediction)

    def _pack(self, images: list[int]) -> None:
        total = sum(self._hashes.get(i, 0) for i in images) % 2**64
        # as a number with a sign, which overflows as one without does
        self.hashes = torch.tensor(total - 2**64 if total >= 2**63 else total)
        self.counts = torch.from_numpy(sum((self._parts[i] for i in images), self._defaults["counts"].numpy()))

    def _total(self) -> np.ndarray:
        """The sum of the counts of all images of all processes."""
        self._images = len(self.images)
        self._digest = f"{int(self.hashes) % 2**48:0{DIGITS}x}"
        return self.counts.numpy()

    def protocol(self) -> str:
        some = f"only the {self._images} images seen of {self.total}"
        which = f"all {self.total} images" if self._images == self.total else some
        counted = f"{self.what}, {which}, {len(self.names)} classes, classes that never occur not averaged"
        return f"{counted}, data {self._digest}" if self._digest else counted


def check_map(found: Tensor | None, shape: tuple[int, ...], image_id: int) -> np.ndarray:
    """A predicted map `(H, W)` as an array.

    Args:
        found: the predicted map.
        shape: `(H, W)` of the ground truth in pixels.
        image_id: the id of the image, for error messages.

    Raises:
        UserError: there is no map, or its shape is not that of the ground truth.
    """
    if found is None or tuple(found.shape) != shape:
        got = "no map" if found is None else f"a map of {tuple(found.shape)}"
        raise UserError(f"image id {image_id}: got {got}, wanted one of {shape} (H, W)")
    return found.numpy()
