"""Heads: features in, boxes or masks out."""

from vitdet.heads.base import Head
from vitdet.heads.detr import DETRHead, PlainDETRHead

__all__ = ["DETRHead", "Head", "PlainDETRHead"]
