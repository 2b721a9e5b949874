"""COCO AP of a model during training, on any number of processes.

I is the number of images, T of detections in an image, D of detections in all images, and K of classes.
"""

import json
import logging
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from vitdet.annotations import CocoIndex
from vitdet.errors import UserError, check
from vitdet.masks import encode
from vitdet.metrics.average_precision import coco_scores
from vitdet.metrics.base import Metric, rank
from vitdet.metrics.ground_truth import GroundTruth
from vitdet.metrics.protocol import protocol
from vitdet.metrics.thresholds import Matches
from vitdet.ranges import whole
from vitdet.structures import Prediction

log = logging.getLogger("vitdet")


class CocoMetric(Metric):
    """COCO AP and AR of boxes or masks over all images of an annotation file.

    The labels of a prediction are positions in its `category_ids`, or, if these are empty, in the ascending ids of the
    annotation file. A detection is stored as seven numbers, so 5,000 images × 100 detections take 28 MB, and a mask as
    compressed run lengths (5,000 × 100 masks of 640×480 pixels take 128 MB).

    Args:
        annotations: the ground truth: the path, the content or the index of an annotation file.
        iou_type: whether boxes (`bbox`) or masks (`segm`) are scored.
        max_dets: the number of detections of an image and a class that count.
        seen_only: whether only images that were given to `update` are scored, see `Metric`; by default all others count
            as missed.

    Attributes:
        matches: which detections the last `compute` found to be right, for `vitdet.metrics.thresholds`.

    Raises:
        FileNotFoundError: the annotation file does not exist.
        UserError: an option is out of range, or the file is no annotation file.

    Example:
        >>> objects = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81}]
        >>> metric = CocoMetric({"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": objects})
        >>> box = torch.tensor([[0.0, 0.0, 9.0, 9.0]])
        >>> metric.update([Prediction(box, torch.tensor([0.9]), torch.tensor([0]), (20, 20), image_id=1)])
        >>> round(metric.compute()["AP"], 3)
        1.0
    """

    saves = True
    # states, see `Metric.images`
    rows: Any
    masks: Any
    mask_sizes: Any

    def __init__(
        self,
        annotations: str | Path | Mapping[str, Any] | CocoIndex,
        *,
        iou_type: Literal["bbox", "segm"] = "bbox",
        max_dets: int = 100,
        seen_only: bool = False,
    ) -> None:
        ok, wanted = whole(1)
        check("max_dets", max_dets, ok(max_dets), wanted)
        if iou_type not in ("bbox", "segm"):
            raise UserError(f"iou_type is {iou_type!r}; choose from bbox, segm")
        truth = GroundTruth.read(annotations, masks=iou_type == "segm")
        super().__init__(len(truth), seen_only=seen_only)
        self.iou_type, self.truth, self.max_dets = iou_type, truth, max_dets
        self._position_of = {number: i for i, number in enumerate(self.truth.image_ids.tolist())}
        self._label_of = {number: k for k, number in enumerate(self.truth.category_ids)}
        self._maps: dict[tuple[int, ...], np.ndarray] = {}
        for reason, count in self.truth.notes.items():
            log.warning("%d %s", count, reason)
        self._clear()
        # (D, 7): image, left, top, width, height, score, class
        self.add_state("rows", [], dist_reduce_fx="cat")
        # if masks are scored, the bytes of the run lengths of all rows, and the number of bytes of each row, (D,)
        self.add_state("masks", [], dist_reduce_fx="cat")
        self.add_state("mask_sizes", [], dist_reduce_fx="cat")

    def _clear(self) -> None:
        # Three large blocks that grow, instead of many small blocks: these would be allocated in the memory that the
        # masks of an image have just left, and the masks of the next image would no longer fit there.
        self._rows, self._masks, self._mask_sizes = array("d"), bytearray(), array("q")
        self._protocol = ""
        self.matches: Matches | None = None

    def reset(self) -> None:
        super().reset()
        self._clear()

    def _add(self, image_id: int, prediction: Prediction) -> None:
        position = self._position_of.get(image_id)
        if position is None:
            raise UserError(f"image id {image_id} is not in the annotation file; evaluate on the data it describes")
        rows = self._rows_of(position, image_id, prediction)
        if self.iou_type == "segm":
            self._keep_masks(position, image_id, prediction)
        self._rows.frombytes(rows.tobytes())

    def _pack(self, images: list[int]) -> None:
        rows, sizes = np.array(self._rows).reshape(-1, 7), np.array(self._mask_sizes)
        # no copy is needed: nothing is added before `compute` or `save` drops this view
        masks = np.frombuffer(self._masks, np.uint8)
        if len(images) < len(self._seen):
            kept = np.isin(rows[:, 0], [self._position_of[image_id] for image_id in images])
            rows = rows[kept]
            if len(sizes):
                masks, sizes = masks[np.repeat(kept, sizes)], sizes[kept]
        self.rows, self.masks, self.mask_sizes = ([torch.from_numpy(state)] for state in (rows, masks, sizes))

    def _rows_of(self, position: int, image_id: int, prediction: Prediction) -> np.ndarray:
        """The rows `(T, 7)` that are stored of a prediction."""
        labels = self._labels(prediction.labels.numpy(), tuple(prediction.category_ids), image_id)
        boxes = prediction.boxes_xyxy.double().numpy().reshape(-1, 4)
        scores = prediction.scores.double().numpy()
        image = np.full(len(labels), position)
        rows = np.column_stack([image, boxes[:, :2], boxes[:, 2:] - boxes[:, :2], scores, labels])
        wrong = ~np.isfinite(rows).all(1)
        if wrong.any():
            first = int(wrong.argmax())
            raise UserError(
                f"image id {image_id}: {wrong.sum()} of {len(rows)} detections are not finite, "
                f"the first has score {scores[first]} and box "
                f"{boxes[first].tolist()}; the model has diverged, or was run in a type too narrow for it"
            )
        return rows

    def _keep_masks(self, position: int, image_id: int, prediction: Prediction) -> None:
        expected, masks = (len(prediction), *self.truth.sizes[position].tolist()), prediction.masks
        if masks is None or tuple(masks.shape) != expected:
            got = None if masks is None else tuple(masks.shape)
            raise UserError(f"image id {image_id}: masks are {got}, wanted {expected}: (T, H, W) of the original image")
        for code in encode(masks.numpy()):
            self._masks += code
            self._mask_sizes.append(len(code))

    def _labels(self, labels: np.ndarray, category_ids: tuple[int, ...], image_id: int) -> np.ndarray:
        """The classes of the annotation file `(T,)` that the labels `(T,)` of a prediction stand for."""
        if category_ids not in self._maps:
            known = category_ids or self.truth.category_ids
            self._maps[category_ids] = np.array([self._label_of.get(int(i), -1) for i in known], dtype=np.int64)
        classes = self._maps[category_ids]
        outside = labels[(labels < 0) | (labels >= len(classes))]
        if len(outside):
            raise UserError(f"image id {image_id}: label {outside[0]} is no class; wanted 0..{len(classes) - 1}")
        found = classes[labels]
        if (found < 0).any():
            unknown = category_ids[labels[found < 0][0]]
            raise UserError(
                f"image id {image_id}: category id {unknown} is not in the annotation file, "
                f"which has {_few(self.truth.category_ids)}"
            )
        return found

    def compute(self) -> dict[str, float]:
        """The COCO scores, in [0, 1], or -1 if there is no ground truth of that kind.

        They are `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, `AR1`, `AR10`, `AR100`, `ARs`, `ARm`, `ARl` and
        `AP/<class name>`. With another `max_dets` than 100, the number in `AR100` is that number. If masks are scored,
        `box_AP`, `box_AP50` and `box_AP75` are the scores of the boxes.

        Under `torch.distributed` every process must call it, and each gets the scores over all processes, in which
        every image counts once.
        """
        seen = np.sort([self._position_of[image_id] for image_id in self.images.tolist()]).astype(np.int64)
        notes: Counter[str] = Counter({"images dropped: another process had them too": int(self.repeated)})
        if not self.seen_only:
            notes["images got no prediction and count as missed"] = self.total - len(seen)
        if rank() == 0:
            for reason, count in (+notes).items():
                log.warning("%d %s", count, reason)
        images = seen if self.seen_only else np.arange(self.total)
        masks = self._run_lengths() if self.iou_type == "segm" else None
        kind = {"bbox": "box", "segm": "mask"}[self.iou_type]
        self._protocol = protocol(self.truth, max_dets=self.max_dets, images=len(images), notes=+notes, kind=kind)
        rows, counted = self.rows.numpy(), ~self.truth.iscrowd & np.isin(self.truth.image, images)
        scores, made = coco_scores(self.truth, rows, images=images, max_dets=self.max_dets, masks=masks)
        objects = np.bincount(self.truth.label[counted], minlength=len(self.truth.names))
        self.matches = None if made is None else Matches.of(made, rows, objects)
        return scores

    def _run_lengths(self) -> list[bytes]:
        """The run lengths of the mask of each row."""
        text, ends = memoryview(self.masks.numpy()), np.cumsum(self.mask_sizes.numpy()).tolist()
        return [bytes(text[start:end]) for start, end in pairwise([0, *ends])]

    def protocol(self) -> str:
        """A line that describes how the last `compute` counted: images, evaluator, limits, and what was left out."""
        return self._protocol or protocol(self.truth, max_dets=self.max_dets, images=len(self.truth))

    def detections(self) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
        """All predictions: the positions of the images in `truth`, `(I,)`, the detections, and their run lengths.

        The detections are `(D, 7)`: image, left, top, width, height (in pixels), score, class. There are run lengths
        only if masks are scored. Under `torch.distributed` every process must call it.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            seen = np.sort([self._position_of[image_id] for image_id in self.images.tolist()]).astype(np.int64)
            return seen, self.rows.numpy(), self._run_lengths() if self.iou_type == "segm" else []

    def found(self) -> tuple[np.ndarray, list[bytes] | None]:
        """All detections `(D, 7)`: position of the image, left, top, width, height, score, class; and their run lengths
        if masks are scored. Under `torch.distributed` every process must call it, and gets those of all."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self.rows.numpy(), self._run_lengths() if self.iou_type == "segm" else None

    def save(self, path: str | Path) -> None:
        """Write all predictions as a COCO results file with the ids of the annotation file.

        Under `torch.distributed` every process must call it, and rank 0 writes the file.
        """
        _, rows, masks = self.detections()
        if rank() != 0:
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        image_ids = self.truth.image_ids[rows[:, 0].astype(int)].tolist()
        categories = np.array(self.truth.file_ids, dtype=np.int64)[rows[:, 6].astype(int)].tolist()
        columns = zip(image_ids, categories, rows[:, 1:5].tolist(), rows[:, 5].tolist())
        keys = ("image_id", "category_id", "bbox", "score")
        results: list[dict[str, Any]] = [dict(zip(keys, row)) for row in columns]
        for result, position, counts in zip(results, rows[:, 0].astype(int), masks or []):
            result["segmentation"] = {"size": self.truth.sizes[position].tolist(), "counts": counts.decode()}
        with open(path, "w", encoding="utf-8") as file:
            json.dump(results, file)


def _few(values: Sequence[int]) -> str:
    return f"{list(values[:10])}{' …' if len(values) > 10 else ''}"
