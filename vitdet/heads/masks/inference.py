"""From classes, boxes and masks of queries to detections, instances, a semantic map, or panoptic segments.

# B images, Q queries, K classes, T instances or segments, H×W the original image
Rules and thresholds: Cheng et al. 2022 (Mask2Former, arXiv:2112.01527).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vitdet.boxes import cxcywh_to_xyxy
from vitdet.config import options
from vitdet.heads.masks.pixels import binary_masks
from vitdet.heads.masks.tiles import best_class
from vitdet.heads.options import RANGES
from vitdet.losses.points import QueryMasks, extents
from vitdet.structures import Prediction

# numbers of queries (n,) -> the logits of their masks (n, H, W)
Masks = Callable[[Tensor], Tensor]
# masks at full size that are held as logits at once
CHUNK = 16


@options(RANGES)
class MaskRules:
    """How the classes and masks of queries become a prediction.

    Args:
        max_detections: instances that are returned for an image.
        threshold: of panoptic segments: queries that score less are left out.
        overlap: of panoptic segments: how many pixels a query must win, as a share of its mask.
        two_step: masks are enlarged to the size that the model sees before they are to the original one, as most
            published figures were taken.

    Example:
        >>> MaskRules(threshold=0.8).overlap
        0.8
    """

    max_detections: int = 100
    threshold: float = 0.5
    overlap: float = 0.8
    two_step: bool = False


def best_detections(
    logits: Tensor, boxes_cxcywh: Tensor, sizes, max_detections: int, masks: QueryMasks | None = None
) -> list[Prediction]:
    """The `max_detections` best (query, class) pairs of each image, boxes clipped to it, with masks if there are any.

    Args:
        logits: `(B, Q, K)`.
        boxes_cxcywh: `(B, Q, 4)`.
        sizes: `(H, W)` of the original images.
    """
    K = logits.shape[-1]
    scores, index = logits.float().sigmoid().flatten(1).topk(min(max_detections, logits[0].numel()), dim=1)  # (B, Q*K)
    boxes = cxcywh_to_xyxy(boxes_cxcywh.float()).clamp(0, 1)
    maps = covered = None
    if masks is not None:
        maps, covered = masks.pixels[-1].maps(), extents(masks.pixels[-1], masks.sizes)
    predictions = []
    for i, (height, width) in enumerate(sizes):
        scale = boxes.new_tensor([width, height, width, height])
        queries = index[i] // K
        prediction = Prediction(boxes[i, queries] * scale, scores[i], index[i] % K, size=(height, width))
        if masks is not None:
            embeddings = masks.embeddings[-1, i, 0, queries]
            prediction.masks = binary_masks(embeddings, maps[i], (height, width), covered[i])
        predictions.append(prediction)
    return predictions


def instances(scores: Tensor, masks: Masks, size: tuple[int, int], max_detections: int) -> Prediction:
    """The best (query, class) pairs: class score times how sure the mask is of its pixels.

    Args:
        scores: `(Q, K)` in [0, 1].
    """
    best, index = scores.flatten().topk(min(max_detections, scores.numel()))
    inside = torch.zeros(len(best), *size, dtype=torch.bool, device=scores.device)
    sure = torch.zeros_like(best)
    for rows in torch.arange(len(best), device=scores.device).split(CHUNK):
        logits = masks(index[rows] // scores.shape[1])
        inside[rows] = logits > 0
        sure[rows] = (logits.sigmoid() * inside[rows]).sum((1, 2)) / inside[rows].sum((1, 2)).clamp(min=1)
    best, order = (best * sure).sort(descending=True)
    inside = inside[order]
    return Prediction(mask_boxes(inside), best, index[order] % scores.shape[1], size=size, masks=inside)


def class_scores(scores: Tensor, masks: Masks, size: tuple[int, int]) -> Tensor:
    """`(K, H, W)`: the sum of score times mask of each class at every pixel."""
    by_class = torch.zeros(scores.shape[1], *size, device=scores.device)
    for rows in torch.arange(len(scores), device=scores.device).split(CHUNK):
        by_class += torch.einsum("qk,qhw->khw", scores[rows], masks(rows).sigmoid())
    return by_class


def semantic(scores: Tensor, size: tuple[int, int]) -> Prediction:
    """The class with the largest of the scores `(K, h, w)` at every pixel of an image of `size`."""
    return nothing_found(size, scores.device, semantic=best_class(scores, size))


def panoptic(scores: Tensor, masks: Masks, size: tuple[int, int], things: Tensor, rules: MaskRules) -> Prediction:
    """Each pixel to the query with the largest score times mask; queries that keep too little of their mask are
    dropped.

    Args:
        things: `(K,)` bool; segments of a class that is no thing are merged.
        rules: the threshold and the overlap.
    """
    best, labels = scores.max(1)
    kept = (best > rules.threshold).nonzero().squeeze(1)
    ids = torch.zeros(size, dtype=torch.int32, device=scores.device)
    if not len(kept):
        return nothing_found(size, scores.device, panoptic=ids)
    best, labels, p = best[kept], labels[kept], masks(kept).sigmoid()
    owner = (best[:, None, None] * p).argmax(0)
    found: list[int] = []
    stuff: dict[int, int] = {}
    for k, label in enumerate(labels.tolist()):
        sure = p[k] >= 0.5
        won = owner == k
        mine = won & sure
        if not mine.any() or won.sum() < rules.overlap * sure.sum():
            continue
        if not things[label] and label in stuff:
            ids[mine] = stuff[label]
            continue
        found.append(k)
        stuff[label] = len(found)
        ids[mine] = len(found)
    masks = torch.stack([ids == t + 1 for t in range(len(found))]) if found else ids[None][:0] > 0
    return Prediction(mask_boxes(masks), best[found], labels[found], size=size, masks=masks, panoptic=ids)


def mask_boxes(masks: Tensor) -> Tensor:
    """`(T, 4)` corners of the pixels of each mask; zeros where there are none."""
    rows, columns = masks.any(2).int(), masks.any(1).int()  # (T, H), (T, W)
    height, width = masks.shape[1:]
    first = [side.argmax(1) if side.shape[1] else side.sum(1) for side in (columns, rows)]
    last = [n - side.flip(1).argmax(1) for n, side in ((width, columns), (height, rows))]
    boxes = torch.stack([*first, *last], 1).float()
    return boxes * masks.flatten(1).any(1)[:, None]


def nothing_found(size: tuple[int, int], device, **maps: Tensor) -> Prediction:
    empty = torch.zeros(0, device=device)
    return Prediction(empty.view(0, 4), empty, empty.long(), size=size, **maps)
