"""Losses between predicted and true boxes, paired one to one.  # M pairs"""

from torch import Tensor

from vitdet.boxes import cxcywh_to_xyxy, giou, iou


def box_losses(boxes_cxcywh: Tensor, targets_cxcywh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L1 loss, GIoU loss and IoU (without gradient), each `(M,)`, of boxes `(M, 4)` as fractions of the image."""
    boxes_cxcywh = boxes_cxcywh.float()
    l1 = (boxes_cxcywh - targets_cxcywh).abs().sum(-1)
    boxes_xyxy, targets_xyxy = cxcywh_to_xyxy(boxes_cxcywh), cxcywh_to_xyxy(targets_cxcywh)
    return l1, 1 - giou(boxes_xyxy, targets_xyxy), iou(boxes_xyxy.detach(), targets_xyxy)
