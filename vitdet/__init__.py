"""vitdet: detection and segmentation on plain Vision Transformers, at the native sizes of the images.

    image -> patches -> tokens -> feature maps -> queries -> boxes / masks -> loss, or prediction -> metric

Read the source in this order: `structures` and `boxes` (the values that pass between the parts), `backbone` (images to
feature maps), `losses`, `heads` (feature maps to queries, boxes and masks), `data`, `metrics`, `zoo` (published
models), `training` (where `Task.training_step` is the whole way from images to the loss), `deploy`, `command`, `cli`.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# Idle OpenMP threads sleep instead of spinning: where another program uses the same cores, spinning made a training
# step four times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# At run time, `__getattr__` below imports a name when it is first used, since torch, timm and lightning take seconds to
# import. Type checkers read these imports and `__all__`, which they understand only as literals. A test checks that the
# three lists have the same names.
if TYPE_CHECKING:
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
# the public names of each module
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
# the modules that can be used as attributes, as in `vitdet.zoo`, without an import of their own
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
