"""Data modules, and what they consist of: annotations, image sources, transforms and batch samplers."""

from vitdet.annotations.index import CocoIndex
from vitdet.data.module import ImageData
from vitdet.data.options import Augmentation, Reading
from vitdet.data.sets import (
    CocoData,
    PanopticData,
    PanopticSplit,
    SemanticData,
    SemanticSplit,
    ShapesData,
    ShapesPanopticData,
    ShapesSemanticData,
    Split,
)
from vitdet.data.transforms import EvalTransform, Size

__all__ = [
    "Augmentation",
    "CocoData",
    "CocoIndex",
    "EvalTransform",
    "ImageData",
    "PanopticData",
    "PanopticSplit",
    "Reading",
    "SemanticData",
    "SemanticSplit",
    "ShapesData",
    "ShapesPanopticData",
    "ShapesSemanticData",
    "Size",
    "Split",
]
