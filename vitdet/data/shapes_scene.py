"""One scene of the built-in data set.  # H×W in pixels, T objects

The outline says what an object is; its colour is a hint that may mislead, as with fruit; its texture says nothing. Backgrounds are muted.
"""

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

THINGS = ("disc", "square", "triangle", "star", "ring", "cross")
STUFF = ("gradient", "noise", "bricks")

MIN_VISIBLE = 0.5  # of an object, or the one that would hide it is not drawn
Rng = np.random.Generator


@dataclass
class Scene:
    """`image` `(H, W, 3)` RGB uint8; `ids` `(H, W)`: which object a pixel shows, -1 the background; `labels` of the T objects, 0..5; `background` 0..2."""

    image: np.ndarray
    ids: np.ndarray
    labels: list[int]
    background: int


def draw_scene(rng: Rng) -> Scene:
    """A random scene: long side 112 to 192 pixels, aspect 0.6 to 1.7, 1 to 10 objects of 16 pixels to two thirds of the image."""
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
    image = image + rng.normal(0, 4, image.shape)  # a little grain, as of a camera
    return Scene(image.clip(0, 255).astype(np.uint8), ids, labels, background)


def _outline(label: int) -> list[np.ndarray]:
    """Polygons `(P, 2)` of one shape of radius 1; the second one, if any, is a hole."""
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
    margin = min(0.7 * radius, 0.45 * min(height, width))  # a little of it may lie outside
    centre = rng.uniform([margin, margin], [width - margin, height - margin])
    polygons = [(outline * [stretch, 1 / stretch]) @ turn.T * radius + centre for outline in _outline(label)]
    cover = np.zeros((height, width), np.uint8)
    fixed = [np.round(polygon * 16).astype(np.int32) for polygon in polygons]  # 4 fractional bits
    cv2.fillPoly(cover, fixed[:1], 255, cv2.LINE_AA, shift=4)
    for hole in fixed[1:]:
        inner = np.zeros_like(cover)
        cv2.fillPoly(inner, [hole], 255, cv2.LINE_AA, shift=4)
        cover = cv2.subtract(cover, inner)
    return cover


def _texture(rng: Rng, label: int, height: int, width: int) -> np.ndarray:
    """A surface `(H, W, 3)` of two like colours, whose hue is near the one that is usual for the class: those of neighbours overlap."""
    hue = label / len(THINGS) + rng.normal(0, 0.05)
    first = 255 * np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.55, 1), rng.uniform(0.6, 1)))
    second = first * rng.uniform(0.5, 0.75)
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 16)
    y, x = np.mgrid[:height, :width]
    u, v = (x * np.cos(angle) + y * np.sin(angle)) / period, (y * np.cos(angle) - x * np.sin(angle)) / period
    kind = rng.integers(4)
    if kind == 0:  # stripes
        share = 0.5 + 0.5 * np.tanh(4 * np.sin(2 * np.pi * u))
    elif kind == 1:  # checks
        share = 0.5 + 0.5 * np.tanh(4 * np.sin(np.pi * u) * np.sin(np.pi * v))
    elif kind == 2:  # noise
        share = _smooth_noise(rng, height, width, cell=4)
    else:  # gradient
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
    """Rows of bricks, every other one shifted by half, each brick a shade of its own."""
    rows, columns = rng.uniform(12, 24), rng.uniform(24, 48)
    y, x = np.mgrid[:height, :width]
    row = (y // rows).astype(int)
    across = x / columns + 0.5 * (row % 2)
    column = across.astype(int)
    shade = rng.random((row.max() + 1, column.max() + 1))[row, column]
    joint = (y % rows < 2) | ((across % 1) * columns < 2)
    return np.where(joint, 0.0, 0.4 + 0.6 * shade)
