"""Heads that segment by queries, each with a class and a mask."""

from vitdet.heads.masks.base import QueryMaskHead, SegmentationHead
from vitdet.heads.masks.decoder import MaskDecoderHead
from vitdet.heads.masks.eomt import EoMTHead
from vitdet.heads.masks.inference import MaskRules

__all__ = ["EoMTHead", "MaskDecoderHead", "MaskRules", "QueryMaskHead", "SegmentationHead"]
