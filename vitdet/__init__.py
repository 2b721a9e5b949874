"""vitdet: detection and segmentation on plain Vision Transformers, at the images' own sizes.

    image -> patches -> tokens -> feature maps -> queries -> boxes / masks -> loss, or prediction -> metric

Read in this order: `structures`, `boxes`, `backbone`, `losses`, `heads`, `data`, `metrics`, `zoo`, `training`, `deploy`, `cli`.
"""

import os

# Idle threads sleep instead of spinning: where another program shares the cores, spinning made a training step four times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from vitdet.backbone import Backbone, create_backbone
from vitdet.data import (
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
from vitdet.deploy import Detector, load
from vitdet.heads import DEIMHead, DETRHead, EoMTHead, Head, MaskDecoderHead, PlainDETRHead, SemanticHead
from vitdet.structures import Features, Level, Prediction, Target
from vitdet.training import Task, Trainer

__version__ = "0.1.0"
__all__ = [
    "Backbone",
    "CocoData",
    "DEIMHead",
    "DETRHead",
    "Detector",
    "EoMTHead",
    "Features",
    "Head",
    "Level",
    "MaskDecoderHead",
    "PanopticData",
    "PanopticSplit",
    "PlainDETRHead",
    "Prediction",
    "SemanticData",
    "SemanticHead",
    "SemanticSplit",
    "ShapesData",
    "ShapesPanopticData",
    "ShapesSemanticData",
    "Split",
    "Target",
    "Task",
    "Trainer",
    "create_backbone",
    "load",
]
