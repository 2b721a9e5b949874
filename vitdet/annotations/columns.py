"""The annotations of a COCO JSON file as growing columns, which are sorted by image in the end.

A is the number of annotations, I of images.
"""

from array import array
from collections import Counter
from typing import Any

import numpy as np

from vitdet.annotations.json_text import flag, integer, is_box, is_finite
from vitdet.errors import DataError, short
from vitdet.masks import box_of
from vitdet.segmentations import MOST_PIXELS, check, farthest, is_missing

NO_ID = -(2**63)
# why an annotation is left out, of an image or a category
UNKNOWN = "annotations left out: unknown {} id"
# what is known of the mask of an annotation
NO_MASK, POLYGONS, RUN_LENGTHS, BROKEN = range(4)
NO_BOX = (float("nan"),) * 4


class Columns:
    """The annotations of a file, added one by one.

    Args:
        source: the name of the file, for error messages.
        notes: the reasons for which annotations are left out or filled in, and how often, which are added to.

    Attributes:
        training_notes: the reasons for which annotations are kept out of training, and how often.
        panoptic: whether the annotations are segments, whose masks are in PNGs.
    """

    def __init__(self, source: str, notes: Counter[str]) -> None:
        self.source, self.notes = source, notes
        self.training_notes, self.panoptic, self._plain, self._count = Counter(), False, False, 0
        # eight numbers for each annotation: image id, category id, id, iscrowd, start, end, what is known of the mask,
        # and whether the box was made of the mask
        self.integers = array("q")
        # seven numbers for each annotation: x, y, width, height, area, and the extent of the mask
        self.floats = array("d")

    def add(self, start: int, end: int, item: Any) -> None:
        """Add an item of "annotations".

        Args:
            start, end: the place of its text in the file.
            item: its value.

        Raises:
            DataError: a flag or an id is of the wrong type, or the file mixes objects and panoptic segments.
        """
        self._count += 1
        if not isinstance(item, dict) or "segments_info" not in item:
            self._plain |= isinstance(item, dict)
            self._add(start, end, item)
        else:
            segments = [] if item["segments_info"] is None else item["segments_info"]
            if not isinstance(segments, list):
                raise DataError(f'{self._place(item)}: "segments_info" is {short(segments)}; wanted a list')
            # A panoptic file has an item for each image; each of the segments in it becomes an annotation.
            self.panoptic = True
            for segment in segments:
                whole = {**segment, "image_id": item.get("image_id")} if isinstance(segment, dict) else None
                self._add(start, end, whole)
        if self.panoptic and self._plain:
            raise DataError(
                f'{self.source} mixes objects and panoptic segments: some annotations have "segments_info", others '
                "have not; put them into two files"
            )

    def _add(self, start: int, end: int, item: Any) -> None:
        if not isinstance(item, dict):
            self.notes["annotations left out: no object"] += 1
            return
        image, category, number = (
            integer(item.get("image_id")),
            integer(item.get("category_id")),
            integer(item.get("id")),
        )
        crowd = flag(item.get("iscrowd"))
        if crowd is None or image is None or category is None or (self.panoptic and number is None):
            self._check_types(item, crowd)
        box, area = item.get("bbox"), item.get("area")
        kind, low, high = (NO_MASK, 0, 0) if self.panoptic else _mask(item.get("segmentation"))
        from_mask = False
        if not is_box(box):
            if self.panoptic:
                box = NO_BOX
            elif kind in (POLYGONS, RUN_LENGTHS):
                box, from_mask = box_of(item["segmentation"]), True
            else:
                self.notes["annotations left out: no box of four finite numbers"] += 1
                return
        if not is_finite(area):
            if not self.panoptic:
                self.notes["annotations without an area: the box's is taken"] += 1
            # the product of whole numbers may be too large for a float
            area = float(box[2]) * float(box[3])
        ids = (image, category, number)
        if None in ids:
            ids = [NO_ID if value is None else value for value in ids]
        self.integers.extend((*ids, crowd, start, end, kind, from_mask))
        self.floats.extend((*box, area, low, high))

    def _place(self, item: dict[str, Any]) -> str:
        number = item.get("id")
        return f"{self.source}: annotation {short(number) if number is not None else f'number {self._count}'}"

    def _check_types(self, item: dict[str, Any], crowd: bool | None) -> None:
        if crowd is None:
            raise DataError(f'{self._place(item)}: "iscrowd" is {short(item["iscrowd"])}; wanted 0, 1, true or false')
        for key in ("image_id", "category_id"):
            if isinstance(item.get(key), str):
                raise DataError(f'{self._place(item)}: "{key}" is {short(item[key])}, a text; wanted a whole number')
        if self.panoptic and item.get("id") is not None and integer(item["id"]) is None:
            raise DataError(
                f'{self._place(item)}: "id" is {short(item["id"])}; wanted the whole number of a segment in the PNG'
            )

    def arrays(self, images: dict[str, np.ndarray], category_ids: list[int]) -> dict[str, np.ndarray]:
        """The columns as arrays that are sorted by image.

        Args:
            images: the ids and sizes of the images.
            category_ids: the ids of the classes, ascending.
        """
        integers = np.frombuffer(self.integers, dtype=np.int64).reshape(-1, 8)
        floats = np.frombuffer(self.floats, dtype=np.float64).reshape(-1, 7)
        image = self._positions(integers[:, 0], images["image_ids"], "image")
        known = image >= 0
        category = np.full(len(image), -1)
        category[known] = self._positions(integers[known, 1], np.array(category_ids, dtype=np.int64), "category")
        self._check_shift("category_id", integers[known, 1], category_ids)
        if len(np.unique(integers[:, 0])) == len(images["image_ids"]) > 1:
            self._check_shift("image_id", integers[:, 0], images["image_ids"].tolist())
        heights, widths = (np.where(known, _at(images[side], image), 0) for side in ("heights", "widths"))
        masks = integers[:, 6] if self.panoptic else _states(integers[:, 6], floats[:, 5:], heights, widths)
        kept = np.flatnonzero((category >= 0) & ~self._lost(integers[:, 7] != 0, masks, category >= 0))
        # sorted by image; the annotations of an image stay in the order of the file
        order = kept[np.argsort(image[kept], kind="stable")]
        integers, floats, image = integers[order], floats[order], image[order]
        counts = np.bincount(image, minlength=len(images["image_ids"]))
        boxes, boxless = self._boxes(floats[:, :4], integers[:, 7] != 0, heights[order], widths[order])
        return {
            "first": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            "boxes_xywh": boxes,
            "boxless": boxless,
            "area": np.nan_to_num(floats[:, 4], nan=0.0, posinf=np.inf),
            "categories": category[order].astype(np.int32),
            "iscrowd": integers[:, 3] != 0,
            "masked": np.isin(masks[order], (POLYGONS, RUN_LENGTHS)) | self.panoptic,
            "broken": masks[order] == BROKEN,
            "annotation_ids": self._numbered(integers[:, 2]),
            "trainable": self._trainable(boxes, boxless, integers[:, 3] != 0, heights[order], widths[order]),
            "spans": integers[:, 4:6],
        }

    def _positions(self, ids: np.ndarray, known: np.ndarray, what: str) -> np.ndarray:
        """The position of each id in `known`, or -1; unknown ids are counted in the notes."""
        order = np.argsort(known)
        place = np.searchsorted(known, ids, sorter=order).clip(max=max(len(known) - 1, 0))
        position = order[place] if len(known) else np.full(len(ids), -1)
        position = np.where(known[position] == ids, position, -1) if len(known) else position
        if (position < 0).any():
            self.notes[UNKNOWN.format(what)] = int((position < 0).sum())
        return position

    def _check_shift(self, key: str, ids: np.ndarray, known: list[int]) -> None:
        """Checks that the ids that annotations have are not one above or one below those of the images or categories.

        Raises:
            DataError: some are unknown, and with this shift all are known.
        """
        used = set(np.unique(ids[ids != NO_ID]).tolist())
        what = "images" if key == "image_id" else "categories"
        for shift, word in ((1, "above"), (-1, "below")):
            if not used <= set(known) and {number - shift for number in used} <= set(known):
                raise DataError(
                    f'{self.source}: "{key}" of the annotations is {min(used)} to {max(used)}, and "{what}" have the '
                    f"ids {min(known)} to {max(known)}: the annotations seem to count one {word} them; change the ids "
                    f'of either, or add what is missing to "{what}"'
                )

    def _lost(self, made: np.ndarray, masks: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Which annotations have no box, because the mask that it was made of is not one of their image."""
        lost = made & (masks == BROKEN)
        if (lost & known).any():
            self.notes["annotations left out: no box of four finite numbers"] += int((lost & known).sum())
        return lost

    def _boxes(
        self, boxes: np.ndarray, made: np.ndarray, heights: np.ndarray, widths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The boxes `(A, 4)`, those that were made of a mask within the image, and which segments have none, `(A,)`."""
        if made.any():
            self.notes["annotations without a box of four finite numbers: it is taken from the mask"] = int(made.sum())
            boxes = boxes.copy()
            low, size = boxes[made, :2], np.stack([widths, heights], 1)[made]
            high = (low + boxes[made, 2:]).clip(0, size)
            low = low.clip(0, size)
            boxes[made] = np.concatenate([low, high - low], 1)
        boxless = np.zeros(len(boxes), bool)
        if self.panoptic:
            # a comparison with NaN is false
            boxless = np.asarray(~((boxes[:, 2:] > 0).all(1) & np.isfinite(boxes).all(1)))
            boxes = np.where(boxless[:, None], 0.0, boxes)
        if boxless.any():
            self.training_notes["segments have no box: it is taken from their pixels"] = int(boxless.sum())
        return boxes, boxless

    def _numbered(self, ids: np.ndarray) -> np.ndarray:
        """The annotation ids of the file, or 1..A if some ids are missing or repeated.

        The ids of panoptic segments are kept, because they need to be unique only within an image.
        """
        if self.panoptic:
            return ids
        if (ids == NO_ID).any() or len(np.unique(ids)) < len(ids):
            self.training_notes["annotations renumbered: ids are missing or not unique"] = len(ids)
            return np.arange(1, len(ids) + 1)
        return ids

    def _trainable(
        self, boxes: np.ndarray, boxless: np.ndarray, crowd: np.ndarray, heights: np.ndarray, widths: np.ndarray
    ) -> np.ndarray:
        x, y, w, h = boxes.T
        empty = ((w <= 0) | (h <= 0)) & ~boxless
        outside = ~(empty | boxless) & ((x >= widths) | (y >= heights) | (x + w <= 0) | (y + h <= 0))
        reasons = {
            "crowd": crowd,
            "zero or negative size": empty & ~crowd,
            "wholly outside the image": outside & ~crowd,
        }
        for reason, mask in reasons.items():
            if mask.any():
                self.training_notes[f"boxes kept out of training: {reason}"] = int(mask.sum())
        return ~(crowd | empty | outside)


def _mask(segmentation: Any) -> tuple[int, float, float]:
    """What is known of a mask without its image, and its extent."""
    if is_missing(segmentation):
        return NO_MASK, 0, 0
    try:
        low, high, polygons = check(segmentation)
    except DataError:
        return BROKEN, 0, 0
    return POLYGONS if polygons else RUN_LENGTHS, low, high


def _states(states: np.ndarray, extents: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """What is known of masks with their images: as `segmentations.check_on_image`, for all of them."""
    low, high = extents.T
    limit = farthest(heights, widths)
    wrong = (heights * widths == 0) | (heights * widths > MOST_PIXELS)
    wrong |= (states == POLYGONS) & ((low < -limit) | (high > limit))
    wrong |= (states == RUN_LENGTHS) & ((low != heights) | (high != widths))
    return np.where(wrong & (states != NO_MASK), BROKEN, states)


def _at(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The values at some positions, as int64; a position may be -1, for which it is any value."""
    return values.astype(np.int64)[positions] if len(values) else np.zeros(len(positions), np.int64)
