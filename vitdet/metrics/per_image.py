"""A metric that adds up what is counted in each image.  # H×W an image in pixels"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from vitdet.errors import UserError
from vitdet.metrics.ranks import gather
from vitdet.structures import Prediction, Target


class PerImageMetric:
    """Base of those that keep an array of counts for every image, and need no more.

    Attributes:
        total: how many images the data has.
        seen_only: set by a `Task`; these metrics never count an image that they were not given.
    """

    what: str  # for `protocol`
    names: list[str]

    def __init__(self, total: int) -> None:
        self.total, self.seen_only, self._images = total, False, 0
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._parts: dict[int, np.ndarray] = {}

    def _count(self, image_id: int, prediction: Prediction) -> np.ndarray:
        """What is counted in one image; the prediction is on the CPU."""
        raise NotImplementedError

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target] | None = None) -> None:
        """Add some images; image ids come from `targets` where given, else from the predictions.

        Raises:
            ValueError: an image was given twice, or a map has another size than the truth.
        """
        ids = [int(one.image_id) for one in (predictions if targets is None else targets)]
        for image_id, prediction in zip(ids, predictions):
            if image_id in self._parts:
                raise UserError(f"image id {image_id} was given twice; call reset() before another evaluation")
            self._parts[image_id] = self._count(image_id, prediction.cpu())

    def _sum(self, start: np.ndarray) -> np.ndarray:
        """`start` plus the counts of all images of all processes; an image that several had counts once."""
        parts: dict[int, np.ndarray] = {}
        for part in gather(self._parts):
            parts.update(part)
        self._images = len(parts)
        return sum(parts.values(), start)

    def protocol(self) -> str:
        """One line that says how the last `compute` counted."""
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
