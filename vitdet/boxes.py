"""Box arithmetic: pure functions.  # N, M boxes

`cxcywh` is centre, width, height; `xyxy` is the left-top and right-bottom corner. Every function works in the units it is given.
"""

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Corners of boxes `(..., 4)` given by centre and size."""
    centre, size = boxes_cxcywh.split(2, dim=-1)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Centre and size of boxes `(..., 4)` given by corners."""
    low, high = boxes_xyxy.split(2, dim=-1)
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def area(boxes_xyxy: Tensor) -> Tensor:
    """Areas `(...)` of boxes `(..., 4)`; an inverted box has area 0."""
    width, height = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def _iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and union of broadcastable boxes; two empty boxes have IoU 0, never NaN."""
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = area(a) + area(b) - overlap
    return overlap / union.clamp(min=torch.finfo(union.dtype).eps), union


def _giou(a: Tensor, b: Tensor) -> Tensor:
    iou, union = _iou(a, b)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    return iou - (hull - union) / hull.clamp(min=torch.finfo(hull.dtype).eps)


def pairwise_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """IoU `(..., N, M)` of every box in `a` `(..., N, 4)` with every box in `b` `(..., M, 4)`."""
    return _iou(a_xyxy.unsqueeze(-2), b_xyxy.unsqueeze(-3))[0]


def pairwise_giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Generalised IoU `(..., N, M)`, Rezatofighi et al. 2019 (arXiv:1902.09630)."""
    return _giou(a_xyxy.unsqueeze(-2), b_xyxy.unsqueeze(-3))


def iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """IoU `(N,)` of boxes paired one to one, `(N, 4)` each."""
    return _iou(a_xyxy, b_xyxy)[0]


def giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Generalised IoU `(N,)` of boxes paired one to one, `(N, 4)` each."""
    return _giou(a_xyxy, b_xyxy)
