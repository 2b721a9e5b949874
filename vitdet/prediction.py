"""What is found in an image, and the forms that other tools have for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitdet.detections import Detections
from vitdet.draw import draw, draw_classes
from vitdet.errors import UserError
from vitdet.images import as_array
from vitdet.masks import encode, id_png
from vitdet.thresholds import Threshold, check_threshold


@dataclass(repr=False, eq=False)
class Prediction(Detections):
    """The objects that were found in an image, best score first: a sequence of `Detection`s.

    Attributes:
        boxes_xyxy: `(T, 4)` float, corners in pixels of the original image.
        scores: `(T,)` float in [0, 1].
        labels: `(T,)` int64, classes 0..K-1.
        size: `(H, W)` of the original image.
        names: the class names, indexed by label; empty if they are not known.
        category_ids: the data set's ids of the classes, indexed by label; empty if they are not known.
        image_id: the image's id in the data set.
        masks: `(T, H, W)` bool.
        semantic: `(H, W)` uint8, the class of each pixel.
        panoptic: `(H, W)` int32, the segment that each pixel belongs to: t + 1 for detection t, 0 for no segment.
        path: the file of the image, or its address on the network, if it was read from one.
        queries: `(T,)` int64, the number of the head's query that found each, if that is known.

    Example:
        >>> import torch
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0], [1.0, 1.0, 2.0, 3.0]])
        >>> scores, labels = torch.tensor([0.9, 0.4]), torch.tensor([1, 0])
        >>> found = Prediction(boxes, scores, labels, size=(3, 4), names=["cat", "dog"], path="a.jpg")
        >>> found
        Prediction(a.jpg, 4×3: 1 dog, 1 cat)
        >>> [(one.name, round(one.score, 1)) for one in found]
        [('dog', 0.9), ('cat', 0.4)]
        >>> found[-1].box_xyxy, len(found[found.scores > 0.5]), found.filter(classes="cat").to_table()["x1"]
        ((1.0, 1.0, 2.0, 3.0), 1, [1.0])
    """

    def to_table(self) -> dict[str, list[Any]]:
        """Columns with a value for each detection: the file, class, score, corners and area in pixels.

        `pandas.DataFrame` and polars take it as it is.
        """
        boxes = self.boxes_xyxy.T.tolist() if len(self) else [[]] * 4
        labels = self.labels.tolist()
        return {
            "file": [self.path] * len(self),
            "image_id": [self.image_id] * len(self),
            "label": labels,
            "category_id": [self.category_of(label) for label in labels],
            "name": [self.name_of(label) for label in labels],
            "score": self.scores.tolist(),
            **dict(zip(("x1", "y1", "x2", "y2"), boxes)),
            "area": self.areas.tolist(),
        }

    def to_coco(self) -> list[dict[str, Any]]:
        """Rows of a COCO results file: boxes `[x, y, width, height]` in pixels, category ids, and masks as RLE."""
        codes = () if self.masks is None else encode(self.masks.cpu().numpy())
        found = zip(self.boxes_xyxy.tolist(), self.scores.tolist(), map(self.category_of, self.labels.tolist()))
        rows = [
            {"image_id": self.image_id, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            for (x1, y1, x2, y2), score, category in found
        ]
        size = [] if self.masks is None else list(self.masks.shape[1:])
        for row, code in zip(rows, codes):
            row["segmentation"] = {"size": size, "counts": code.decode()}
        return rows

    def to_coco_panoptic(self) -> tuple[bytes, list[dict[str, Any]]]:
        """The PNG in COCO's panoptic format, and its `segments_info`: id, category id, and area in pixels.

        Raises:
            UserError: the prediction has no panoptic map.
        """
        if self.panoptic is None:
            raise UserError("this prediction has no panoptic map; the model must have been trained on panoptic data")
        ids = self.panoptic.cpu().numpy()
        present, areas = np.unique(ids, return_counts=True)
        labels, found = self.labels.tolist(), zip(present.tolist(), areas.tolist())
        info = [{"id": i, "category_id": self.category_of(labels[i - 1]), "area": area} for i, area in found if i]
        return id_png(ids), info

    def plot(self, image: Any = None, *, threshold: Threshold = 0.0) -> Any:
        """A PIL image on which the detections with a score of at least `threshold` are drawn, by default all of them.

        Args:
            image: the original in any form that `vitdet.images.as_array` takes; needed if there is no `self.path`.

        Raises:
            UserError: there is no image, it has another size, or the threshold is not in [0, 1].
        """
        check_threshold(threshold)
        if image is None and self.path is None:
            raise UserError("this prediction was not made from a file: give the image to draw on, as plot(image)")
        source: Any = self.path if image is None else image
        canvas = Image.fromarray(as_array(source))
        if canvas.size != tuple(self.size[::-1]):
            about = f"the prediction is about one of {self.size[1]}×{self.size[0]}; give the original image"
            raise UserError(f"image is {canvas.width}×{canvas.height}, {about}")
        if self.semantic is not None:
            return draw_classes(canvas, self.semantic.cpu().numpy(), self.name_of)
        kept = self.cpu().above(threshold)
        labels, masks = kept.labels.tolist(), None if kept.masks is None else kept.masks.numpy()
        texts = [f"{self.name_of(label)} {score:.2f}" for label, score in zip(labels, kept.scores.tolist())]
        return draw(canvas, kept.boxes_xyxy.tolist(), texts, labels, masks=masks, outline=self.panoptic is None)

    def save(self, path: str | Path, *, image: Any = None, threshold: Threshold = 0.0) -> None:
        """Writes `plot(image, threshold=threshold)` to `path`; the suffix selects the format, and folders are made."""
        picture = self.plot(image, threshold=threshold)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=95)

    def to_supervision(self) -> Any:
        """The prediction as `supervision.Detections`, with the class names under `data["class_name"]`.

        Raises:
            ImportError: supervision, an optional extra, is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError("to_supervision needs supervision: pip install 'vitdet[supervision]'") from error
        here = self.cpu()
        return supervision.Detections(
            xyxy=here.boxes_xyxy.float().numpy().reshape(-1, 4),
            confidence=here.scores.float().numpy(),
            class_id=here.labels.numpy(),
            mask=None if here.masks is None else here.masks.numpy(),
            data={"class_name": np.array([self.name_of(label) for label in here.labels.tolist()], dtype=str)},
        )
