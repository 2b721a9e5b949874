"""The data structures that backbone, heads, losses and data sets exchange, and the letters that shapes are written in.

B images, N tokens of all images together, Q queries, C channels, K classes, T objects of an image,
H×W an image in pixels, h×w a grid of tokens
boxes_cxcywh   centre and size, as fractions of the image
boxes_xyxy     corners, in pixels
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vitdet.draw import draw, draw_classes
from vitdet.errors import UserError
from vitdet.images import as_array
from vitdet.masks import encode, id_png
from vitdet.thresholds import THRESHOLD as THRESHOLD
from vitdet.thresholds import Threshold, check_threshold, reach


def equal_grids(grids: Sequence[tuple[int, int]]) -> list[list[int]]:
    """For each distinct grid, in the order of appearance, the positions in the batch of the images with this grid."""
    members: dict[tuple[int, int], list[int]] = {}
    for i, grid in enumerate(grids):
        members.setdefault((grid[0], grid[1]), []).append(i)
    return list(members.values())


def centres(grid: tuple[int, int], step: tuple[float, float], device: torch.device | None = None) -> Tensor:
    """x and y `(h*w, 2)` of the centres of a grid's cells, row by row; `step` is the height and width of a cell."""
    h, w = grid
    y = (torch.arange(h, device=device) + 0.5) * step[0]
    x = (torch.arange(w, device=device) + 0.5) * step[1]
    return torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1).flatten(0, 1)  # (h, w, 2) -> (h*w, 2)


@dataclass
class Level:
    """A packed feature map of each image: `x` `(N, C)` holds their `h*w` tokens, image after image and row by row.

    A grid starts at the top left corner of its image: the centre of token `(i, j)` is at `(j + 0.5, i + 0.5)` strides.
    If the size of the image is no multiple of the stride, the last row and column extend beyond its border.
    """

    x: Tensor
    grids: list[tuple[int, int]]
    stride: float

    @property
    def lengths(self) -> list[int]:
        return [h * w for h, w in self.grids]

    def maps(self) -> list[Tensor]:
        """The map `(C, h, w)` of each image."""
        parts = self.x.split(self.lengths)
        return [part.T.unflatten(1, grid) for part, grid in zip(parts, self.grids)]  # (h*w, C) -> (C, h, w)

    def centres(self, i: int, size: tuple[int, int]) -> Tensor:
        """x and y `(h*w, 2)` of the tokens of image `i`, as fractions of its size `(H, W)`; above 1 in the padding."""
        height, width = size
        return centres(self.grids[i], (self.stride / height, self.stride / width), self.x.device)

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """Maps `(B, C, h, w)`, zero-padded at the right and bottom, and a mask `(B, h, w)` of the tokens that are no
        padding, or `None` if there is no padding."""
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
class UnfinishedTokens:
    """Tokens `x` `(N, C)` before the ViT's last blocks, which a head runs with its queries in front of each image's.

    Images are grouped by grid: `order` has their positions in the batch, `grids` their patch grids, and `lengths` their
    numbers of tokens, of which the first `num_prefix` are not patches. `blocks` are the remaining blocks, each with its
    rotary embeddings `(N, heads or 1, 2*d)` or `None`, and `norm` is the norm after the last block.
    """

    x: Tensor
    lengths: list[int]
    grids: list[tuple[int, int]]
    order: list[int]
    num_prefix: int
    blocks: list[tuple[nn.Module, Tensor | None]]
    norm: nn.Module

    def run(self, i: int, x: Tensor, added: int, allowed: Sequence[Tensor] | None = None) -> Tensor:
        """Block `i` applied to tokens `x`, with `added` tokens in front of each image's; `allowed` as in `attend`."""
        (block, rope), lengths = self.blocks[i], [added + length for length in self.lengths]
        if rope is not None:
            # added tokens have no position in the image: their sines are 0, their cosines 1
            half = rope.shape[-1] // 2
            still = torch.cat([rope.new_zeros(half), rope.new_ones(half)]).expand(added, rope.shape[1], -1)
            rope = torch.cat([part for image in rope.split(self.lengths) for part in (still, image)])
        return block(x, lengths, lengths, rope, allowed)


