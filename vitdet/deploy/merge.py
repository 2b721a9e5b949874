"""Puts what was found in the overlapping tiles of an image together: an object that several tiles show becomes one.

Two tiles agree on what lies in the zone that both cover: detections whose boxes, cut to this zone, are nearly the same
are one object. This needs no threshold for pieces, and keeps small objects in front of large ones of their class.

N detections of all tiles of an image, T objects, H×W the image in pixels
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from vitdet.masks import bounds
from vitdet.structures import Prediction

log = logging.getLogger("vitdet")

# the corners x1, y1, x2, y2 of a tile in pixels of the image
Corners = tuple[int, int, int, int]
# the least IoU, inside the zone that two tiles share, of boxes that are one object
SAME = 0.5
# a box that ends within this share of its tile's side from a border inside the image may be cut by it
MARGIN = 0.02
# the masks of an image, each as large as the image, may take so many bytes
MASK_BYTES = 2**30


@dataclass
class Found:
    """What was found in a tile, in pixels of the image.

    Attributes:
        boxes_xyxy: `(T, 4)`, corners.
        scores: `(T,)`.
        labels: `(T,)`.
        masks: for each object the pixels `(h, w)` of its mask inside its bounds, and the x and y of their top left
            corner; `None` if the model finds no masks.
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list[tuple[np.ndarray, int, int]] | None = None

    @classmethod
    def of(cls, part: Prediction, place: Corners) -> "Found":
        part, (x, y) = part.cpu(), place[:2]
        boxes = part.boxes_xyxy.double().numpy() + np.array([x, y, x, y])
        masks = None
        if part.masks is not None:
            whole = part.masks.numpy()
            sides = bounds(whole).astype(int).tolist()
            # copies, so that the masks of the whole tile can be freed
            masks = [(m[y1:y2, x1:x2].copy(), x + x1, y + y1) for m, (x1, y1, x2, y2) in zip(whole, sides)]
        return cls(boxes, part.scores.float().numpy(), part.labels.numpy(), masks)


def merge(found: Sequence[Found], places: Sequence[Corners], size: tuple[int, int], *, limit: int) -> Prediction:
    """A single prediction from what was found in the tiles of an image; the order of the tiles does not matter.

    Detections of a tile are never merged with each other: a model that gives an object once gives it once here, too.

    Args:
        found: what was found in each tile.
        places: the corners of the tiles.
        size: `(H, W)` of the image in pixels.
        limit: how many detections are kept, best score first.
    """
    boxes, scores, labels = (
        np.concatenate([getattr(part, name) for part in found]) for name in ("boxes_xyxy", "scores", "labels")
    )
    tile = np.repeat(np.arange(len(found)), [len(part.scores) for part in found])
    masks = None if found[0].masks is None else [mask for part in found for mask in part.masks or ()]
    limit = limit if masks is None else _affordable(limit, len(scores), size)
    corners = np.array(places)[tile]
    cut = _cut(boxes, corners, size)
    groups = _groups(boxes, scores, labels, cut, corners, _partners(boxes, labels, tile, places))[:limit]
    merged = np.zeros((len(groups), 4), np.float32)
    members = []
    for k, group in enumerate(groups):
        complete = [i for i in group if not cut[i]]
        # the first has the best score
        chosen = complete[:1] or group
        members.append(chosen)
        merged[k] = *boxes[chosen, :2].min(0), *boxes[chosen, 2:].max(0)
    first = [group[0] for group in groups]
    return Prediction(
        torch.from_numpy(merged),
        torch.from_numpy(scores[first]),
        torch.from_numpy(labels[first]),
        size=size,
        masks=None if masks is None else _paste(members, masks, size),
    )


