"""COCO box AP of a model while it trains, on one process or many.

I images, T detections of one image, D detections of all, K classes
"""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from vitdet.metrics.average_precision import EVALUATOR, average_precision, max_dets_levels
from vitdet.metrics.ground_truth import GroundTruth
from vitdet.structures import Prediction, Target

log = logging.getLogger("vitdet")


class CocoMetric:
    """COCO box AP and AR over all images of an annotation file (a path, or its content).

    A prediction's labels mean its own `category_ids`; where it has none, the file's ids in ascending order. Detections are kept as one row of seven
    numbers, so 5,000 images × 100 detections take 28 MB.

    Attributes:
        seen_only: score only the images that `update` was given, for sanity checks and `limit_val_batches`. By default an image that was
            never given counts as missed.
    """

    def __init__(
        self, annotations: str | Path | Mapping[str, Any], *, max_dets: int = 100, seen_only: bool = False
    ) -> None:
        if max_dets < 1:
            raise ValueError(f"max_dets is {max_dets}; COCO counts at least 1 detection an image")
        self.truth = GroundTruth.read(annotations)
        self.max_dets, self.seen_only = max_dets, seen_only
        self._position_of = {number: i for i, number in enumerate(self.truth.image_ids.tolist())}
        self._label_of = {number: k for k, number in enumerate(self.truth.category_ids)}
        self._maps: dict[tuple[int, ...], np.ndarray] = {}
        for reason, count in self.truth.notes.items():
            log.warning("%d %s", count, reason)
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._rows: list[np.ndarray] = []  # each (T, 7): image, left, top, width, height, score, class
        self._seen: dict[int, None] = {}  # positions of the images, in the order they came
        self._protocol = ""

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target] | None = None) -> None:
        """Add the predictions of some images; image ids come from `targets` where given, else from the predictions.

        Raises:
            ValueError: an image or a category that the annotation file does not have, an image given twice, a label that is no class, or a
                score or box that is not finite.
        """
        if targets is not None and len(targets) != len(predictions):
            raise ValueError(
                f"got {len(predictions)} predictions for {len(targets)} targets; wanted one of each per image"
            )
        ids = [int(one.image_id) for one in (predictions if targets is None else targets)]
        for image_id, prediction in zip(ids, predictions):
            position = self._position_of.get(image_id)
            if position is None:
                raise ValueError(
                    f"image id {image_id} is not in the annotation file; evaluate on the data it describes"
                )
            if position in self._seen:
                raise ValueError(f"image id {image_id} was given twice; call reset() before another evaluation")
            self._rows.append(self._rows_of(position, image_id, prediction.cpu()))
            self._seen[position] = None

    def _rows_of(self, position: int, image_id: int, prediction: Prediction) -> np.ndarray:
        """`(T, 7)`: what is kept of a prediction."""
        labels = self._labels(prediction.labels.numpy(), tuple(prediction.category_ids), image_id)
        boxes = prediction.boxes_xyxy.double().numpy().reshape(-1, 4)
        scores = prediction.scores.double().numpy()
        image = np.full(len(labels), position)
        rows = np.column_stack([image, boxes[:, :2], boxes[:, 2:] - boxes[:, :2], scores, labels])
        wrong = ~np.isfinite(rows).all(1)
        if wrong.any():
            first = int(wrong.argmax())
            raise ValueError(
                f"image id {image_id}: {wrong.sum()} of {len(rows)} detections are not finite, the first has score {scores[first]} and box "
                f"{boxes[first].tolist()}; the model has diverged, or was run in a type too narrow for it"
            )
        return rows

    def _labels(self, labels: np.ndarray, category_ids: tuple[int, ...], image_id: int) -> np.ndarray:
        """A prediction's labels `(T,)` -> classes of the annotation file `(T,)`."""
        if category_ids not in self._maps:
            known = category_ids or self.truth.category_ids
            self._maps[category_ids] = np.array([self._label_of.get(int(i), -1) for i in known], dtype=np.int64)
        classes = self._maps[category_ids]
        outside = labels[(labels < 0) | (labels >= len(classes))]
        if len(outside):
            raise ValueError(f"image id {image_id}: label {outside[0]} is no class; wanted 0..{len(classes) - 1}")
        found = classes[labels]
        if (found < 0).any():
            unknown = category_ids[labels[found < 0][0]]
            raise ValueError(
                f"image id {image_id}: category id {unknown} is not in the annotation file, which has {_few(self.truth.category_ids)}"
            )
        return found

    def compute(self) -> dict[str, float]:
        """`AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, `AR1`, `AR10`, `AR100`, `ARs`, `ARm`, `ARl` and `AP/<class name>`, in [0, 1];
        -1 where there is nothing to find. With another `max_dets`, `AR100` is called after that.

        Under `torch.distributed` every process must call it; each gets the numbers of all, every image counted once.
        """
        rows, seen, notes = self._gathered()
        total = len(self.truth)
        if not self.seen_only and len(seen) < total:
            notes["images got no prediction and count as missed"] = total - len(seen)
        if _rank() == 0:
            for reason, count in notes.items():
                log.warning("%d %s", count, reason)
        images = seen if self.seen_only else np.arange(total)
        self._protocol = protocol(self.truth, max_dets=self.max_dets, images=len(images), notes=notes)
        return average_precision(self.truth, rows, images=images, max_dets=self.max_dets)

    def protocol(self) -> str:
        """One line that says how the last `compute` counted: images, evaluator, limits, and what was left out."""
        return self._protocol or protocol(self.truth, max_dets=self.max_dets, images=len(self.truth))

    def save(self, path: str | Path) -> None:
        """Write all predictions as a COCO results file, in the data set's own ids.

        Under `torch.distributed` every process must call it; the first one writes.
        """
        rows, _, _ = self._gathered()
        if _rank() != 0:
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        image_ids = self.truth.image_ids[rows[:, 0].astype(int)].tolist()
        categories = np.array(self.truth.category_ids, dtype=np.int64)[rows[:, 6].astype(int)].tolist()
        columns = zip(image_ids, categories, rows[:, 1:5].tolist(), rows[:, 5].tolist())
        with open(path, "w", encoding="utf-8") as file:
            json.dump([dict(zip(("image_id", "category_id", "bbox", "score"), row)) for row in columns], file)

    def _gathered(self) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
        """Rows `(D, 7)`, positions of the images seen, and notes, of all processes; an image that two had is kept once."""
        mine = (np.concatenate([np.empty((0, 7)), *self._rows]), np.fromiter(self._seen, dtype=np.int64))
        if not (dist.is_available() and dist.is_initialized()):
            return merge([mine])
        parts: list = [None] * dist.get_world_size()
        dist.all_gather_object(parts, mine)
        return merge(parts)


