"""Boxes as distributions of the positions of their four edges, Peng et al. 2024 (D-FINE, arXiv:2410.13842).

M pairs of a query and an object, N queries, L decoder layers, n = BINS + 1 values that a distance may have

Each edge has a distribution over `n` distances from the corresponding edge of a reference box; the predicted edge is at
the mean distance. Distances are in quarters (1 / `SCALE`) of the reference box's size, dense around 0 and sparse far
from it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vitdet.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

# the values of D-FINE and DEIMv2
BINS, UP, SCALE = 32, 0.5, 4.0
TEMPERATURE = 5.0


def distances(device: torch.device | None = None) -> Tensor:
    """The `n` distances, in units of the reference box's size divided by `SCALE`.

    They are a geometric sequence to either side of 0; at each end a last distance lies twice as far out.
    """
    bound = UP * SCALE
    step = (bound + 1) ** (2 / (BINS - 2))
    right = step ** torch.arange(1, BINS // 2, device=device) - 1
    far = torch.full((1,), 2 * bound, device=device)
    return torch.cat([-far, -right.flip(0), torch.zeros_like(far), right, far])


def boxes_from_edges(edges: Tensor, references_cxcywh: Tensor) -> Tensor:
    """Boxes `(N, 4)` from logits `(N, 4, n)` of left, top, right and bottom edge, and reference boxes `(N, 4)`."""
    share, values = edges.float().softmax(-1), distances(edges.device)
    # OpenVINO fails at products with a vector, so an exported graph has a matrix of one column
    mean = (share @ values[:, None]).squeeze(-1) if torch.jit.is_tracing() else share @ values
    centre, size = references_cxcywh.split(2, dim=-1)
    # distances of left, top, right and bottom edge from the centre
    outwards = (0.5 + mean / SCALE) * size.repeat(1, 2)
    return xyxy_to_cxcywh(torch.cat([centre - outwards[:, :2], centre + outwards[:, 2:]], -1))


def edges_from_boxes(boxes_cxcywh: Tensor, references_cxcywh: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `boxes_from_edges`: between which two distances the edges of boxes `(M, 4)` lie.

    Returns:
        Index of the lower distance, and weight of the upper distance in [0, 1]; both `(M, 4)`.
    """
    values = distances(boxes_cxcywh.device)
    centre, size = references_cxcywh.split(2, dim=-1)
    low, high = cxcywh_to_xyxy(boxes_cxcywh).split(2, dim=-1)
    outwards = torch.cat([centre - low, high - centre], -1) / size.clamp(min=1e-9).repeat(1, 2)
    distance = (SCALE * (outwards - 0.5)).clamp(values[0], values[-1])
    lower = (torch.searchsorted(values, distance, right=True) - 1).clamp(max=BINS - 1)
    return lower, (distance - values[lower]) / (values[lower + 1] - values[lower])


def fine_grained_losses(edges: Tensor, references_cxcywh: Tensor, boxes_cxcywh: Tensor, ious: Tensor) -> Tensor:
    """Cross-entropy `(L,)` between predicted and true edges (D-FINE's FGL), summed over pairs and edges.

    Args:
        edges: logits `(L, M, 4, n)` of the predictions that have an object.
        references_cxcywh, boxes_cxcywh: their reference boxes, and the boxes of their objects, `(M, 4)` each.
        ious: `(L, M)` IoU of predicted and true boxes, which weighs each pair: accurate boxes count more.
    """
    lower, share = edges_from_boxes(boxes_cxcywh, references_cxcywh)
    log_p = edges.log_softmax(-1)
    at = lower.expand(len(edges), -1, -1).unsqueeze(-1)  # (M, 4) -> (L, M, 4, 1)
    loss = -(1 - share) * log_p.gather(-1, at).squeeze(-1) - share * log_p.gather(-1, at + 1).squeeze(-1)
    return (loss.sum(-1) * ious).sum(-1)


def distillation_losses(edges: Tensor, scores: Tensor, matched: Tensor, ious: Tensor) -> Tensor:
    """Divergence `(L - 1,)` of the edges of each layer but the last from those of the last (D-FINE's DDF).

    Args:
        edges: logits `(L, N, 4, n)`.
        scores: `(N,)` the last layer's best score of each query, which weighs the queries without an object.
        matched: `(M,)` index of the queries that have an object.
        ious: `(L, M)` IoU of their boxes and their objects, which weighs these queries.
    """
    log_p = (edges[:-1] / TEMPERATURE).log_softmax(-1)
    teacher = (edges[-1].detach() / TEMPERATURE).log_softmax(-1)
    divergence = F.kl_div(log_p, teacher.expand_as(log_p), reduction="none", log_target=True).sum((-2, -1)) / 4
    weights = scores.detach().repeat(len(log_p), 1)
    weights[:, matched] = ious[:-1]
    loss = TEMPERATURE**2 * divergence * weights  # (L - 1, N)
    has_object = torch.zeros_like(scores).index_fill(0, matched, 1.0)
    total = 0.0
    # the mean over the queries with an object, and over those without, weighted by the square root of their number
    for group in (has_object, 1 - has_object):
        total = total + (loss * group).sum(-1) / group.sum().clamp(min=1).sqrt()
    return total / (has_object.sum().sqrt() + (1 - has_object).sum().sqrt()).clamp(min=1)
