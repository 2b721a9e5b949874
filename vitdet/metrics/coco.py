"""COCO box AP of a model while it trains, on one process or many.

I images, T detections of one image, D detections of all, K classes
"""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch.distributed as dist

from vitdet.data.index import CocoIndex
from vitdet.metrics.average_precision import EVALUATOR, GroundTruth, average_precision, max_dets_levels
from vitdet.structures import Prediction, Target

log = logging.getLogger("vitdet")


class CocoMetric:
    """COCO box AP and AR over all images of an annotation file.

    Predictions speak labels 0..K-1 in the order of `category_ids` (by default the file's ids, ascending). They are kept as one row of seven numbers a
    detection, so 5,000 images × 100 detections take 28 MB.

    Attributes:
        images: `"all"` scores every image of the file, so one that was never seen counts as missed; `"seen"` scores only those that `update`
            was given, for sanity checks and `limit_val_batches`.
    """

    def __init__(
        self,
        annotations: str | Path | CocoIndex,
        *,
        category_ids: Sequence[int] | None = None,
        max_dets: int = 100,
        images: Literal["all", "seen"] = "all",
    ) -> None:
        index = annotations if isinstance(annotations, CocoIndex) else CocoIndex.open(annotations)
        if max_dets < 1:
            raise ValueError(f"max_dets is {max_dets}; COCO counts at least 1 detection an image")
        self.truth = GroundTruth.of(index)
        self.max_dets, self.images = max_dets, images
        self._label_of = _label_map(self.truth, category_ids)
        self._position_of = {number: i for i, number in enumerate(self.truth.image_ids.tolist())}
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._rows: list[np.ndarray] = []  # each (T, 7): image, left, top, width, height, score, class
        self._seen: dict[int, None] = {}  # positions of the images, in the order they came
        self._dropped: Counter[str] = Counter()
        self._protocol = ""

    def update(self, predictions: Sequence[Prediction], targets: Sequence[Target] | None = None) -> None:
        """Add the predictions of some images; image ids come from `targets` where given, else from the predictions.

        Raises:
            ValueError: an image that the annotation file does not have, an image given twice, or a label that is no class.
        """
        if targets is not None and len(targets) != len(predictions):
            raise ValueError(
                f"got {len(predictions)} predictions for {len(targets)} targets; wanted one of each per image"
            )
        ids = [one.image_id for one in (predictions if targets is None else targets)]
        for image_id, prediction in zip(ids, predictions):
            position = self._position_of.get(int(image_id))
            if position is None:
                raise ValueError(
                    f"image id {image_id} is not in the annotation file; evaluate on the data it describes"
                )
            if position in self._seen:
                raise ValueError(f"image id {image_id} was given twice; call reset() before another evaluation")
            self._rows.append(self._rows_of(position, prediction.cpu()))
            self._seen[position] = None

    def _rows_of(self, position: int, prediction: Prediction) -> np.ndarray:
        labels = prediction.labels.numpy()
        if labels.size and (labels.min() < 0 or labels.max() >= len(self._label_of)):
            wrong = labels[(labels < 0) | (labels >= len(self._label_of))][0]
            raise ValueError(f"label {wrong} is no class; wanted 0..{len(self._label_of) - 1}")
        boxes = prediction.boxes_xyxy.double().numpy()
        scores = prediction.scores.double().numpy()
        image = np.full(len(labels), position)
        rows = np.column_stack([image, boxes[:, :2], boxes[:, 2:] - boxes[:, :2], scores, self._label_of[labels]])
        finite = np.isfinite(rows).all(1)
        self._dropped["detections dropped: box or score is not finite"] += int((~finite).sum())
        return rows[finite]

    def compute(self) -> dict[str, float]:
        """`AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, `AR1`, `AR10`, `AR100`, `ARs`, `ARm`, `ARl` and `AP/<class name>`, in [0, 1];
        -1 where there is nothing to find.

        Under `torch.distributed` every process must call it; each gets the numbers of all, every image counted once.
        """
        rows, seen, dropped = self._gathered()
        total = len(self.truth.image_ids)
        images = seen if self.images == "seen" else np.arange(total)
        if self.images == "all" and len(seen) < total:
            log.warning("%d of %d images got no prediction and count as missed", total - len(seen), total)
        for reason, count in dropped.items():
            log.warning("%d %s", count, reason)
        self._protocol = protocol(self.truth, max_dets=self.max_dets, images=len(images), notes=dropped)
        return average_precision(self.truth, rows, images=images, max_dets=self.max_dets)

    def protocol(self) -> str:
        """One line that says how the last `compute` counted: images, evaluator, limits, and what was left out."""
        return self._protocol or protocol(
            self.truth, max_dets=self.max_dets, images=len(self.truth.image_ids), notes={}
        )

    def save(self, path: str | Path) -> None:
        """Write all predictions as a COCO results file, in the data set's own ids.

        Under `torch.distributed` every process must call it; the first one writes.
        """
        rows, _, _ = self._gathered()
        if dist.is_available() and dist.is_initialized() and dist.get_rank() != 0:
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        image_ids = self.truth.image_ids[rows[:, 0].astype(int)].tolist()
        categories = np.array(self.truth.category_ids)[rows[:, 6].astype(int)].tolist()
        columns = zip(image_ids, categories, rows[:, 1:5].tolist(), rows[:, 5].tolist())
        with open(path, "w") as file:
            json.dump([dict(zip(("image_id", "category_id", "bbox", "score"), row)) for row in columns], file)

    def _gathered(self) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
        """Rows `(D, 7)`, positions of the images seen, and what was dropped, of all processes; an image that two had is kept once."""
        rows = np.concatenate([np.empty((0, 7)), *self._rows])
        mine = (rows, np.fromiter(self._seen, dtype=np.int64), self._dropped)
        if not (dist.is_available() and dist.is_initialized()):
            return *mine[:2], +self._dropped
        parts: list = [None] * dist.get_world_size()
        dist.all_gather_object(parts, mine)
        return merge(parts)


