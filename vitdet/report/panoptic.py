"""The report of a panoptic model: PQ, SQ and RQ of each class, and the worst images.

K is the number of classes, S of segments of an image, H×W its size in pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import numpy as np

from vitdet.draw import class_colour
from vitdet.masks import encode, rle
from vitdet.metrics.panoptic import Segments, count
from vitdet.pages.document import data_uri, pair, table
from vitdet.report.album import Album, Shown, picture
from vitdet.report.maps import KeptMaps
from vitdet.report.run import Run, partly
from vitdet.report.summary import title

WORST = 12


class PanopticReport:
    """The sections on what a panoptic model found.

    Args:
        found: the predicted maps.
        truth: a function that returns the true segments of an image, given its id, as the fields of `Segments`.
        names: the class names, by label.
        things: which classes are things, by label.
        album: the images.
        run: what is known of the run; a note is added where only some images were kept.
    """

    sections: ClassVar[dict[str, str]] = {"classes": "Classes", "worst": "Worst images"}

    def __init__(
        self,
        found: KeptMaps,
        truth: Callable[[int], tuple],
        names: Sequence[str],
        things: Sequence[bool],
        *,
        album: Album,
        run: Run,
    ) -> None:
        self.found, self.truth, self.names, self.things, self.album = found, truth, list(names), list(things), album
        self.counts, self.objects = {}, {}
        for image_id in found.maps:
            segments = Segments(*truth(image_id))
            self.counts[image_id] = count(segments, self._segments(image_id), len(self.names))
            self.objects[image_id] = np.bincount(segments.labels[~segments.crowd], minlength=len(self.names))
        self.total = sum(self.counts.values(), np.zeros((4, len(self.names))))
        if found.left_out:
            all_ = len(found.maps) + found.left_out
            run.notes.append(partly(len(found.maps), all_))

    def _segments(self, image_id: int) -> Segments:
        labels = np.array(self.found.labels[image_id], np.int64)
        ids = self.found.map(image_id).astype(np.int64)
        return Segments(ids, np.arange(len(labels)) + 1, labels, np.zeros(len(labels), bool))

    def body(self) -> Iterator[str]:
        """All sections, as HTML."""
        yield from self._classes()
        yield from self._worst()

    def _classes(self) -> Iterator[str]:
        yield title("classes", "Classes")
        yield (
            "<p class=dim>PQ = SQ × RQ: how well matched segments overlap (SQ), and how many are matched (RQ), at an "
            "IoU above 0.5.</p>"
        )
        rows = []
        for k, name in enumerate(self.names):
            iou, right, wrong, missed = self.total[:, k].tolist()
            scores = quality(self.total[:, k : k + 1])[:, 0].tolist()
            values = [None if np.isnan(value) else value for value in scores]
            rows.append((name, "thing" if self.things[k] else "stuff", *values, int(right), int(wrong), int(missed)))
        heads = ["class", "kind", "PQ", "SQ", "RQ", "matched", "wrong", "missed"]
        yield table(heads, rows, caption="Scores of each class")

    def _worst(self) -> Iterator[str]:
        yield title("worst", "Worst images")
        yield (
            "<p class=dim>By the PQ that their mistakes cost: what it would gain if this image alone were perfect. "
            "Segments have the colours of their classes.</p><div class=pairs>"
        )
        for image_id, loss in list(self.lost().items())[:WORST]:
            yield self._pair(image_id, loss)
        yield "</div>"

    def lost(self) -> dict[int, float]:
        """What PQ would gain if an image alone were perfect, for each image; the most first."""
        base = quality(self.total)[0]
        there, losses = np.isfinite(base), {}
        for image_id, part in self.counts.items():
            perfect = np.zeros_like(part)
            perfect[:2] = self.objects[image_id]
            better = np.nan_to_num(quality(self.total - part + perfect)[0], nan=1.0)
            losses[image_id] = float((better - base)[there].mean())
        return {i: loss for i, loss in sorted(losses.items(), key=lambda item: -item[1]) if loss > 1e-12}

    def _pair(self, image_id: int, loss: float) -> str:
        place = self.album.position(image_id)
        pixels, name = self.album.image(place), self.album.name(place)
        if pixels is None:
            return ""
        _, right, wrong, missed = self.counts[image_id].sum(1).astype(int).tolist()
        text = f"{name}: costs {loss:.4f} PQ; segments: {right} matched, {wrong} wrong, {missed} missed"
        truth, found = Segments(*self.truth(image_id)), self._segments(image_id)
        sources = [data_uri(picture(pixels, self._shown(side), outline=False)) for side in (truth, found)]
        return pair(((source, head, f"{name}: {head}") for source, head in zip(sources, ("labels", "found"))), text)

    def _shown(self, segments: Segments) -> list[Shown]:
        objects = []
        for number, label in zip(segments.numbers.tolist(), segments.labels.tolist()):
            mask = segments.ids == number
            if mask.any():
                code = {"size": list(mask.shape), "counts": encode(mask[None])[0]}
                objects.append(Shown(rle.toBbox(code), self.names[label], class_colour(label), code))
        return objects


def quality(counts: np.ndarray) -> np.ndarray:
    """PQ, SQ and RQ `(3, K)` of the counts `(4, K)` of classes, see `vitdet.metrics.panoptic.count`; NaN for none.

    Example:
        >>> quality(np.array([[1.6], [2], [1], [1]])).round(3).tolist()
        [[0.533], [0.8], [0.667]]
    """
    iou, right, wrong, missed = counts
    with np.errstate(divide="ignore", invalid="ignore"):
        half = right + wrong / 2 + missed / 2
        found = np.where(right > 0, iou / right, np.where(half > 0, 0.0, np.nan))
        return np.stack([iou / half, found, right / half])
