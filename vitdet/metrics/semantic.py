"""Mean IoU of semantic maps.  # K classes, H×W an image in pixels"""

from collections.abc import Callable, Sequence

import numpy as np

from vitdet.metrics.ranks import gather
from vitdet.structures import Prediction, Target


class SemanticMetric:
    """Intersection over union of each class over the pixels of all images, and its mean.

    IoU = TP / (TP + FP + FN), pixels added up over the data set, as in PASCAL VOC and Cityscapes. A class that neither the labels nor the
    predictions ever have is -1 and not averaged; one that is only predicted has 0. Pixels labelled `VOID` are not counted.

    Args:
        labels: gives the `(H, W)` uint8 label map of an image, by its id.
        names: the class names, by label.
        total: how many images there are.
    """

    def __init__(self, labels: Callable[[int], np.ndarray], names: Sequence[str], total: int) -> None:
        self.labels, self.names, self.total = labels, list(names), total
        self.seen_only = False
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._parts: dict[int, np.ndarray] = {}  # image id -> its (K, K) counts: true class, predicted class

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target] | None = None) -> None:
        """Add some images; `Prediction.semantic` is `(H, W)` at the image's original size.

        Raises:
            ValueError: an image was given twice, or a map has another size than the labels.
        """
        ids = [int(one.image_id) for one in (predictions if targets is None else targets)]
        for image_id, prediction in zip(ids, predictions):
            if image_id in self._parts:
                raise ValueError(f"image id {image_id} was given twice; call reset() before another evaluation")
            truth = self.labels(image_id)
            found = prediction.cpu().semantic
            if found is None or tuple(found.shape) != truth.shape:
                got = "no semantic map" if found is None else f"a map of {tuple(found.shape)}"
                raise ValueError(f"image id {image_id}: got {got}, wanted one of {truth.shape} (H, W)")
            self._parts[image_id] = confusion(truth, found.numpy(), len(self.names))

    def compute(self) -> dict[str, float]:
        """`mIoU`, `pixel_accuracy`, `mean_accuracy` and `IoU/<class name>`, in [0, 1]; -1 where a class never occurs.

        Under `torch.distributed` every process must call it; an image that several had counts once.
        """
        parts: dict[int, np.ndarray] = {}
        for part in gather(self._parts):
            parts.update(part)
        self._images = len(parts)
        counts = sum(parts.values(), np.zeros((len(self.names),) * 2, np.int64))
        hit, true, found = np.diag(counts), counts.sum(1), counts.sum(0)
        ious = _ratio(hit, true + found - hit)
        scores = {
            "mIoU": _mean(ious),
            "pixel_accuracy": float(_ratio(hit.sum(), counts.sum())),
            "mean_accuracy": _mean(_ratio(hit, true)),
        }
        return scores | {f"IoU/{name}": float(iou) for name, iou in zip(self.names, ious)}

    def protocol(self) -> str:
        """One line that says how the last `compute` counted."""
        images = getattr(self, "_images", 0)
        which = f"all {self.total} images" if images == self.total else f"only the {images} images seen of {self.total}"
        return f"mean IoU of pixels, {which}, {len(self.names)} classes, void left out, classes that never occur not averaged"


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
