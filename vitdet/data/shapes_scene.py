"""The drawing of a scene of the built-in data set.

The outline of an object determines its class. Its colour is a hint that may mislead, as the colour of fruit may, and
its texture is random. Backgrounds have muted colours. H×W is the size of the scene in pixels, T the number of its
objects.
"""

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

THINGS = ("disc", "square", "triangle", "star", "ring", "cross")
STUFF = ("gradient", "noise", "bricks")

# the share of every object that stays visible: an object that would hide more of another is not drawn
MIN_VISIBLE = 0.5
Rng = np.random.Generator


@dataclass
class Scene:
    """A drawn scene.

    Attributes:
        image: `(H, W, 3)` RGB uint8.
        ids: `(H, W)`, the position of the object that each pixel shows; -1 for the background.
        labels: T classes, positions in `THINGS`.
        background: the class of the background, a position in `STUFF`.
    """

    image: np.ndarray
    ids: np.ndarray
    labels: list[int]
    background: int


def draw_scene(rng: Rng) -> Scene:
    """A random scene with a long side of 112 to 192 pixels and an aspect ratio of 0.6 to 1.7.

    It has 1 to 10 objects, which are from 16 pixels to two thirds of the image large.
    """
    long, aspect = rng.uniform(112, 192), np.exp(rng.uniform(np.log(0.6), np.log(1.7)))
    height, width = (round(long), round(long * aspect)) if aspect < 1 else (round(long / aspect), round(long))
    background = int(rng.integers(len(STUFF)))
    image = _background(rng, background, height, width)
    ids, labels, whole = np.full((height, width), -1), [], []
    for _ in range(int(rng.integers(1, 11))):
        label = int(rng.integers(len(THINGS)))
        cover = _cover(rng, label, height, width)
        solid = cover > 127
        after = np.where(solid, len(labels), ids)
        left = np.bincount(after[after >= 0], minlength=len(labels) + 1)
        if solid.sum() < 60 or (left[:-1] < MIN_VISIBLE * np.array(whole)).any():
            continue
        ids = after
        labels.append(label)
        whole.append(int(solid.sum()))
        alpha = cover[..., None] / 255.0
        image = image * (1 - alpha) + _texture(rng, label, height, width) * alpha
    # grain, as in the image of a camera
    image = image + rng.normal(0, 4, image.shape)
    return Scene(image.clip(0, 255).astype(np.uint8), ids, labels, background)


def _outline(label: int) -> list[np.ndarray]:
    """The outline of a shape of radius 1 as polygons `(P, 2)`; the second polygon, if any, is a hole."""
    name = THINGS[label]
    if name in ("disc", "ring"):
        circle = _regular(48, [1.0])
        return [circle] if name == "disc" else [circle, circle * 0.55]
    if name == "star":
        return [_regular(10, [1.0, 0.42])]
    if name == "cross":
        a, b = 1.0, 0.34
        return [
            np.array(
                [
                    (-b, -a),
                    (b, -a),
                    (b, -b),
                    (a, -b),
                    (a, b),
                    (b, b),
                    (b, a),
                    (-b, a),
                    (-b, b),
                    (-a, b),
                    (-a, -b),
                    (-b, -b),
                ]
            )
        ]
    return [_regular({"square": 4, "triangle": 3}[name], [1.0])]


def _regular(corners: int, radii: list[float]) -> np.ndarray:
    angle = np.arange(corners) * 2 * np.pi / corners
    radius = np.resize(radii, corners)
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], -1)


def _cover(rng: Rng, label: int, height: int, width: int) -> np.ndarray:
    """How much of each pixel a new object covers, `(H, W)` uint8, anti-aliased."""
    radius = np.exp(rng.uniform(np.log(10), np.log(0.36 * min(height, width))))
    stretch = rng.uniform(0.8, 1.25)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # smaller than the radius, so that a part of the object may lie outside the image
    margin = min(0.7 * radius, 0.45 * min(height, width))
    centre = rng.uniform([margin, margin], [width - margin, height - margin])
    polygons = [(outline * [stretch, 1 / stretch]) @ turn.T * radius + centre for outline in _outline(label)]
    cover = np.zeros((height, width), np.uint8)
    # fixed-point numbers with 4 fractional bits, see `shift` below
    fixed = [np.round(polygon * 16).astype(np.int32) for polygon in polygons]
    cv2.fillPoly(cover, fixed[:1], 255, cv2.LINE_AA, shift=4)
    for hole in fixed[1:]:
        inner = np.zeros_like(cover)
        cv2.fillPoly(inner, [hole], 255, cv2.LINE_AA, shift=4)
        cover = cv2.subtract(cover, inner)
    return cover


def _texture(rng: Rng, label: int, height: int, width: int) -> np.ndarray:
    """A surface `(H, W, 3)` in a light and a dark shade of a colour, whose hue lies near the usual hue of the class.

    The ranges of the hues of neighbouring classes overlap.
    """
    hue = label / len(THINGS) + rng.normal(0, 0.05)
    first = 255 * np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.55, 1), rng.uniform(0.6, 1)))
    second = first * rng.uniform(0.5, 0.75)
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 16)
    y, x = np.mgrid[:height, :width]
    u, v = (x * np.cos(angle) + y * np.sin(angle)) / period, (y * np.cos(angle) - x * np.sin(angle)) / period
    kind = rng.integers(4)
    if kind == 0:
        # stripes
        share = 0.5 + 0.5 * np.tanh(4 * np.sin(2 * np.pi * u))
    elif kind == 1:
        # checks
        share = 0.5 + 0.5 * np.tanh(4 * np.sin(np.pi * u) * np.sin(np.pi * v))
    elif kind == 2:
        # noise
        share = _smooth_noise(rng, height, width, cell=4)
    else:
        # gradient
        share = (u - u.min()) / np.ptp(u)
    return first + (second - first) * share[..., None]


def _background(rng: Rng, kind: int, height: int, width: int) -> np.ndarray:
    grey = rng.uniform(60, 200)
    first, second = grey + rng.uniform(-25, 25, 3), grey + rng.uniform(-60, 60) + rng.uniform(-25, 25, 3)
    if STUFF[kind] == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[:height, :width]
        share = x * np.cos(angle) + y * np.sin(angle)
        share = (share - share.min()) / np.ptp(share)
    elif STUFF[kind] == "noise":
        share = _smooth_noise(rng, height, width, cell=int(rng.integers(6, 24)))
    else:
        share = _bricks(rng, height, width)
    return first + (second - first) * share[..., None]


def _smooth_noise(rng: Rng, height: int, width: int, *, cell: int) -> np.ndarray:
    coarse = rng.random((height // cell + 2, width // cell + 2), dtype=np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def _bricks(rng: Rng, height: int, width: int) -> np.ndarray:
    """Rows of bricks `(H, W)` in random shades in [0, 1]; every second row is shifted by half a brick."""
    rows, columns = rng.uniform(12, 24), rng.uniform(24, 48)
    y, x = np.mgrid[:height, :width]
    row = (y // rows).astype(int)
    across = x / columns + 0.5 * (row % 2)
    column = across.astype(int)
    shade = rng.random((row.max() + 1, column.max() + 1))[row, column]
    joint = (y % rows < 2) | ((across % 1) * columns < 2)
    return np.where(joint, 0.0, 0.4 + 0.6 * shade)
