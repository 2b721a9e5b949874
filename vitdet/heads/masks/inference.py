"""From classes, boxes and masks of queries to detections, instances, a semantic map, or panoptic segments.

The rules and thresholds are those of Mask2Former, Cheng et al. 2022 (arXiv:2112.01527).

B images, Q queries of an image, K classes, T instances or segments, H×W the original image in pixels
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

# a function from numbers of queries (n,) to the logits of their masks (n, H, W)
Masks = Callable[[Tensor], Tensor]
# the number of masks at full size whose logits are held in memory at a time
CHUNK = 16


@options(RANGES)
class MaskRules:
    """How the classes and masks of queries become a prediction.

    Args:
        max_detections: how many instances are returned for an image.
        threshold: queries with a lower score become no panoptic segment.
        overlap: the pixels where a query has the largest product of score and mask must be at least this fraction of
            the query's mask, or the query becomes no panoptic segment.
        two_step: whether masks are first enlarged to the size that the model sees, and then to the original size, as
            for most published results.

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
    """The `max_detections` best (query, class) pairs of each image, with boxes clipped to the image.

    Args:
        logits: `(B, Q, K)`.
        boxes_cxcywh: `(B, Q, 4)`.
        sizes: `(H, W)` of the original images.
        masks: the masks of the queries, if the head finds masks.
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
        found = boxes[i, queries] * scale, scores[i], index[i] % K
        prediction = Prediction(*found, size=(height, width), queries=queries)
        if masks is not None:
            embeddings = masks.embeddings[-1, i, 0, queries]
            prediction.masks = binary_masks(embeddings, maps[i], (height, width), covered[i])
        predictions.append(prediction)
    return predictions


def instances(scores: Tensor, masks: Masks, size: tuple[int, int], max_detections: int) -> Prediction:
    """The best (query, class) pairs; the score is the class score times the mean probability inside the mask.

    Args:
        scores: `(Q, K)` in [0, 1].
        masks: the masks of the queries.
        size: `(H, W)` of the original image.
        max_detections: how many pairs are returned.
    """
    best, index = scores.flatten().topk(min(max_detections, scores.numel()))
    inside = torch.zeros(len(best), *size, dtype=torch.bool, device=scores.device)
    sure = torch.zeros_like(best)
    for rows in torch.arange(len(best), device=scores.device).split(CHUNK):
        logits = masks(index[rows] // scores.shape[1])
        inside[rows] = logits > 0
        sure[rows] = (logits.sigmoid() * inside[rows]).sum((1, 2)) / inside[rows].sum((1, 2)).clamp(min=1)
    best, order = (best * sure).sort(descending=True)
    inside, queries, labels = inside[order], index[order] // scores.shape[1], index[order] % scores.shape[1]
    return Prediction(mask_boxes(inside), best, labels, size=size, masks=inside, queries=queries)


def class_scores(scores: Tensor, masks: Masks, size: tuple[int, int]) -> Tensor:
    """The score of each class at every pixel, `(K, H, W)`: the sum over queries of class score times mask."""
    by_class = torch.zeros(scores.shape[1], *size, device=scores.device)
    for rows in torch.arange(len(scores), device=scores.device).split(CHUNK):
        by_class += torch.einsum("qk,qhw->khw", scores[rows], masks(rows).sigmoid())
    return by_class


def semantic(scores: Tensor, size: tuple[int, int]) -> Prediction:
    """The class with the largest of the scores `(K, h, w)` at every pixel of an original image of `size` `(H, W)`."""
    return nothing_found(size, scores.device, semantic=best_class(scores, size))


def panoptic(scores: Tensor, masks: Masks, size: tuple[int, int], things: Tensor, rules: MaskRules) -> Prediction:
    """Assigns each pixel to the query with the largest product of score and mask; queries that keep too small a part of
    their mask are dropped.

    Args:
        scores: `(Q, K)` in [0, 1].
        masks: the masks of the queries.
        size: `(H, W)` of the original image.
        things: `(K,)` bool, which classes have countable objects; segments of any other class are merged.
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
    segments = {"masks": masks, "panoptic": ids, "queries": kept[found]}
    return Prediction(mask_boxes(masks), best[found], labels[found], size=size, **segments)


def mask_boxes(masks: Tensor) -> Tensor:
    """The boxes `(T, 4)` around the pixels of each mask, as corners in pixels; zeros if a mask is empty."""
    rows, columns = masks.any(2).int(), masks.any(1).int()  # (T, H), (T, W)
    height, width = masks.shape[1:]
    first = [side.argmax(1) if side.shape[1] else side.sum(1) for side in (columns, rows)]
    last = [n - side.flip(1).argmax(1) for n, side in ((width, columns), (height, rows))]
    boxes = torch.stack([*first, *last], 1).float()
    return boxes * masks.flatten(1).any(1)[:, None]


def nothing_found(size: tuple[int, int], device, **maps: Tensor) -> Prediction:
    empty = torch.zeros(0, device=device)
    return Prediction(empty.view(0, 4), empty, empty.long(), size=size, **maps)
