"""Data: COCO JSON to compact arrays, images to tensors, batches of any sizes."""

from vitdet.data.index import CocoIndex
from vitdet.data.module import CocoData, ShapesData, Split
from vitdet.data.transforms import EvalTransform

__all__ = ["CocoData", "CocoIndex", "EvalTransform", "ShapesData", "Split"]
