"""Pure functions on boxes: formats, areas and IoU.

`cxcywh` stands for centre, width and height; `xyxy` for the left-top and the right-bottom corner. The functions work in
any unit. N and M are numbers of boxes.
"""

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """The corners of boxes `(..., 4)` that are given by centre and size.

    Example:
        >>> cxcywh_to_xyxy(torch.tensor([5.0, 5.0, 4.0, 2.0])).tolist()
        [3.0, 4.0, 7.0, 6.0]
    """
    centre, size = boxes_cxcywh.split(2, dim=-1)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """The centre and size of boxes `(..., 4)` that are given by corners."""
    low, high = boxes_xyxy.split(2, dim=-1)
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def area(boxes_xyxy: Tensor) -> Tensor:
    """The areas `(...)` of boxes `(..., 4)`; an inverted box has area 0."""
    width, height = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def _iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The IoU and the union of broadcastable boxes; the IoU of two empty boxes is 0, not NaN."""
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = area(a) + area(b) - overlap
    return overlap / union.clamp(min=torch.finfo(union.dtype).eps), union


def _giou(a: Tensor, b: Tensor) -> Tensor:
    iou, union = _iou(a, b)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    return iou - (hull - union) / hull.clamp(min=torch.finfo(hull.dtype).eps)


def pairwise_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """The IoU `(..., N, M)` of every box of `a_xyxy` `(..., N, 4)` with every box of `b_xyxy` `(..., M, 4)`.

    Example:
        >>> pairwise_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 2.0, 4.0]])).item()
        0.5
    """
    return _iou(a_xyxy.unsqueeze(-2), b_xyxy.unsqueeze(-3))[0]


def pairwise_giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """The generalised IoU `(..., N, M)` of all pairs of boxes, Rezatofighi et al. 2019 (arXiv:1902.09630)."""
    return _giou(a_xyxy.unsqueeze(-2), b_xyxy.unsqueeze(-3))


def iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """The IoU `(N,)` of N pairs of boxes, `(N, 4)` each."""
    return _iou(a_xyxy, b_xyxy)[0]


def giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """The generalised IoU `(N,)` of N pairs of boxes, `(N, 4)` each, Rezatofighi et al. 2019 (arXiv:1902.09630)."""
    return _giou(a_xyxy, b_xyxy)
