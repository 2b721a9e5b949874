"""Heads: features in, boxes or masks out."""

from vitdet.heads.base import Head
from vitdet.heads.deim import DEIMHead
from vitdet.heads.detr import Decoder, DETRHead, Masks, PlainDETRHead, Selection
from vitdet.heads.masks import EoMTHead, MaskDecoderHead, MaskRules
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
