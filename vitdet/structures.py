"""The values that pass between the parts, and the legend of shapes.

B images, N tokens of all images together, Q queries, C channels, K classes, T objects of one image,
H×W an image in pixels, h×w a grid of tokens
boxes_cxcywh   centre and size, as fractions of the image
boxes_xyxy     corners, in pixels
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitdet.draw import as_image, draw
from vitdet.errors import UserError, check
from vitdet.masks import bounds, encode, id_png

THRESHOLD = 0.3  # the score from which a detection is shown, counted and returned, unless something else is said


def check_threshold(value: float) -> None:
    """Raises:
    UserError: `value` is no score.
    """
    number = isinstance(value, (int, float)) or getattr(value, "ndim", None) == 0  # of numpy or torch
    check("threshold", value, number and 0 <= value <= 1, "a score from 0 to 1")


def equal_grids(grids: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Which images have the same grid: one list of positions in the batch per grid, in the order in which the grids first appear."""
    members: dict[tuple[int, int], list[int]] = {}
    for i, grid in enumerate(grids):
        members.setdefault(tuple(grid), []).append(i)
    return list(members.values())


def centres(grid: tuple[int, int], step: tuple[float, float], device: torch.device | None = None) -> Tensor:
    """`(h*w, 2)`: x and y of the centres of a grid's cells, row by row; `step` is the height and width of a cell."""
    h, w = grid
    y = (torch.arange(h, device=device) + 0.5) * step[0]
    x = (torch.arange(w, device=device) + 0.5) * step[1]
    return torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1).flatten(0, 1)  # (h, w, 2) -> (h*w, 2)


@dataclass
class Level:
    """One feature map per image, packed: `x` `(N, C)` holds `h*w` tokens of each image, row by row, image after image.

    A grid covers its image from the left-top corner: token `(i, j)` is centred at pixel `((j + 0.5) * stride, (i + 0.5) * stride)`. Where the
    image is no multiple of the stride, the last row and column reach past its border.
    """

    x: Tensor
    grids: list[tuple[int, int]]
    stride: float

    @property
    def lengths(self) -> list[int]:
        return [h * w for h, w in self.grids]

    def maps(self) -> list[Tensor]:
        """One `(C, h, w)` map per image."""
        parts = self.x.split(self.lengths)
        return [part.T.unflatten(1, grid) for part, grid in zip(parts, self.grids)]  # (h*w, C) -> (C, h, w)

    def centres(self, i: int, size: tuple[int, int]) -> Tensor:
        """`(h*w, 2)`: x and y of the tokens of image `i`, as fractions of its `size` `(H, W)`; those in the padding lie beyond 1."""
        height, width = size
        return centres(self.grids[i], (self.stride / height, self.stride / width), self.x.device)

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """`(B, C, h, w)`, zero-padded at the right and bottom, and a mask `(B, h, w)`, true on real tokens; the mask is `None` where all grids are equal."""
        if len(set(self.grids)) == 1:
            h, w = self.grids[0]
            return self.x.view(len(self.grids), h, w, -1).permute(0, 3, 1, 2), None  # (B*h*w, C) -> (B, C, h, w)
        height, width = (max(side) for side in zip(*self.grids))
        x = self.x.new_zeros(len(self.grids), self.x.shape[1], height, width)
        mask = torch.zeros(len(self.grids), height, width, dtype=torch.bool, device=x.device)
        for i, (image, (h, w)) in enumerate(zip(self.maps(), self.grids)):
            x[i, :, :h, :w] = image
            mask[i, :h, :w] = True
        return x, mask


@dataclass
class Features(Sequence[Level]):
    """The levels that a backbone returns, finest first, and the sizes `(H, W)` in pixels of the images they came from (before padding).

    `unfinished` is there if the backbone leaves its last blocks to the head.
    """

    levels: list[Level]
    sizes: list[tuple[int, int]]
    unfinished: Any = None

    def __getitem__(self, index):
        return self.levels[index]

    def __len__(self) -> int:
        return len(self.levels)

    def __iter__(self) -> Iterator[Level]:
        return iter(self.levels)


@dataclass
class Target:
    """What is to be found in one image.

    Attributes:
        boxes_cxcywh: `(T, 4)` float, centre and size as fractions of the image.
        labels: `(T,)` int64, classes 0..K-1.
        size: `(H, W)` of the image as the model sees it.
        orig_size: `(H, W)` of the upright image on disk.
        image_id: the data set's own id.
        masks: `(T, H, W)` bool, where the task needs them.
    """

    boxes_cxcywh: Tensor
    labels: Tensor
    size: tuple[int, int]
    orig_size: tuple[int, int]
    image_id: int = 0
    masks: Tensor | None = None

    def to(self, device, **kwargs) -> "Target":
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.to(device, **kwargs) for k, v in moved.items() if isinstance(v, Tensor)})

    def pin_memory(self) -> "Target":
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.pin_memory() for k, v in tensors.items() if isinstance(v, Tensor)})


