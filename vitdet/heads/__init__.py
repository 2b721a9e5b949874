"""Heads: they turn a backbone's features into boxes or masks."""

from vitdet.heads.base import Head
from vitdet.heads.deim.head import DEIMHead
from vitdet.heads.detr.head import Decoder, DETRHead
from vitdet.heads.detr.plain import PlainDETRHead
from vitdet.heads.masks.branches import Masks
from vitdet.heads.masks.decoder import MaskDecoderHead
from vitdet.heads.masks.eomt import EoMTHead
from vitdet.heads.masks.inference import MaskRules
from vitdet.heads.queries.selection import Selection
from vitdet.heads.semantic import SemanticHead

__all__ = [
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
]
