"""COCO panoptic annotations: a JSON, and a PNG for each image, whose colours are the numbers of its segments.  # T segments, H×W in pixels"""

from pathlib import Path
from typing import Any

import numpy as np

from vitdet.data.object_masks import IdMasks, Masks
from vitdet.data.sources import CocoSource
from vitdet.images import ImageError, load_image, resolve
from vitdet.masks import png_ids


class PanopticSource(CocoSource):
    """Reads image number `i` with its segments, things and stuff; crowds and void are no objects.

    Args:
        segments: the folder of the PNGs.
    """

    min_visible = 0.0  # a part of a segment is a segment

    def __init__(self, *args: Any, segments: str | Path, **options: Any) -> None:
        super().__init__(*args, **options)
        self.segments = Path(segments)

    def masks(self, i: int) -> Masks:
        return IdMasks(self._ids(i), self.index.annotation_ids[self._rows(i)])

    def truth(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What image `i` is scored against, crowds included: the id map `(H, W)`, and number, class and crowd flag of each segment, `(T,)`."""
        rows = self.index.annotations(i)
        return self._ids(i), self.index.annotation_ids[rows], self.index.categories[rows], self.index.iscrowd[rows]

    def _ids(self, i: int) -> np.ndarray:
        size, rows = (int(self.index.heights[i]), int(self.index.widths[i])), self.index.annotations(i)
        if rows.start == rows.stop:
            return np.zeros(size, np.int32)  # no segment: all void
        name = self.index.raw(rows.start)["file_name"]
        ids = png_ids(load_image(resolve(self.segments, name), exif=False))
        if ids.shape != size:
            raise ImageError(f"{name} is {ids.shape}, its image {size} (H, W)")
        return ids
