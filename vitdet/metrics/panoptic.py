"""Panoptic quality, Kirillov et al. 2019 (arXiv:1801.00868), and results in COCO's panoptic format.

An id map `(H, W)` holds the number of the segment of each pixel, and 0 for void pixels. K is the number of classes, S
of segments in an image, and H×W the size of an image in pixels.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from vitdet.metrics.base import distributed, rank
from vitdet.metrics.per_image import PerImageMetric, check_map
from vitdet.structures import Prediction


@dataclass
class Segments:
    """The segments of an image.

    Attributes:
        ids: the id map, `(H, W)`.
        numbers: `(S,)`, the number of each segment in the id map.
        labels: `(S,)`, the class of each segment.
        crowd: `(S,)` bool, the crowd flag of each segment.
    """

    ids: np.ndarray
    numbers: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray


class PanopticMetric(PerImageMetric):
    """Panoptic quality, PQ = SQ × RQ, over all images, for all classes, things and stuff.

    Args:
        truth: a function that returns the true segments of an image, given its id, as the fields of `Segments`.
        names: the K class names, indexed by label.
        things: K flags, true for a class of things.
        category_ids: the K category ids of the data set, for `save`.
        total: the number of images in the data set.
        seen_only: whether only images that were given to `update` are scored, see `Metric`.
    """

    saves = True

    what = "panoptic quality, IoU > 0.5"

    def __init__(
        self,
        truth: Callable[[int], tuple],
        names: Sequence[str],
        things: Sequence[bool],
        category_ids: Sequence[int],
        total: int,
        *,
        seen_only: bool = False,
    ) -> None:
        super().__init__(np.zeros((4, len(names))), total, seen_only=seen_only)
        self.truth, self.names, self.things = truth, list(names), np.asarray(things, bool)
        self.category_ids = list(category_ids)
        self._kept: dict[int, tuple[bytes, list[dict[str, Any]]]] = {}

    def reset(self) -> None:
        super().reset()
        self._kept.clear()

    def _count(self, image_id: int, prediction: Prediction) -> np.ndarray:
        truth, labels = Segments(*self.truth(image_id)), prediction.labels.numpy()
        self._hash(image_id, truth.ids.astype(np.int32), truth.numbers, truth.labels, truth.crowd)
        ids = check_map(prediction.panoptic, truth.ids.shape, image_id)
        segments = Segments(ids, np.arange(len(labels)) + 1, labels, np.zeros(len(labels), bool))
        self._kept[image_id] = replace(prediction, category_ids=self.category_ids).to_coco_panoptic()
        return count(truth, segments, len(self.names))

    def compute(self) -> dict[str, float]:
        """The scores, in [0, 1], or -1 if no segment of that kind occurs.

        They are `PQ`, `SQ` and `RQ`, these three with the endings `_things` and `_stuff`, and `PQ/<class name>`. Under
        `torch.distributed` every process must call it; an image that several processes had counts once.
        """
        iou, tp, fp, fn = self._total()
        occurs = tp + fp + fn > 0
        pq = np.where(occurs, iou / np.maximum(tp + fp / 2 + fn / 2, 0.5), -1.0)
        sq = np.where(occurs, iou / np.maximum(tp, 1), -1.0)
        rq = np.where(occurs, tp / np.maximum(tp + fp / 2 + fn / 2, 0.5), -1.0)
        scores = {}
        for suffix, group in (("", occurs), ("_things", occurs & self.things), ("_stuff", occurs & ~self.things)):
            for name, values in (("PQ", pq), ("SQ", sq), ("RQ", rq)):
                scores[name + suffix] = float(values[group].mean()) if group.any() else -1.0
        return scores | {f"PQ/{name}": float(value) for name, value in zip(self.names, pq)}

    def save(self, path: str | Path) -> None:
        """Write all predictions in COCO's panoptic format: a JSON file, and a folder of PNGs named after it.

        Under `torch.distributed` every process must call it, and rank 0 writes the files.
        """
        parts: list = [self._kept]
        if distributed():
            parts *= dist.get_world_size()
            dist.all_gather_object(parts, self._kept)
        if rank() == 0:
            write_panoptic(path, dict(item for part in parts for item in part.items()))


def write_panoptic(
    path: str | Path,
    found: Mapping[int, tuple[bytes, list[dict[str, Any]]]],
    *,
    files: Mapping[int, str] | None = None,
) -> None:
    """Write a JSON file in COCO's panoptic format, and a folder of PNGs named after it.

    Args:
        path: the JSON file.
        found: the result of `Prediction.to_coco_panoptic()` for each image, keyed by the image id.
        files: the name of each image, keyed by the image id, for a list of `images` in the JSON; by default there is
            none.
    """
    path = Path(path)
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for image_id, (png, info) in sorted(found.items()):
        name = f"{image_id:012d}.png"
        (folder / name).write_bytes(png)
        rows.append({"image_id": image_id, "file_name": name, "segments_info": info})
    images = {"images": [{"id": i, "file_name": name} for i, name in files.items()]} if files is not None else {}
    path.write_text(json.dumps({**images, "annotations": rows}), encoding="utf-8")


def count(truth: Segments, found: Segments, num_classes: int) -> np.ndarray:
    """Match the true and the predicted segments of an image, and count the matches of each class.

    Two segments match if they have equal classes and an IoU above 0.5; pixels that are void in the ground truth don't
    count in the union, and crowds match nothing. A predicted segment of which more than half lies on void pixels or on
    crowds of its class is no false positive.

    Returns:
        `(4, K)`: the sum of the IoUs of true positives, and the numbers of true positives, false positives and false
        negatives, for each class.
    """
    pairs, pixels = np.unique(truth.ids.astype(np.int64) << 32 | found.ids.astype(np.int64), return_counts=True)
    shared = {(int(pair >> 32), int(pair & 0xFFFFFFFF)): int(n) for pair, n in zip(pairs, pixels)}
    area, area_found = {}, {}
    for (a, b), n in shared.items():
        area[a], area_found[b] = area.get(a, 0) + n, area_found.get(b, 0) + n
    real = {int(n): (int(k), bool(c)) for n, k, c in zip(truth.numbers, truth.labels, truth.crowd)}
    mine = {int(n): int(k) for n, k in zip(found.numbers, found.labels) if int(n) in area_found}
    result = np.zeros((4, num_classes))
    matched = set()
    for (a, b), n in shared.items():
        if a not in real or b not in mine or real[a][1] or real[a][0] != mine[b]:
            continue
        iou = n / (area[a] + area_found[b] - n - shared.get((0, b), 0))
        if iou > 0.5:
            result[:2, mine[b]] += iou, 1
            matched |= {("true", a), ("found", b)}
    for a, (label, crowd) in real.items():
        if not crowd and ("true", a) not in matched:
            result[3, label] += 1
    for b, label in mine.items():
        ignored = [0, *(a for a, (kind, crowd) in real.items() if crowd and kind == label)]
        if ("found", b) not in matched and sum(shared.get((a, b), 0) for a in ignored) <= 0.5 * area_found[b]:
            result[2, label] += 1
    return result
