"""Draws on an image what a model looked at; H×W is its size in pixels."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from vitdet.draw import class_colour
from vitdet.explain.arrays import AttentionMap, Explanation, SamplingPoints, Subject
from vitdet.report.album import ENLARGED, RIGHT, SIDE, WRONG, Shown, picture, resized

# what is not attended to is as bright as this share
DIM = 0.4
# the radius in pixels of a point without weight, and what the weight adds at most
SMALLEST, GROWS = 1.5, 7.0


class Canvas:
    """An image at the size at which a page shows it.

    Args:
        explanation: what is shown.
    """

    def __init__(self, explanation: Explanation) -> None:
        height, width = explanation.image.shape[:2]
        scale = min(ENLARGED, SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        self.found, self.pixels = explanation.prediction, resized(explanation.image, size)
        self.original, self.scale = explanation.image, np.array([size[0] / width, size[1] / height])

    def subject(self, subject: Subject) -> Image.Image:
        """The image with the box of an object, or with the place."""
        shown = [] if subject.number is None else [Shown(self._box_xywh(subject.number), "", RIGHT)]
        pixels = np.array(picture(self.original, shown))
        _cross(pixels, np.array(subject.place) * self.scale)
        return Image.fromarray(pixels)

    def attention(self, subject: Subject, attention: AttentionMap, *, head: int | None = None) -> Image.Image:
        """The image, the brighter and warmer, the more a token is attended to.

        The most attended token is the brightest.

        Args:
            subject: what it is shown for.
            attention: the weights.
            head: the head of the attention; by default the mean of all.
        """
        weights = attention.weights.mean(0) if head is None else attention.weights[head]
        heat = weights / max(float(weights.max()), 1e-12)
        height, width = self.pixels.shape[:2]
        cells = [side * share for side, share in zip(heat.shape, attention.covers)]
        # the token of each pixel
        rows, columns = (
            np.minimum(((np.arange(n) + 0.5) / n * side).astype(int), most - 1)
            for n, side, most in zip((height, width), cells, heat.shape)
        )
        heat = heat[rows][:, columns].astype(np.float32)
        warm = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
        pixels = self.pixels * (DIM + (1 - DIM) * heat[..., None] / 2)
        pixels = (pixels + (warm - pixels) * 0.65 * heat[..., None]).clip(0, 255).astype(np.uint8)
        self._box(pixels, subject)
        if subject.number is None:
            _cross(pixels, np.array(subject.place) * self.scale)
        return Image.fromarray(pixels)

    def points(
        self, subject: Subject, points: SamplingPoints, *, level: int | None = None, head: int | None = None
    ) -> Image.Image:
        """The image with the sampling points of a query, in the colours of the levels, the larger, the more they weigh.

        The box that was found is blue, the one that the points are placed around is orange.

        Args:
            subject: what it is shown for.
            points: the points.
            level: the level whose points are shown; by default those of all.
            head: the head of the attention; by default all.
        """
        pixels = (self.pixels * 0.75).astype(np.uint8)
        x1, y1, x2, y2 = (points.reference_xyxy.reshape(2, 2) * self.scale).flatten().tolist()
        # wider than the box that was found, which may be the same
        _rectangle(pixels, (x1, y1, x2, y2), WRONG, width=5)
        self._box(pixels, subject)
        heads = range(len(points.xy)) if head is None else [head]
        chosen = [s for s in range(len(points.levels)) if level is None or points.levels[s] == level]
        dots = [(float(points.weights[a, s]), a, s) for a in heads for s in chosen]
        most = max(float(points.weights.max()), 1e-12)
        # the largest at the bottom, so that none is hidden
        for weight, a, s in sorted(dots, reverse=True):
            centre = points.xy[a, s] * self.scale
            _dot(pixels, centre, SMALLEST + GROWS * (weight / most) ** 0.5, class_colour(int(points.levels[s])))
        return Image.fromarray(pixels)

    def _box_xywh(self, number: int) -> np.ndarray:
        x1, y1, x2, y2 = self.found.boxes_xyxy[number].tolist()
        return np.array([x1, y1, x2 - x1, y2 - y1])

    def _box(self, pixels: np.ndarray, subject: Subject) -> None:
        if subject.number is not None:
            x, y, w, h = self._box_xywh(subject.number).tolist()
            corners = np.array([[x, y], [x + w, y + h]]) * self.scale
            _rectangle(pixels, corners.flatten().tolist(), RIGHT)


# OpenCV takes places in sixteenths of a pixel
SHIFT = 4


def _fixed(values: Sequence[float] | np.ndarray) -> tuple[int, ...]:
    # the centre of the first pixel is at 0 for OpenCV, and at a half here; far outside of the image is far enough
    return tuple(round((min(max(float(value), -1e5), 1e5) - 0.5) * 2**SHIFT) for value in values)


def _dot(pixels: np.ndarray, centre: np.ndarray, radius: float, colour: tuple[int, int, int]) -> None:
    cv2.circle(pixels, _fixed(centre), round(radius * 2**SHIFT), colour, -1, cv2.LINE_AA, SHIFT)
    cv2.circle(pixels, _fixed(centre), round(radius * 2**SHIFT), (0, 0, 0), 1, cv2.LINE_AA, SHIFT)


def _cross(pixels: np.ndarray, centre: np.ndarray) -> None:
    place = (round(float(centre[0]) - 0.5), round(float(centre[1]) - 0.5))
    cv2.drawMarker(pixels, place, (0, 0, 0), cv2.MARKER_CROSS, 18, 4)
    cv2.drawMarker(pixels, place, (255, 255, 255), cv2.MARKER_CROSS, 16, 2)


def _rectangle(pixels: np.ndarray, corners: Sequence[float], colour: tuple[int, int, int], *, width: int = 2) -> None:
    first, last = _fixed(corners[:2]), _fixed(corners[2:])
    cv2.rectangle(pixels, first, last, colour, width, cv2.LINE_AA, SHIFT)
