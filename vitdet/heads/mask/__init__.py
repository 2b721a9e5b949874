"""Heads that segment by queries, each with a class and a mask."""

from vitdet.heads.mask.base import QueryMaskHead, SegmentationHead
from vitdet.heads.mask.decoder import MaskDecoderHead
from vitdet.heads.mask.eomt import EoMTHead
from vitdet.heads.mask.inference import MaskRules

__all__ = ["EoMTHead", "MaskDecoderHead", "MaskRules", "QueryMaskHead", "SegmentationHead"]
