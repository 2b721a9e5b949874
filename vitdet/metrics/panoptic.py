"""Panoptic quality, Kirillov et al. 2019 (arXiv:1801.00868), and results in COCO's panoptic format.

K classes, S segments of one image, H×W an image in pixels
An id map `(H, W)` holds the number of each pixel's segment, 0 for none ("void").
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
    """The segments of one image: `ids` `(H, W)`; the number, the class and the crowd flag of each, `(S,)`."""

    ids: np.ndarray
    numbers: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray


class PanopticMetric(PerImageMetric):
    """PQ = SQ × RQ over all images, all classes, things and stuff.

    Args:
        truth: gives the true segments of an image, by its id: the id map, and number, class and crowd flag of each (the fields of `Segments`).
        names, things, category_ids: of the classes, by label.
        total, seen_only: see `Metric`.
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
        ids = check_map(prediction.panoptic, truth.ids.shape, image_id)
        segments = Segments(ids, np.arange(len(labels)) + 1, labels, np.zeros(len(labels), bool))
        self._kept[image_id] = replace(prediction, category_ids=self.category_ids).to_coco_panoptic()
        return count(truth, segments, len(self.names))

    def compute(self) -> dict[str, float]:
        """`PQ`, `SQ`, `RQ`, the same with `_things` and `_stuff`, and `PQ/<class name>`, in [0, 1]; -1 where there is nothing to count.

        Under `torch.distributed` every process must call it; an image that several had counts once.
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
        """Write all predictions in COCO's panoptic format: a JSON, and a folder of PNGs named like it.

        Under `torch.distributed` every process must call it; the first one writes.
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
    """A JSON in COCO's panoptic format, and a folder of PNGs named like it.

    Args:
        found: `Prediction.to_coco_panoptic()` of each image, by its id.
        files: the name of each image, for a list of `images`.
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
    """`(4, K)`: the sum of the IoUs of true positives, and how many true positives, false positives and false negatives each class has.

    Two segments match if they have the same class and an IoU above 0.5, pixels that are void in the truth left out of the union; crowds match nothing.
    A segment found is no false positive if most of it lies on void, or on a crowd of its class.
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
        ignored = [0, *(a for a, (own, crowd) in real.items() if crowd and own == label)]
        if ("found", b) not in matched and sum(shared.get((a, b), 0) for a in ignored) <= 0.5 * area_found[b]:
            result[2, label] += 1
    return result
