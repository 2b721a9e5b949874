"""Reading COCO panoptic annotations: a JSON file, and a PNG for each image whose colours encode segment numbers.

H×W stands for the size of an image in pixels, T for the number of its segments.
"""

from pathlib import Path
from typing import Any

import numpy as np

from vitdet.data.object_masks import IdMasks, Masks
from vitdet.data.sources import CocoSource
from vitdet.images import ImageError, load_image, resolve
from vitdet.masks import png_ids


class PanopticSource(CocoSource):
    """Reads images with their segments, things and stuff, as objects; crowds and void pixels are left out.

    Args:
        segments: the folder of the PNGs.
    """

    # a crop keeps any visible part of a segment
    min_visible = 0.0

    def __init__(self, *args: Any, segments: str | Path, **options: Any) -> None:
        super().__init__(*args, **options)
        self.segments = Path(segments)

    def masks(self, i: int) -> Masks:
        return IdMasks(self._ids(i), self.index.annotation_ids[self._rows(i)])

    def truth(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The true segments of image `i`, crowds included.

        Returns:
            The id map `(H, W)`, and the number, class and crowd flag of each segment, `(T,)` each.
        """
        rows = self.index.annotations(i)
        return self._ids(i), self.index.annotation_ids[rows], self.index.categories[rows], self.index.iscrowd[rows]

    def _ids(self, i: int) -> np.ndarray:
        size, item = (int(self.index.heights[i]), int(self.index.widths[i])), self.index.item(i)
        if item is None:
            # without segments all pixels are void
            return np.zeros(size, np.int32)
        name = item["file_name"]
        ids = png_ids(load_image(resolve(self.segments, name), exif=False))
        if ids.shape != size:
            raise ImageError(f"{name} is {ids.shape}, its image {size} (H, W)")
        # where `data.rename` has made one class of several, their segments of stuff are a single segment
        for number, kept in getattr(self.index, "merged", {}).get(i, {}).items():
            ids[ids == number] = kept
        return ids
