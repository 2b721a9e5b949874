"""Recognising folders of labelled images, and reading annotation formats other than COCO's."""

from vitdet.data.formats.find import find
from vitdet.data.formats.found import Found
from vitdet.data.formats.labels import Labels

__all__ = ["Found", "Labels", "find"]
