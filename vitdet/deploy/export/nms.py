"""Non-maximum suppression of a batch as one operator of PyTorch, which is `NonMaxSuppression` in ONNX."""

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms


@torch.library.custom_op("vitdet::kept", mutates_args=())
def kept(boxes_xyxy: Tensor, scores: Tensor, iou: float) -> Tensor:
    """The boxes `(B, n, 4)` with scores `(B, 1, n)` that are kept in each image: `(M, 3)` image, 0 and number."""
    found = [nms(boxes, score[0], iou) for boxes, score in zip(boxes_xyxy, scores)]
    image = torch.cat([torch.full_like(numbers, i) for i, numbers in enumerate(found)])
    return torch.stack([image, torch.zeros_like(image), torch.cat(found)], 1)


@kept.register_fake
def _(boxes_xyxy: Tensor, scores: Tensor, iou: float) -> Tensor:
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes_xyxy.new_empty(count, 3, dtype=torch.int64)


def suppressed(boxes_xyxy: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Bool `(B, n)`, which of the boxes `(B, n, 4)`, best first, overlap a better one that is kept."""
    if torch.compiler.is_exporting():
        return _suppressed_by_rounds(boxes_xyxy, iou)
    found = kept(boxes_xyxy, scores[:, None], iou)
    number = found[:, 0] * scores.shape[1] + found[:, 2]
    alone = torch.zeros_like(scores).flatten().scatter(0, number, 1.0)
    return alone.view_as(scores) == 0


def _suppressed_by_rounds(boxes_xyxy: Tensor, iou: float) -> Tensor:
    """The same by operators of PyTorch alone, for packages that run without vitdet.

    A box is suppressed if it overlaps a better one that is not. Beginning with none, each round settles at least one
    more box of every chain of overlapping boxes, and the last round changes nothing.
    """
    overlap = box_iou(boxes_xyxy, boxes_xyxy) > iou
    better = overlap & torch.ones_like(overlap).tril(-1)

    def changed(out: Tensor, before: Tensor) -> Tensor:
        return (out != before).any()

    def settle(out: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        return (better & ~out[:, None]).any(-1), out.clone()

    nothing = torch.zeros_like(better[..., 0])
    return torch.while_loop(changed, settle, (nothing, ~nothing))[0]