@dataclass
class Features(Sequence[Level]):
    """The levels that a backbone returns, finest first, and the sizes `(H, W)` in pixels of the images before padding;
    `unfinished` is given if the backbone leaves its last blocks to the head."""

    levels: list[Level]
    sizes: list[tuple[int, int]]
    unfinished: UnfinishedTokens | None = None

    def __getitem__(self, index):
        return self.levels[index]

    def __len__(self) -> int:
        return len(self.levels)


def _with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of the dataclass `value` with `change` applied to its tensors."""
    known = ((field.name, getattr(value, field.name)) for field in fields(value))
    return replace(value, **{name: change(item) for name, item in known if isinstance(item, Tensor)})


@dataclass
class Target:
    """The objects to be found in an image.

    Attributes:
        boxes_cxcywh: `(T, 4)` float, centre and size as fractions of the image.
        labels: `(T,)` int64, classes 0..K-1.
        size: `(H, W)` in pixels of the image as the model sees it.
        orig_size: `(H, W)` in pixels of the original, upright image.
        image_id: the image's id in the data set.
        masks: `(T, H, W)` bool, if the task needs masks.
    """

    boxes_cxcywh: Tensor
    labels: Tensor
    size: tuple[int, int]
    orig_size: tuple[int, int]
    image_id: int = 0
    masks: Tensor | None = None

    def to(self, device, **kwargs) -> "Target":
        return _with_tensors(self, lambda tensor: tensor.to(device, **kwargs))

    def pin_memory(self) -> "Target":
        return _with_tensors(self, Tensor.pin_memory)


@dataclass
class Prediction:
    """The objects that were found in an image, best score first.

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
        path: the file of the image, if it was read from a file.
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
        return _with_tensors(self, lambda tensor: tensor.detach().cpu())

    def above(self, threshold: Threshold) -> "Prediction":
        """Only the detections with a score of at least `threshold`; pixels of all others belong to no segment.

        Args:
            threshold: a score in [0, 1], or a list of scores, indexed by label.

        Raises:
            UserError: the threshold is not in [0, 1], or is a list without a score for each class.
        """
        check_threshold(threshold, classes=len(self.names) or None)
        keep = reach(self.scores, self.labels, threshold)
        names = ("boxes_xyxy", "scores", "labels", *(() if self.masks is None else ("masks",)))
        kept = {name: getattr(self, name)[keep] for name in names}
        if self.panoptic is not None:
            number = torch.zeros(len(keep) + 1, dtype=self.panoptic.dtype, device=keep.device)
            number[1:] = keep.cumsum(0) * keep
            kept["panoptic"] = number[self.panoptic.long()]
        return replace(self, **kept)

    def to_coco(self) -> list[dict[str, Any]]:
        """Rows of a COCO results file: boxes `[x, y, width, height]` in pixels, category ids, and masks as RLE."""
        codes = () if self.masks is None else encode(self.masks.cpu().numpy())
        found = zip(self.boxes_xyxy.tolist(), self.scores.tolist(), map(self._category, self.labels.tolist()))
        rows = [
            {"image_id": self.image_id, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            for (x1, y1, x2, y2), score, category in found
        ]
        for row, code in zip(rows, codes):
            row["segmentation"] = {"size": list(self.masks.shape[1:]), "counts": code.decode()}
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
        info = [{"id": i, "category_id": self._category(labels[i - 1]), "area": area} for i, area in found if i]
        return id_png(ids), info

    def _category(self, label: int) -> int:
        return self.category_ids[label] if len(self.category_ids) else label

    def name_of(self, label: int) -> str:
        """The class name of a label, or the label's number if names are not known."""
        return self.names[label] if len(self.names) else str(label)

    def plot(self, image: Any = None, *, threshold: Threshold = 0.0) -> Any:
        """A PIL image on which the detections with a score of at least `threshold` are drawn, by default all of them.

        Args:
            image: the original as PIL image, RGB array `(H, W, 3)` uint8 or path; needed if there is no `self.path`.

        Raises:
            UserError: there is no image, it has another size, or the threshold is not in [0, 1].
        """
        check_threshold(threshold)
        if image is None and self.path is None:
            raise UserError("this prediction was not made from a file: give the image to draw on, as plot(image)")
        canvas = Image.fromarray(as_array(self.path if image is None else image))
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
