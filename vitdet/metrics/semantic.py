"""The mean IoU of semantic maps; K is the number of classes, H×W the size of an image in pixels."""

from collections.abc import Callable, Sequence

import hotcoco.metrics
import numpy as np

from vitdet.masks import VOID
from vitdet.metrics.per_image import PerImageMetric, check_map
from vitdet.structures import Prediction


class SemanticMetric(PerImageMetric):
    """The intersection over union (IoU) of each class over the pixels of all images, and its mean over the classes.

    IoU = TP / (TP + FP + FN), with pixels summed over the data set, as in PASCAL VOC and Cityscapes. A class that
    occurs neither in the labels nor in the predictions has -1 and is left out of the mean; a class that occurs only in
    the predictions has 0. Pixels labelled `VOID` don't count.

    Args:
        labels: a function that returns the label map `(H, W)` uint8 of an image, given its id.
        names: the K class names, indexed by label.
        total: the number of images in the data set.
        seen_only: whether only images that were given to `update` are scored, see `Metric`.
    """

    what = "mean IoU of pixels, void left out"

    def __init__(
        self, labels: Callable[[int], np.ndarray], names: Sequence[str], total: int, *, seen_only: bool = False
    ) -> None:
        super().__init__(np.zeros((len(names),) * 2, np.int64), total, seen_only=seen_only)
        self.labels, self.names = labels, list(names)

    def _count(self, image_id: int, prediction: Prediction) -> np.ndarray:
        truth = self.labels(image_id)
        self._hash(image_id, truth)
        return confusion(truth, check_map(prediction.semantic, truth.shape, image_id), len(self.names))

    def compute(self) -> dict[str, float]:
        """`mIoU`, `pixel_accuracy`, `mean_accuracy` and `IoU/<class name>`, in [0, 1]; -1 for classes that never occur.

        Under `torch.distributed` every process must call it; an image that several processes had counts once.
        """
        counts = self._total()
        hit, true, found = np.diag(counts), counts.sum(1), counts.sum(0)
        ious = _ratio(hit, true + found - hit)
        scores = {
            "mIoU": _mean(ious),
            "pixel_accuracy": float(_ratio(hit.sum(), counts.sum())),
            "mean_accuracy": _mean(_ratio(hit, true)),
        }
        return scores | {f"IoU/{name}": float(iou) for name, iou in zip(self.names, ious)}


def confusion(truth: np.ndarray, found: np.ndarray, num_classes: int) -> np.ndarray:
    """The confusion matrix of a map: the numbers of pixels of each true class (row) that got each class (column).

    Args:
        truth: the label map, `(H, W)`; pixels with values of K or more, such as `VOID`, are left out.
        found: the predicted map, `(H, W)`, with values in 0..K-1.
        num_classes: K.

    Returns:
        `(K, K)` integers.

    Example:
        >>> confusion(np.array([[0, 1], [1, 255]]), np.array([[0, 1], [0, 1]]), 2).tolist()
        [[1, 0], [1, 1]]
    """
    # hotcoco takes no other value of the truth than a class and one that is left out
    known = np.where(truth < num_classes, truth, VOID).astype(np.uint8)
    return hotcoco.metrics.pixel_confusion(known, found, num_classes, ignore_index=VOID).astype(np.int64)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), -1.0)


def _mean(values: np.ndarray) -> float:
    present = values[values >= 0]
    return float(present.mean()) if present.size else -1.0
