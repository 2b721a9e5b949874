"""Mean IoU of semantic maps.  # K classes, H×W an image in pixels"""

from collections.abc import Callable, Sequence

import numpy as np

from vitdet.metrics.per_image import PerImageMetric, check_map
from vitdet.structures import Prediction


class SemanticMetric(PerImageMetric):
    """Intersection over union of each class over the pixels of all images, and its mean.

    IoU = TP / (TP + FP + FN), pixels added up over the data set, as in PASCAL VOC and Cityscapes. A class that neither the labels nor the
    predictions ever have is -1 and not averaged; one that is only predicted has 0. Pixels labelled `VOID` are not counted.

    Args:
        labels: gives the `(H, W)` uint8 label map of an image, by its id.
        names: the class names, by label.
        total, seen_only: see `Metric`.
    """

    what = "mean IoU of pixels, void left out"

    def __init__(
        self, labels: Callable[[int], np.ndarray], names: Sequence[str], total: int, *, seen_only: bool = False
    ) -> None:
        super().__init__(np.zeros((len(names),) * 2, np.int64), total, seen_only=seen_only)
        self.labels, self.names = labels, list(names)

    def _count(self, image_id: int, prediction: Prediction) -> np.ndarray:
        truth = self.labels(image_id)
        return confusion(truth, check_map(prediction.semantic, truth.shape, image_id), len(self.names))

    def compute(self) -> dict[str, float]:
        """`mIoU`, `pixel_accuracy`, `mean_accuracy` and `IoU/<class name>`, in [0, 1]; -1 where a class never occurs.

        Under `torch.distributed` every process must call it; an image that several had counts once.
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
    """`(K, K)` how many pixels of each true class (row) were given each class (column); `VOID` and other values of `truth` are left out."""
    counted = truth < num_classes
    pairs = truth[counted].astype(np.int64) * num_classes + found[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), -1.0)


def _mean(values: np.ndarray) -> float:
    present = values[values >= 0]
    return float(present.mean()) if present.size else -1.0