def _affordable(limit: int, count: int, size: tuple[int, int]) -> int:
    at_most = max(1, MASK_BYTES // (size[0] * size[1]))
    if at_most < min(limit, count):
        log.warning(
            "an image of %d×%d: the %d best detections are kept, since the masks of more would take over 1 GB",
            *(size[1], size[0], at_most),
        )
    return min(limit, at_most)


def _cut(boxes: np.ndarray, corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which of the boxes `(N, 4)` may be cut by a border of their tiles `(N, 4)` that is none of the image: `(N,)`."""
    side = corners[:, 2:] - corners[:, :2]
    low = (corners[:, :2] > 0) & (boxes[:, :2] < corners[:, :2] + MARGIN * side)
    high = (corners[:, 2:] < np.array(size[::-1])) & (boxes[:, 2:] > corners[:, 2:] - MARGIN * side)
    return np.asarray((low | high).any(1))


def _partners(boxes: np.ndarray, labels: np.ndarray, tile: np.ndarray, places: Sequence[Corners]) -> list[list[int]]:
    """For each of N detections, those of the same class in other tiles that are the same in the zone of both tiles."""
    partners: list[list[int]] = [[] for _ in boxes]
    members = [np.flatnonzero(tile == t) for t in range(len(places))]
    for a, b in combinations(range(len(places)), 2):
        low, high = np.maximum(places[a][:2], places[b][:2]), np.minimum(places[a][2:], places[b][2:])
        if (low >= high).any():
            continue
        inside = []
        for t in (a, b):
            part = boxes[members[t]].clip([*low, *low], [*high, *high])
            seen = (part[:, 2:] > part[:, :2]).all(1)
            inside.append((members[t][seen], part[seen]))
        (i, first), (j, second) = inside
        same = (_iou(first, second) >= SAME) & (labels[i][:, None] == labels[j])
        for m, n in zip(*np.nonzero(same)):
            partners[i[m]].append(int(j[n]))
            partners[j[n]].append(int(i[m]))
    return partners


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The IoU `(N, M)` of boxes `(N, 4)` and `(M, 4)`, none of which is empty."""
    overlap = (np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])).clip(0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a, b)]
    return overlap / (areas[0][:, None] + areas[1] - overlap)


def _groups(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    cut: np.ndarray,
    corners: np.ndarray,
    partners: Sequence[Sequence[int]],
) -> list[list[int]]:
    """Detections that are one object, best score first: the best that is left, and what belongs to it.

    Those are its partners and, if one of them is complete, the partners of that one. If borders cut them all, these are
    pieces, to which the partners of each new piece are added as long as `_fit` says so.
    """
    # equal scores in an order that does not depend on that of the tiles
    rank = np.lexsort((*boxes.T, labels, -scores))
    place = np.argsort(rank)
    taken = np.zeros(len(boxes), bool)

    def left(i: int) -> list[int]:
        return sorted((j for j in partners[i] if not taken[j]), key=place.__getitem__)

    groups = []
    for seed in rank.tolist():
        if taken[seed]:
            continue
        taken[seed] = True
        group = [seed]
        if complete := [i for i in [seed, *left(seed)] if not cut[i]]:
            for member in (seed, complete[0]):
                group += (new := left(member))
                taken[new] = True
        else:
            for member in group:
                for new in left(member):
                    if _fit(boxes[[*group, new]], corners[[*group, new]]):
                        group.append(new)
                        taken[new] = True
        groups.append(sorted(group, key=place.__getitem__))
    return groups


def _fit(pieces: np.ndarray, corners: np.ndarray) -> bool:
    """Whether `pieces` `(n, 4)`, boxes of tiles with these `corners` `(n, 4)`, may be a single object.

    They are if each tile has found nearly that part of the box around all pieces that lies in it.
    """
    low, high = pieces[:, :2].min(0), pieces[:, 2:].max(0)
    parts = np.concatenate([np.maximum(corners[:, :2], low), np.minimum(corners[:, 2:], high)], 1)
    return bool((np.diag(_iou(parts, pieces)) >= SAME).all())


def _paste(
    members: Sequence[Sequence[int]], masks: Sequence[tuple[np.ndarray, int, int]], size: tuple[int, int]
) -> torch.Tensor:
    """The union of the masks of each group, `(T, H, W)` bool."""
    whole = np.zeros((len(members), *size), bool)
    for mask, group in zip(whole, members):
        for part, x, y in (masks[i] for i in group):
            mask[y : y + part.shape[0], x : x + part.shape[1]] |= part
    return torch.from_numpy(whole)
