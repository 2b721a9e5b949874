"""Boxes as four distributions, of the distances of their edges, Peng et al. 2024 (D-FINE, arXiv:2410.13842).

# M pairs, N queries, L layers, n = BINS + 1 values that a distance may have

An edge's distribution over `n` distances from where it is in a reference box gives a box: the distances' mean. The bins
are narrow about 0 and wide far from it, in quarters (`SCALE`) of the reference's size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vitdet.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

# those of D-FINE and DEIMv2
BINS, UP, SCALE = 32, 0.5, 4.0
TEMPERATURE = 5.0


def distances(device: torch.device | None = None) -> Tensor:
    """The `n` distances, in the reference's size over `SCALE`: a geometric sequence to either side of 0, and at each
    end a distance twice as far."""
    bound = UP * SCALE
    step = (bound + 1) ** (2 / (BINS - 2))
    right = step ** torch.arange(1, BINS // 2, device=device) - 1
    far = torch.full((1,), 2 * bound, device=device)
    return torch.cat([-far, -right.flip(0), torch.zeros_like(far), right, far])


def boxes_from_edges(edges: Tensor, references_cxcywh: Tensor) -> Tensor:
    """Boxes `(N, 4)` from logits `(N, 4, n)` of left, top, right and bottom edge, on references `(N, 4)`."""
    mean = edges.float().softmax(-1) @ distances(edges.device)
    centre, size = references_cxcywh.split(2, dim=-1)
    outwards = (0.5 + mean / SCALE) * size.repeat(1, 2)  # left, top, right, bottom, from the centre
    return xyxy_to_cxcywh(torch.cat([centre - outwards[:, :2], centre + outwards[:, 2:]], -1))


def edges_from_boxes(boxes_cxcywh: Tensor, references_cxcywh: Tensor) -> tuple[Tensor, Tensor]:
    """The other way round: between which two distances the edges of boxes `(M, 4)` lie.

    Returns:
        Index of the lower distance, and share of the upper one; both `(M, 4)`.
    """
    values = distances(boxes_cxcywh.device)
    centre, size = references_cxcywh.split(2, dim=-1)
    low, high = cxcywh_to_xyxy(boxes_cxcywh).split(2, dim=-1)
    outwards = torch.cat([centre - low, high - centre], -1) / size.clamp(min=1e-9).repeat(1, 2)
    distance = (SCALE * (outwards - 0.5)).clamp(values[0], values[-1])
    lower = (torch.searchsorted(values, distance, right=True) - 1).clamp(max=BINS - 1)
    return lower, (distance - values[lower]) / (values[lower + 1] - values[lower])


def fine_grained_losses(edges: Tensor, references_cxcywh: Tensor, boxes_cxcywh: Tensor, ious: Tensor) -> Tensor:
    """Cross-entropy between edges and where they should be (FGL), `(L,)`, summed over pairs and edges; good boxes
    count more.

    Args:
        edges: `(L, M, 4, n)` of the predictions that have an object.
        references_cxcywh, boxes_cxcywh: `(M, 4)` their references, and their objects.
        ious: `(L, M)` of predicted and true box.
    """
    lower, share = edges_from_boxes(boxes_cxcywh, references_cxcywh)
    log_p = edges.log_softmax(-1)
    at = lower.expand(len(edges), -1, -1).unsqueeze(-1)  # (M, 4) -> (L, M, 4, 1)
    loss = -(1 - share) * log_p.gather(-1, at).squeeze(-1) - share * log_p.gather(-1, at + 1).squeeze(-1)
    return (loss.sum(-1) * ious).sum(-1)


def distillation_losses(edges: Tensor, scores: Tensor, matched: Tensor, ious: Tensor) -> Tensor:
    """How far the edges of each layer but the last are from those of the last, `(L - 1,)` (DDF).

    Args:
        edges: `(L, N, 4, n)`.
        scores: `(N,)` the last layer's best score of each query, by which a query without an object counts.
        matched: `(M,)` the queries that have an object.
        ious: `(L, M)` of their boxes and their objects, by which they count.
    """
    log_p = (edges[:-1] / TEMPERATURE).log_softmax(-1)
    teacher = (edges[-1].detach() / TEMPERATURE).log_softmax(-1)
    divergence = F.kl_div(log_p, teacher.expand_as(log_p), reduction="none", log_target=True).sum((-2, -1)) / 4
    weights = scores.detach().repeat(len(log_p), 1)
    weights[:, matched] = ious[:-1]
    loss = TEMPERATURE**2 * divergence * weights  # (L - 1, N)
    has_object = torch.zeros_like(scores).index_fill(0, matched, 1.0)
    total = 0.0
    # a mean over each group, weighted by the root of its size
    for group in (has_object, 1 - has_object):
        total = total + (loss * group).sum(-1) / group.sum().clamp(min=1).sqrt()
    return total / (has_object.sum().sqrt() + (1 - has_object).sum().sqrt()).clamp(min=1)
