"""The COCO box protocol: ground truth and detections in, the twelve numbers and the AP of each class out.

I images, A annotations, D detections, K classes, 10 IoU thresholds, 101 recall levels, 4 area ranges (all, small, medium, large)

The arithmetic is that of pycocotools, run by `ultrafast_pycocotools`; the tests hold it to pycocotools on generated cases.
Images, classes and annotations reach the evaluator renumbered, because pycocotools takes annotation id 0 for "unmatched".
"""

import contextlib
import io
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from ultrafast_pycocotools import COCO, COCOeval

from vitdet.data.index import CocoIndex

EVALUATOR = f"ultrafast-pycocotools {version('ultrafast-pycocotools')}"
ABSENT = -1.0  # what COCO writes where there is no ground truth to find


@dataclass
class GroundTruth:
    """What is to be found: images 0..I-1 in the order of their ids, classes 0..K-1, boxes `(A, 4)` as left, top, width, height in pixels.

    Images are in the order of their ids since pycocotools breaks ties between equal scores in that order.
    """

    image_ids: np.ndarray  # (I,) ascending
    image: np.ndarray  # (A,) in 0..I-1
    label: np.ndarray  # (A,) in 0..K-1
    boxes_xywh: np.ndarray
    area: np.ndarray  # (A,)
    iscrowd: np.ndarray  # (A,)
    names: list[str]
    category_ids: list[int]

    @classmethod
    def of(cls, index: CocoIndex) -> "GroundTruth":
        order = np.argsort(index.image_ids)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        image = np.repeat(rank, np.diff(index.first))  # (I,) -> (A,)
        arrays = (image, index.categories, index.boxes_xywh, index.area, index.iscrowd)
        return cls(index.image_ids[order], *arrays, index.names, index.category_ids)

    def keys(self) -> list[str]:
        """How each class is called in results: `AP/<name>`, with its id where two classes share a name."""
        shared = {name for name in self.names if self.names.count(name) > 1}
        return [f"AP/{n} ({i})" if n in shared else f"AP/{n}" for n, i in zip(self.names, self.category_ids)]

    def as_coco(self) -> COCO:
        columns = zip(self.image.tolist(), self.label.tolist(), self.boxes_xywh.tolist(), self.area.tolist())
        crowd = self.iscrowd.astype(int).tolist()
        annotations = [
            {"id": i + 1, "image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": crowd[i]}
            for i, (image, label, box, area) in enumerate(columns)
        ]
        images = [{"id": i} for i in range(len(self.image_ids))]
        categories = [{"id": k, "name": name} for k, name in enumerate(self.names)]
        return COCO({"images": images, "categories": categories, "annotations": annotations}, verbose=False)


def max_dets_levels(max_dets: int) -> list[int]:
    """The numbers of detections at which recall is reported: 1, 10 and `max_dets`."""
    return sorted({min(1, max_dets), min(10, max_dets), max_dets})


def average_precision(
    truth: GroundTruth, detections: np.ndarray, *, images: np.ndarray | None = None, max_dets: int = 100
) -> dict[str, float]:
    """The COCO numbers of `detections` `(D, 7)`: image 0..I-1, left, top, width, height, score, class 0..K-1.

    Only `images` (positions, all by default) are scored. `AP` averages 10 IoU thresholds, 0.50 to 0.95; `s`, `m`, `l` stand for areas up to 32²,
    up to 96² and above; `ARn` is the recall at n detections a class and image; `-1` says there is no ground truth of that kind.
    Protocol: Lin et al. 2014 (arXiv:1405.0312), as implemented by pycocotools.
    """
    levels = max_dets_levels(max_dets)
    images = np.arange(len(truth.image_ids)) if images is None else np.asarray(images)
    precision = np.full((10, 101, len(truth.names), 4, len(levels)), ABSENT)
    recall = np.full((10, len(truth.names), 4, len(levels)), ABSENT)
    if len(images):  # the evaluator takes an empty list for "all"
        with contextlib.redirect_stdout(io.StringIO()):  # it reports on a conversion that is no news
            coco = truth.as_coco()
            evaluator = COCOeval(coco, coco.loadRes(detections), "bbox", print_function=lambda _: None)
        evaluator.params.imgIds, evaluator.params.maxDets = images.tolist(), levels
        evaluator.evaluate()
        evaluator.accumulate()
        precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    return _summary(precision, recall, levels) | {
        key: _mean(precision[:, :, k, 0, -1]) for k, key in enumerate(truth.keys())
    }


def _mean(values: np.ndarray) -> float:
    present = values[values > ABSENT]
    return float(present.mean()) if present.size else ABSENT


def _summary(precision: np.ndarray, recall: np.ndarray, levels: list[int]) -> dict[str, float]:
    """`precision` `(10, 101, K, 4, M)` and `recall` `(10, K, 4, M)` -> the twelve numbers."""
    numbers = {
        "AP": precision[..., 0, -1],
        "AP50": precision[0, ..., 0, -1],
        "AP75": precision[5, ..., 0, -1],
        "APs": precision[..., 1, -1],
        "APm": precision[..., 2, -1],
        "APl": precision[..., 3, -1],
    }
    numbers |= {f"AR{n}": recall[..., 0, m] for m, n in enumerate(levels)}
    numbers |= {"ARs": recall[..., 1, -1], "ARm": recall[..., 2, -1], "ARl": recall[..., 3, -1]}
    return {name: _mean(values) for name, values in numbers.items()}
