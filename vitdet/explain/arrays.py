"""What a model looked at, as arrays.

H×W the image in pixels, h×w a grid of tokens, heads, S sampling points of all levels together
"""

from dataclasses import dataclass, field

import numpy as np

from vitdet.structures import Prediction


@dataclass(frozen=True)
class AttentionMap:
    """What a token or a query attends to; the weights and the rest add up to 1 for each head.

    Attributes:
        name: the block or the level.
        weights: `(heads, h, w)` float32, the share of each token of the grid, 0 for those outside of its window.
        rest: `(heads,)` float32, the share of all that is no part of the image: class tokens, registers, queries.
        covers: the fractions of the grid's height and width that the image covers; the rest is padding.
    """

    name: str
    weights: np.ndarray
    rest: np.ndarray
    covers: tuple[float, float]


@dataclass(frozen=True)
class SamplingPoints:
    """Where the last layer of a deformable decoder samples the feature levels for a query.

    Attributes:
        xy: `(heads, S, 2)` float32, in pixels of the original.
        weights: `(heads, S)` float32, which add up to 1 for each head.
        levels: `(S,)` int64, the level of each point, finest first.
        strides: the stride of each level, in pixels of the image as the model sees it.
        reference_xyxy: `(4,)` float32, the box that the points are placed around, in pixels of the original.
    """

    xy: np.ndarray
    weights: np.ndarray
    levels: np.ndarray
    strides: list[float]
    reference_xyxy: np.ndarray


@dataclass
class Subject:
    """An object or a place of the image, and what the model looked at for it.

    Attributes:
        title: what it is.
        place: x and y in pixels of the original: the point that was given, or the middle of the object.
        number: the position of the object in the prediction, if it is one.
        query: the number of the head's query that found it, if it is known.
        blocks: for each chosen block of the ViT, what the patch at `place` attends to.
        query_maps: what the query attends to: in each level, or in each block that runs with queries.
        points: what the query samples, for deformable decoders.
    """

    title: str
    place: tuple[float, float]
    number: int | None = None
    query: int | None = None
    blocks: list[AttentionMap] = field(default_factory=list)
    query_maps: list[AttentionMap] = field(default_factory=list)
    points: SamplingPoints | None = None


@dataclass
class Explanation:
    """What a model looked at in an image.

    Attributes:
        image: `(H, W, 3)` uint8, the original.
        prediction: what was found, of at least the threshold.
        subjects: the objects and places that are explained.
        notes: what a reader has to know, in sentences.
    """

    image: np.ndarray
    prediction: Prediction
    subjects: list[Subject]
    notes: list[str]
