"""COCO annotation files, read once: for training and for scoring."""

from vitdet.annotations.index import CocoIndex

__all__ = ["CocoIndex"]