@dataclass
class Prediction:
    """What was found in one image, best score first.

    Attributes:
        boxes_xyxy: `(T, 4)` float, corners in pixels of the original image.
        scores: `(T,)` float in [0, 1].
        labels: `(T,)` int64, classes 0..K-1.
        size: `(H, W)` of the original image.
        names: the class names, indexed by label; empty where they are not known.
        category_ids: the data set's own ids, indexed by label; empty where they are not known.
        image_id: the data set's own id of the image.
        masks: `(T, H, W)` bool.
        semantic: `(H, W)` uint8, the class of each pixel.
        panoptic: `(H, W)` int32, which segment each pixel belongs to: t + 1 for detection t, 0 for none.
        path: the file it was found in, if it was one.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor
    size: tuple[int, int]
    names: Sequence[str] = ()
    category_ids: Sequence[int] = ()
    image_id: int = 0
    masks: Tensor | None = None
    semantic: Tensor | None = None
    panoptic: Tensor | None = None
    path: str | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def cpu(self) -> "Prediction":
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.detach().cpu() for k, v in moved.items() if isinstance(v, Tensor)})

    def above(self, threshold: float) -> "Prediction":
        """Only the detections that score at least `threshold`; pixels of the others belong to no segment.

        Raises:
            UserError: the threshold is not in [0, 1].
        """
        check_threshold(threshold)
        keep = self.scores >= threshold
        kept = {name: getattr(self, name)[keep] for name in ("boxes_xyxy", "scores", "labels")}
        if self.masks is not None:
            kept["masks"] = self.masks[keep]
        if self.panoptic is not None:
            number = torch.zeros(len(keep) + 1, dtype=self.panoptic.dtype, device=keep.device)
            number[1:] = keep.cumsum(0) * keep
            kept["panoptic"] = number[self.panoptic.long()]
        return replace(self, **kept)

    def to_coco(self) -> list[dict[str, Any]]:
        """Rows of a COCO results file: box as `[x, y, width, height]` in pixels, the data set's own category id, and the mask as run lengths."""
        rows = []
        codes = () if self.masks is None else encode(self.masks.cpu().numpy())
        for box, score, label in zip(self.boxes_xyxy.tolist(), self.scores.tolist(), self.labels.tolist()):
            x1, y1, x2, y2 = box
            row = {
                "image_id": self.image_id,
                "category_id": self._category(label),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            rows.append(row)
        for row, code in zip(rows, codes):
            row["segmentation"] = {"size": list(self.masks.shape[1:]), "counts": code.decode()}
        return rows

    def to_coco_panoptic(self) -> tuple[bytes, list[dict[str, Any]]]:
        """The PNG of an image in COCO's panoptic format, and its `segments_info`: id, the data set's own category id, area in pixels.

        Raises:
            ValueError: the prediction has no panoptic map.
        """
        if self.panoptic is None:
            raise UserError("this prediction has no panoptic map; the model must have been trained on panoptic data")
        ids = self.panoptic.cpu().numpy()
        present, areas = np.unique(ids, return_counts=True)
        labels = self.labels.tolist()
        info = [
            {"id": number, "category_id": self._category(labels[number - 1]), "area": area}
            for number, area in zip(present.tolist(), areas.tolist())
            if number
        ]
        return id_png(ids), info

    def _category(self, label: int) -> int:
        return self.category_ids[label] if len(self.category_ids) else label

    def name_of(self, label: int) -> str:
        """The class name of a label; the number where names are not known."""
        return self.names[label] if len(self.names) else str(label)

    def plot(self, image: Any = None, *, threshold: float = 0.0) -> Any:
        """A PIL image with what scores at least `threshold` drawn on it: by default all that the prediction holds, which `Detector.predict` chose.

        Args:
            image: the original image as a PIL image, RGB array `(H, W, 3)` uint8 or path; may be left out if the prediction came from a file.

        Raises:
            UserError: there is no image, it is not of the size that the prediction is about, or the threshold is not in [0, 1].
        """
        check_threshold(threshold)
        if image is None and self.path is None:
            raise UserError("this prediction was not made from a file: give the image to draw on, as plot(image)")
        canvas = as_image(self.path if image is None else image)
        if canvas.size != tuple(self.size[::-1]):
            height, width = self.size
            raise UserError(
                f"image is {canvas.width}×{canvas.height}, the prediction is about one of {width}×{height}; give the original image"
            )
        if self.semantic is not None:
            return self._plot_semantic(canvas)
        kept = self.cpu().above(threshold)
        labels = kept.labels.tolist()
        texts = [f"{self.name_of(label)} {score:.2f}" for label, score in zip(labels, kept.scores.tolist())]
        masks = None if kept.masks is None else kept.masks.numpy()
        return draw(canvas, kept.boxes_xyxy.tolist(), texts, labels, masks=masks, outline=self.panoptic is None)

    def _plot_semantic(self, canvas: Any) -> Any:
        classes = self.semantic.cpu().numpy()
        present = np.unique(classes).tolist()
        masks = np.stack([classes == label for label in present])
        names = [self.name_of(label) for label in present]
        return draw(canvas, bounds(masks).tolist(), names, present, masks=masks, outline=False)

    def save(self, path: str | Path, *, image: Any = None, threshold: float = 0.0) -> None:
        """Write `plot(image, threshold=threshold)` to `path`; the suffix chooses the format, and folders are made."""
        picture = self.plot(image, threshold=threshold)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=95)

    def to_supervision(self) -> Any:
        """`supervision.Detections`, with the class names under `data["class_name"]`.

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
