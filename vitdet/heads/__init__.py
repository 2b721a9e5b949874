"""Heads: features in, boxes or masks out."""

from vitdet.heads.base import Head
from vitdet.heads.deim import DEIMHead
from vitdet.heads.detr import DETRHead, PlainDETRHead
from vitdet.heads.mask import EoMTHead, MaskDecoderHead
from vitdet.heads.semantic import SemanticHead

__all__ = ["DEIMHead", "DETRHead", "EoMTHead", "Head", "MaskDecoderHead", "PlainDETRHead", "SemanticHead"]