def merge(parts: Sequence[tuple[np.ndarray, np.ndarray, Counter[str]]]) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """One `(rows, seen, dropped)` from those of several processes; of an image that several had, the first is kept.

    Samplers repeat images so that all processes have equally many; the repeats are counted under `dropped`.
    """
    kept, seen, dropped = [], np.empty(0, dtype=np.int64), Counter()
    for rows, positions, reasons in parts:
        repeated = np.intersect1d(positions, seen)
        kept.append(rows[~np.isin(rows[:, 0], repeated)])
        seen = np.union1d(seen, positions)
        dropped += reasons
        dropped["images dropped: another process had them too"] += len(repeated)
    return np.concatenate(kept), seen, +dropped


def protocol(truth: GroundTruth, *, max_dets: int, images: int, notes: dict[str, int]) -> str:
    """The line printed with every result."""
    total = len(truth.image_ids)
    parts = [
        "COCO box AP",
        f"{images} of {total} images" if images != total else f"all {total} images",
        f"{len(truth.names)} classes",
        "IoU 0.50:0.95",
        f"maxDets {'/'.join(map(str, max_dets_levels(max_dets)))}",
        EVALUATOR,
    ]
    return ", ".join(parts + [f"{count} {reason}" for reason, count in notes.items()])


def _label_map(truth: GroundTruth, category_ids: Sequence[int] | None) -> np.ndarray:
    """`(K,)`: a prediction's label -> a class of `truth`."""
    if category_ids is None:
        return np.arange(len(truth.category_ids))
    unknown = [i for i in category_ids if i not in truth.category_ids]
    if unknown:
        known = f"it has {truth.category_ids[:10]}{'…' if len(truth.category_ids) > 10 else ''}"
        raise ValueError(f"category ids {unknown[:5]} are not in the annotation file; {known}")
    return np.array([truth.category_ids.index(i) for i in category_ids], dtype=np.int64)
