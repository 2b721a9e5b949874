"""DETR-style detection heads."""

from vitdet.heads.detr.decoder import Decoder
from vitdet.heads.detr.head import DETRHead
from vitdet.heads.detr.plain import PlainDETRHead
from vitdet.heads.masks.branches import Masks
from vitdet.heads.queries.selection import Selection

__all__ = ["DETRHead", "Decoder", "Masks", "PlainDETRHead", "Selection"]