def merge(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """One `(rows, seen)` from those of several processes, and notes; of an image that several had, the first is kept.

    Samplers repeat images so that all processes have equally many; the repeats are counted.
    """
    kept, seen, notes = [], np.empty(0, dtype=np.int64), Counter()
    for rows, positions in parts:
        repeated = np.intersect1d(positions, seen)
        kept.append(rows[~np.isin(rows[:, 0], repeated)])
        seen = np.union1d(seen, positions)
        notes["images dropped: another process had them too"] += len(repeated)
    return np.concatenate(kept), seen, +notes


def protocol(truth: GroundTruth, *, max_dets: int, images: int, notes: Mapping[str, int] | None = None) -> str:
    """The line printed with every result."""
    total = len(truth)
    parts = [
        "COCO box AP",
        f"only the {images} images seen of {total}" if images != total else f"all {total} images",
        f"{len(truth.names)} classes",
        "IoU 0.50:0.95",
        f"maxDets {'/'.join(map(str, max_dets_levels(max_dets)))}",
        EVALUATOR,
    ]
    return ", ".join(parts + [f"{count} {reason}" for reason, count in {**truth.notes, **(notes or {})}.items()])


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _few(values: Sequence[int]) -> str:
    return f"{list(values[:10])}{' …' if len(values) > 10 else ''}"
