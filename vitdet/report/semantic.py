"""The report of a semantic model: IoU of the pixels and of the borders of each class, confusion, and the worst images.

H×W is the size of an image in pixels, K the number of classes.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import cv2
import numpy as np
from PIL import Image

from vitdet.draw import draw_classes
from vitdet.masks import VOID
from vitdet.metrics.semantic import confusion
from vitdet.pages.document import data_uri, heat, pair, table
from vitdet.report.album import ENLARGED, SIDE, Album, resized
from vitdet.report.maps import KeptMaps
from vitdet.report.run import Run, partly
from vitdet.report.summary import title

WORST, CONFUSED = 12, 30
# the width of a border as a share of the diagonal, Cheng et al. 2021 (arXiv:2103.16562)
BORDER = 0.02


class SemanticReport:
    """The sections on what a semantic model found.

    Args:
        found: the predicted maps.
        truth: a function that returns the label map `(H, W)` of an image, given its id.
        names: the class names, by label.
        album: the images.
        run: what is known of the run; a note is added where only some images were kept.
    """

    sections: ClassVar[dict[str, str]] = {"classes": "Classes", "confusion": "Confusion", "worst": "Worst images"}

    def __init__(
        self, found: KeptMaps, truth: Callable[[int], np.ndarray], names: list[str], *, album: Album, run: Run
    ) -> None:
        self.found, self.truth, self.names, self.album = found, truth, names, album
        self.counts: dict[int, np.ndarray] = {}
        borders = np.zeros((2, len(names)), np.int64)
        for image_id in found.maps:
            labels, predicted = truth(image_id), found.map(image_id)
            self.counts[image_id] = confusion(labels, predicted, len(names))
            borders += border_counts(labels, predicted, len(names))
        self.total = sum(self.counts.values(), np.zeros((len(names),) * 2, np.int64))
        with np.errstate(divide="ignore", invalid="ignore"):
            self.border_iou = borders[0] / borders[1]
        if found.left_out:
            all_ = len(found.maps) + found.left_out
            run.notes.append(partly(len(found.maps), all_))

    def body(self) -> Iterator[str]:
        """All sections, as HTML."""
        yield from self._classes()
        yield from self._confusion()
        yield from self._worst()

    def _classes(self) -> Iterator[str]:
        yield title("classes", "Classes")
        yield (
            "<p class=dim>IoU of all pixels, and of those near a border of the class (2 % of the diagonal, "
            "arXiv:2103.16562), which shows how exact outlines are. Void pixels count nowhere.</p>"
        )
        ious, pixels = iou_of(self.total), self.total.sum(1)
        accuracy = np.diag(self.total) / np.maximum(pixels, 1)
        rows = [
            (
                name,
                float(pixels[k] / max(1, pixels.sum())),
                *(None if np.isnan(value) else float(value) for value in (ious[k], self.border_iou[k])),
                float(accuracy[k]) if pixels[k] else None,
            )
            for k, name in enumerate(self.names)
        ]
        yield table(
            ["class", "share of pixels", "IoU", "boundary IoU", "accuracy"], rows, caption="Scores of each class"
        )

    def _confusion(self) -> Iterator[str]:
        yield title("confusion", "Confusion")
        kept = np.arange(len(self.names))
        if len(kept) > CONFUSED:
            off = self.total - np.diag(np.diag(self.total))
            kept = np.sort(np.argsort(-(off.sum(0) + off.sum(1)), kind="stable")[:CONFUSED])
            yield f"<p class=dim>The {CONFUSED} of {len(self.names)} classes that are confused most.</p>"
        shares = self.total / np.maximum(self.total.sum(1, keepdims=True), 1)
        names = [self.names[k] for k in kept.tolist()]
        yield "<p class=dim>Which class (column) the pixels of each class (row) got.</p>"
        rows = np.where(shares >= 0.0005, shares, 0)[np.ix_(kept, kept)].tolist()
        yield heat(names, names, rows, caption="Confusion of the classes")

    def _worst(self) -> Iterator[str]:
        yield title("worst", "Worst images")
        yield (
            "<p class=dim>By the mean IoU that their mistakes cost: what it would gain if this image alone were "
            "perfect.</p><div class=pairs>"
        )
        for image_id, loss in list(lost_iou(self.counts).items())[:WORST]:
            yield self._pair(image_id, loss)
        yield "</div>"

    def _pair(self, image_id: int, loss: float) -> str:
        place = self.album.position(image_id)
        pixels, name = self.album.image(place), self.album.name(place)
        counts = self.counts[image_id]
        right = np.trace(counts) / max(1, counts.sum())
        text = f"{name}: costs {loss:.4f} mean IoU; {right:.1%} of its pixels are right"
        if pixels is None:
            return ""
        sides = [
            data_uri(class_picture(pixels, labels, self.names))
            for labels in (self.truth(image_id), self.found.map(image_id))
        ]
        heads = ("labels", "found")
        return pair(((source, head, f"{name}: {head}") for source, head in zip(sides, heads)), text)


def class_picture(pixels: np.ndarray, labels: np.ndarray, names: list[str], *, side: int = SIDE) -> Image.Image:
    """An image covered by a map of classes; pixels without a class are left as they are.

    Args:
        pixels: `(H, W, 3)`.
        labels: `(H, W)`.
        names: the class names, by label.
        side: the longest side of the picture.
    """
    scale = min(ENLARGED, side / max(labels.shape))
    size = max(1, round(labels.shape[1] * scale)), max(1, round(labels.shape[0] * scale))
    canvas = Image.fromarray(resized(pixels, size))
    shown = cv2.resize(labels.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(np.int64)
    return draw_classes(canvas, shown, lambda label: names[label] if label < len(names) else "", void=VOID)


def iou_of(counts: np.ndarray) -> np.ndarray:
    """The IoU of each class of a confusion matrix `(K, K)`, NaN for those that occur nowhere.

    Example:
        >>> iou_of(np.array([[3, 1], [0, 4]])).tolist()
        [0.75, 0.8]
    """
    hit = np.diag(counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        return hit / (counts.sum(0) + counts.sum(1) - hit)


def lost_iou(counts: Mapping[int, np.ndarray]) -> dict[int, float]:
    """What the mean IoU would gain if an image alone were perfect, for each image; the most first.

    Example:
        >>> lost_iou({1: np.array([[2, 0], [0, 2]]), 2: np.array([[1, 1], [0, 2]])})
        {2: 0.225}
    """
    total = sum(counts.values(), np.zeros((1, 1), np.int64))
    base = iou_of(total)
    there = np.isfinite(base)
    losses = {}
    for image_id, part in counts.items():
        # a class that was found by mistake alone, and only here, has no IoU then
        better = np.nan_to_num(iou_of(total - part + np.diag(part.sum(1))), nan=1.0)
        losses[image_id] = round(float((better - base)[there].mean()), 12)
    return {image_id: loss for image_id, loss in sorted(losses.items(), key=lambda item: -item[1]) if loss > 0}


def border_counts(labels: np.ndarray, found: np.ndarray, num_classes: int) -> np.ndarray:
    """Intersection and union `(2, K)`, in pixels, of the borders of each class in two maps `(H, W)`.

    The border of a class are its pixels at most 2 % of the image's diagonal away from another class or the side of the
    image. Pixels that are void in the labels do not count.
    """
    width = max(1, round(BORDER * float(np.hypot(*labels.shape))))
    result, counted = np.zeros((2, num_classes), np.int64), labels < num_classes
    for k in np.union1d(np.unique(labels[counted]), np.unique(found[counted])).tolist():
        ours, theirs = (border(part == k, width) & counted for part in (found, labels))
        result[:, k] = (ours & theirs).sum(), (ours | theirs).sum()
    return result


def border(mask: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a mask `(H, W)` that are at most `width` pixels, also along diagonals, from what is not in it.

    Example:
        >>> border(np.ones((5, 5), bool), 1).sum().item()
        16
    """
    far = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_C, 3)[1:-1, 1:-1]
    return mask & (far <= width)
