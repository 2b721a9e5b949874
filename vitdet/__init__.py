"""vitdet: detection and segmentation on plain Vision Transformers, at the images' own sizes.

    image -> patches -> tokens -> feature maps -> queries -> boxes / masks -> loss, or prediction -> metric

Read in this order: `structures`, `boxes`, `backbone`, `losses`, `heads`, `data`, `metrics`, `zoo`, `training`, `deploy`, `command`, `cli`.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# Idle threads sleep instead of spinning: where another program shares the cores, spinning made a training step four times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:  # at run time a name is imported when it is first used: torch, timm and lightning take seconds
    from vitdet.backbone import (
        Backbone,
        ConvStem,
        CSPNeck,
        HybridNeck,
        Neck,
        Projector,
        Pyramid,
        SpatialAdapter,
        Stem,
        TrunkOptions,
        create_backbone,
    )
    from vitdet.data import (
        Augmentation,
        CocoData,
        PanopticData,
        PanopticSplit,
        Reading,
        SemanticData,
        SemanticSplit,
        ShapesData,
        ShapesPanopticData,
        ShapesSemanticData,
        Size,
        Split,
    )
    from vitdet.deploy import Detector, load
    from vitdet.errors import UserError
    from vitdet.heads import (
        Decoder,
        DEIMHead,
        DETRHead,
        EoMTHead,
        Head,
        MaskDecoderHead,
        MaskRules,
        Masks,
        PlainDETRHead,
        Selection,
        SemanticHead,
    )
    from vitdet.structures import Features, Level, Prediction, Target
    from vitdet.training import Task, Trainer

__version__ = "0.1.0"
_PLACES = {
    "backbone": (
        "Backbone",
        "CSPNeck",
        "ConvStem",
        "HybridNeck",
        "Neck",
        "Projector",
        "Pyramid",
        "SpatialAdapter",
        "Stem",
        "TrunkOptions",
        "create_backbone",
    ),
    "data": (
        "Augmentation",
        "Reading",
        "CocoData",
        "PanopticData",
        "PanopticSplit",
        "SemanticData",
        "SemanticSplit",
        "ShapesData",
        "ShapesPanopticData",
        "ShapesSemanticData",
        "Size",
        "Split",
    ),
    "deploy": ("Detector", "load"),
    "errors": ("UserError",),
    "heads": (
        "DEIMHead",
        "DETRHead",
        "Decoder",
        "EoMTHead",
        "Head",
        "MaskDecoderHead",
        "MaskRules",
        "Masks",
        "PlainDETRHead",
        "Selection",
        "SemanticHead",
    ),
    "structures": ("Features", "Level", "Prediction", "Target"),
    "training": ("Task", "Trainer"),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}
_MODULES = {*_PLACES, "boxes", "cli", "config", "losses", "masks", "metrics", "zoo"}
__all__ = [
    "Augmentation",
    "Backbone",
    "CSPNeck",
    "CocoData",
    "ConvStem",
    "DEIMHead",
    "DETRHead",
    "Decoder",
    "Detector",
    "EoMTHead",
    "Features",
    "Head",
    "HybridNeck",
    "Level",
    "MaskDecoderHead",
    "MaskRules",
    "Masks",
    "Neck",
    "PanopticData",
    "PanopticSplit",
    "PlainDETRHead",
    "Prediction",
    "Projector",
    "Pyramid",
    "Reading",
    "Selection",
    "SemanticData",
    "SemanticHead",
    "SemanticSplit",
    "ShapesData",
    "ShapesPanopticData",
    "ShapesSemanticData",
    "Size",
    "SpatialAdapter",
    "Split",
    "Stem",
    "Target",
    "Task",
    "Trainer",
    "TrunkOptions",
    "UserError",
    "create_backbone",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _PLACE_OF:
        globals()[name] = value = getattr(importlib.import_module(f"vitdet.{_PLACE_OF[name]}"), name)
        return value
    if name in _MODULES:
        return importlib.import_module(f"vitdet.{name}")
    raise AttributeError(f"module 'vitdet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
