"""The index of a COCO annotation file, which training and scoring share."""

from vitdet.annotations.index import CocoIndex

__all__ = ["CocoIndex"]
