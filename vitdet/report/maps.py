"""Predicted maps of semantic and panoptic models, kept as PNGs until the report is written.

H×W is the size of an image in pixels, K the number of classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from vitdet.structures import Prediction

# of so many images the maps are kept
MOST = 300


@dataclass
class KeptMaps:
    """The maps of some predictions.

    Attributes:
        maps: the map of each image as a PNG, by the image's id; its values are classes, or numbers of segments.
        labels: the class of each segment, from 1, for panoptic maps.
        left_out: how many images were not kept, because there were enough.
    """

    maps: dict[int, bytes] = field(default_factory=dict)
    labels: dict[int, list[int]] = field(default_factory=dict)
    left_out: int = 0

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Keeps the maps of predictions, if they have some, and as long as there is room."""
        for prediction in predictions:
            found = prediction.panoptic if prediction.panoptic is not None else prediction.semantic
            if found is None:
                continue
            if len(self.maps) >= MOST:
                self.left_out += 1
                continue
            image_id = int(prediction.image_id)
            # 16 bits do for the segments of an image
            pixels = found.cpu().numpy().astype(np.uint8 if prediction.panoptic is None else np.uint16)
            self.maps[image_id] = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
            if prediction.panoptic is not None:
                self.labels[image_id] = prediction.labels.tolist()

    def map(self, image_id: int) -> np.ndarray:
        """The map `(H, W)` of an image."""
        return np.asarray(cv2.imdecode(np.frombuffer(self.maps[image_id], np.uint8), cv2.IMREAD_UNCHANGED))

    def join(self, others: "Sequence[KeptMaps]") -> "KeptMaps":
        """These maps and those of others, each image once."""
        joined = KeptMaps(dict(self.maps), dict(self.labels), self.left_out)
        for other in others:
            joined.maps |= other.maps
            joined.labels |= other.labels
            joined.left_out += other.left_out
        return joined
