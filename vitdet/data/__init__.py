"""Data modules, and what they consist of: annotations, image sources, transforms and batch samplers."""

import importlib
from typing import TYPE_CHECKING, Any

# At run time, `__getattr__` imports a name when it is first used, so that what needs no torch, such as
# `vitdet.data.check`, starts without it.
if TYPE_CHECKING:
    from vitdet.annotations.index import CocoIndex
    from vitdet.data.formats.open import open
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

# the public names of each module
_PLACES = {
    "vitdet.annotations.index": ("CocoIndex",),
    "vitdet.data.formats.open": ("open",),
    "vitdet.data.module": ("ImageData",),
    "vitdet.data.options": ("Augmentation", "Reading"),
    "vitdet.data.sets": (
        "CocoData",
        "PanopticData",
        "PanopticSplit",
        "SemanticData",
        "SemanticSplit",
        "ShapesData",
        "ShapesPanopticData",
        "ShapesSemanticData",
        "Split",
    ),
    "vitdet.data.transforms": ("EvalTransform", "Size"),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}

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
    "open",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACE_OF:
        raise AttributeError(f"module 'vitdet.data' has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(_PLACE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
