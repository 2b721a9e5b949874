"""The matchers: which prediction learns from which object, one-to-one (Hungarian) or one-to-many.

L decoder layers, B images, G groups of queries, Q queries of a group, N tokens, K classes, T objects of an image
"""

import logging
from functools import cache

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vitdet.boxes import cxcywh_to_xyxy, pairwise_giou, pairwise_iou
from vitdet.structures import Target

# far above any cost of finite predictions
WORST = 1e9


@torch.no_grad()
def match(
    logits: Tensor,
    boxes_cxcywh: Tensor,
    targets: list[Target],
    *,
    cost_class: float = 2.0,
    cost_box: float = 5.0,
    cost_giou: float = 2.0,
    extra: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Assigns every object to a query in each layer and group, at the least total cost (Carion et al. 2020,
    arXiv:2005.12872).

    Costs are computed image by image, so memory grows with the number of objects of an image, not of the batch.

    Args:
        logits: `(L, B, G, Q, K)`.
        boxes_cxcywh: `(L, B, G, Q, 4)`.
        targets: the objects of each image.
        cost_class, cost_box, cost_giou: the weights of the three costs.
        extra: further costs of each image, `(L, G, Q, T)`, such as those of its masks.

    Returns:
        Index of each matched query in `L*B*G*Q`, and index of its object in the concatenated targets; both `(M,)`.
    """
    costs = [
        _cost(logits[:, b], boxes_cxcywh[:, b], target, cost_class, cost_box, cost_giou)  # (L, G, Q, T)
        for b, target in enumerate(targets)
    ]
    return assign(costs if extra is None else [cost + more for cost, more in zip(costs, extra)])


@torch.no_grad()
def assign(costs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The one-to-one assignment with the least total cost in each layer and group of each image.

    Args:
        costs: `(L, G, Q, T)` for each of the B images.

    Costs that are not finite count as very high ones, or as very low ones where they are minus infinity.

    Returns as `match`.
    """
    B, (L, G, Q) = len(costs), costs[0].shape[:3]
    device = costs[0].device
    # a single transfer to the CPU for all images
    flat = torch.cat([cost.flatten() for cost in costs]).cpu()
    # some assignment, of which the loss is not finite either, so that the step is skipped: on all ranks, which an error
    # on one of them would leave waiting
    if not flat.isfinite().all():
        flat = flat.nan_to_num(nan=WORST, posinf=WORST, neginf=-WORST)
    queries, objects = [], []
    first_target = 0
    for b, (cost, image_flat) in enumerate(zip(costs, flat.split([cost.numel() for cost in costs]))):
        T = cost.shape[-1]
        if T > Q:
            _warn_too_many(Q)
        for sequence, matrix in enumerate(image_flat.view(L * G, Q, T).numpy() if T else ()):
            layer, group = divmod(sequence, G)
            rows, columns = linear_sum_assignment(matrix)
            queries.append(torch.from_numpy(rows) + ((layer * B + b) * G + group) * Q)
            objects.append(torch.from_numpy(columns) + first_target)
        first_target += T
    if not queries:
        empty = torch.zeros(0, dtype=torch.long, device=device)
        return empty, empty
    return torch.cat(queries).to(device), torch.cat(objects).to(device)


def _cost(logits, boxes_cxcywh, target: Target, cost_class: float, cost_box: float, cost_giou: float) -> Tensor:
    logits, boxes_cxcywh = logits.float(), boxes_cxcywh.float()
    # the focal loss of predicting the object's class, minus that of not predicting it
    p = logits.sigmoid()
    yes = -0.25 * (1 - p) ** 2 * torch.nn.functional.logsigmoid(logits)
    no = -0.75 * p**2 * torch.nn.functional.logsigmoid(-logits)
    by_class = (yes - no)[..., target.labels]  # (L, G, Q, K) -> (L, G, Q, T)
    by_box = (boxes_cxcywh.unsqueeze(-2) - target.boxes_cxcywh).abs().sum(-1)
    # -GIoU instead of 1 - GIoU: a constant does not change the assignment
    by_giou = -pairwise_giou(cxcywh_to_xyxy(boxes_cxcywh), cxcywh_to_xyxy(target.boxes_cxcywh))
    return cost_class * by_class + cost_box * by_box + cost_giou * by_giou


@torch.no_grad()
def assign_aligned(
    logits: Tensor,
    boxes_cxcywh: Tensor,
    centres: Tensor,
    labels: Tensor,
    targets_cxcywh: Tensor,
    *,
    topk: int = 8,
    alpha: float = 0.5,
    beta: float = 4.0,
) -> tuple[Tensor, Tensor]:
    """Assigns to each object the `topk` tokens inside it with the largest `p^alpha * IoU^beta` (TOOD,
    arXiv:2108.07755).

    A token that several objects claim is assigned to the object with the largest IoU. For an object that covers no
    token's centre, the nearest token counts as inside.

    Args:
        logits, boxes_cxcywh, centres: `(N, K)`, `(N, 4)` and `(N, 2)` of the tokens of an image.
        labels, targets_cxcywh: `(T,)` and `(T, 4)` of its objects.
        topk: how many tokens an object gets at most.
        alpha, beta: exponents of the probability `p` of the object's class, and of the IoU.

    Returns:
        Index of the assigned tokens, and index of the object of each; both `(M,)`.
    """
    if not len(labels) or not len(logits):
        empty = torch.zeros(0, dtype=torch.long, device=logits.device)
        return empty, empty
    targets_xyxy = cxcywh_to_xyxy(targets_cxcywh)
    inside = ((centres[:, None] > targets_xyxy[:, :2]) & (centres[:, None] < targets_xyxy[:, 2:])).all(-1)  # (N, T)
    nearest = (centres[:, None] - targets_cxcywh[:, :2]).square().sum(-1).argmin(0)  # (T,)
    inside[nearest, torch.arange(len(labels), device=labels.device)] |= ~inside.any(0)
    ious = pairwise_iou(cxcywh_to_xyxy(boxes_cxcywh.float()), targets_xyxy)  # (N, T)
    score = logits.float().sigmoid()[:, labels] ** alpha * ious**beta
    best = score.masked_fill(~inside, -1).topk(min(topk, len(score)), dim=0).indices  # (topk, T)
    claimed = torch.zeros_like(inside).scatter_(0, best, True) & inside
    owner = torch.where(claimed, ious + 1e-6, -1).argmax(1)
    tokens = claimed.any(1).nonzero().squeeze(1)
    return tokens, owner[tokens]


@cache
def _warn_too_many(num_queries: int) -> None:
    logging.getLogger("vitdet").warning(
        "an image has more objects than num_queries=%d: some can never be found; raise model.head.num_queries",
        num_queries,
    )
