"""DETR-style detection heads."""

from vitdet.heads.detr.decoder import Decoder
from vitdet.heads.detr.head import DETRHead
from vitdet.heads.detr.masks import Masks
from vitdet.heads.detr.plain import PlainDETRHead
from vitdet.heads.detr.selection import Selection

__all__ = ["DETRHead", "Decoder", "Masks", "PlainDETRHead", "Selection"]
