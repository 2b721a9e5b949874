"""DETR-style detection heads."""

from vitdet.heads.detr.head import DETRHead
from vitdet.heads.detr.plain import PlainDETRHead

__all__ = ["DETRHead", "PlainDETRHead"]
