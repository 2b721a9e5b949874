"""How weights are updated: in every precision, clipped as torch does, and with the settings of the run that goes on."""

import copy
import csv

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from vitdet import Backbone, ShapesData, ShapesPanopticData, ShapesSemanticData, Task
from vitdet.errors import UserError
from vitdet.heads import DEIMHead, DETRHead, EoMTHead, MaskDecoderHead, PlainDETRHead, SemanticHead
from vitdet.training.checkpoint import LastCheckpoint

from .conftest import BACKBONE, HEAD

TINY = {"dim": 32, "num_queries": 10, "num_layers": 1, "num_heads": 4, "ffn_dim": 32}
HEADS = {
    "deim": (DEIMHead, TINY, {}, ShapesData),
    "plain": (PlainDETRHead, TINY, {}, ShapesData),
    "detr-masks": (DETRHead, {**TINY, "masks": True}, {}, ShapesData),
    "mask": (MaskDecoderHead, {"dim": 32, "num_queries": 10, "num_layers": 1, "num_heads": 4, "ffn_dim": 32}, {}, ShapesPanopticData),
    "eomt": (EoMTHead, {"num_queries": 10}, {"depth": 2, "tail": 1, "neck": None, "stem": "patch"}, ShapesPanopticData),
    "semantic": (SemanticHead, {"dim": 32}, {}, ShapesSemanticData),
}
