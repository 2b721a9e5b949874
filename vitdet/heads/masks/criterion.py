"""What mask heads predict, and how it is scored.

# L layers, B images, Q queries, K classes, T objects of one image, C channels, P points
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vitdet.errors import UserError
from vitdet.heads.masks.pixels import extents
from vitdet.losses import Objects, assign, mean_over_ranks
from vitdet.losses.segmentation import (
    important_points,
    mask_costs,
    mask_losses,
    mask_points,
    random_points,
    sample_points,
)
from vitdet.structures import Level, Target

OVERSAMPLE = 3  # candidates for each point that is learned from
NOTHING = 0.1  # weight of the class "nothing"


@dataclass
class MaskOutputs:
    """`logits` `(L, B, Q, K + 1)`, the last class is "nothing"; `embeddings` `(L, B, Q, C)`; the `pixels` whose dot product with them are the masks.

    There is one level of pixels for all layers, or one for each. `tokens` are logits of single tokens, with `K + 1` channels, if the head classifies them.
    """

    logits: Tensor
    embeddings: Tensor
    pixels: list[Level]
    sizes: list[tuple[int, int]]
    tokens: Level | None = None


@dataclass
class SampledMasks:
    """Mask logits of all queries and the true masks at random points (`mask_points`) of each image: `(…, Q, P)` and `(T, P)` a piece."""

    logits: list[Tensor]
    truth: list[Tensor]


def sample_masks(
    embeddings: Tensor, pixels: list[Level], sizes: list[tuple[int, int]], targets: list[Target], count: int
) -> SampledMasks:
    """Of embeddings `(L, B, …, Q, C)` and one level of pixels, or one a layer, at `count` points of each image.

    Raises:
        ValueError: a target has no masks.
    """
    logits, truth = [], []
    maps, covered = [level.maps() for level in pixels], extents(pixels[0], sizes)
    for b, (extent, target) in enumerate(zip(covered, targets)):
        if target.masks is None:
            raise UserError("a mask head learns from masks, but the targets have none; give data with masks")
        points = mask_points(count, target.boxes_cxcywh)
        sampled = torch.stack([sample_points(one[b].float(), points, extent) for one in maps])  # (1 or L, C, P)
        queries = embeddings[:, b].float()
        logits.append(torch.einsum("l...qc,lcp->l...qp", queries, sampled.expand(len(queries), -1, -1)))
        height, width = target.masks.shape[-2:]
        x, y = (points * points.new_tensor([width, height])).long().unbind(1)
        truth.append(target.masks[:, y, x].float())
    return SampledMasks(logits, truth)


def point_losses(
    sampled: SampledMasks, matched: Tensor, objects: Tensor, shape: tuple[int, ...], count: int
) -> tuple[Tensor, Tensor]:
    """BCE and Dice loss `(M,)` of each matched query, on the `count` points that matter most.

    Args:
        matched: index in `L*B*…*Q` of each, `shape` being those numbers.
        objects: and of its object in the concatenated targets.
    """
    places = torch.unravel_index(matched, shape)
    first, parts = 0, []
    for b, (logits, truth) in enumerate(zip(sampled.logits, sampled.truth)):
        mine = (places[1] == b).nonzero().squeeze(1)
        rest = tuple(place[mine] for k, place in enumerate(places) if k != 1)
        parts.append((mine, logits[rest], truth[objects[mine] - first]))
        first += len(truth)
    order = torch.cat([mine for mine, _, _ in parts])
    logits, truth = torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])
    chosen = important_points(logits, count)
    bce, dice = mask_losses(logits.gather(1, chosen), truth.gather(1, chosen))
    back = order.argsort()
    return bce[back], dice[back]


class MaskCriterion:
    """Matches queries to objects, and scores their classes and masks after every layer: `aux_` terms are those of all layers but the last.

    Args:
        num_points: at which each mask is learned.
        weights: other than the defaults, by term.
        dense: the head classifies tokens, too.
    """

    def __init__(self, num_points: int, weights: dict[str, float] | None, *, dense: bool = False) -> None:
        self.num_points = num_points
        terms = {"class": 2.0, "mask": 5.0, "dice": 5.0}
        self.weights = {f"{part}{name}": weight for part in ("", "aux_") for name, weight in terms.items()}
        self.weights |= {"dense": 1.0} if dense else {}
        unknown = set(weights or ()) - set(self.weights)
        if unknown:
            raise UserError(f"loss_weights has {sorted(unknown)}; the terms are {sorted(self.weights)}")
        self.weights.update(weights or {})

    def __call__(self, outputs: MaskOutputs, targets: list[Target]) -> dict[str, Tensor]:
        L, B, Q = outputs.logits.shape[:3]
        logits = outputs.logits.float()
        truth = Objects.of(targets)
        sampled = sample_masks(outputs.embeddings, outputs.pixels, outputs.sizes, targets, OVERSAMPLE * self.num_points)
        matched, objects = assign([c.unsqueeze(1) for c in self._costs(logits, sampled, targets)])
        wanted = torch.full((L * B * Q,), logits.shape[-1] - 1, device=logits.device)
        wanted[matched] = truth.labels[objects]
        weight = torch.ones(logits.shape[-1], device=logits.device)
        weight[-1] = NOTHING
        by_query = F.cross_entropy(logits.flatten(0, 2), wanted, weight, reduction="none").view(L, B * Q)
        count = mean_over_ranks(len(truth.labels), logits.device)
        nothing = 0.0 * (outputs.embeddings.float().sum() + sum(level.x.float().sum() for level in outputs.pixels))
        losses = {"class": by_query.sum(1) / weight[wanted].view(L, B * Q).sum(1)}
        layer = matched // (B * Q)
        bce, dice = point_losses(sampled, matched, objects, (L, B, Q), self.num_points)
        for name, value in (("mask", bce), ("dice", dice)):
            losses[name] = value.new_zeros(L).index_add(0, layer, value) / count + nothing
        terms = {name: value[-1] for name, value in losses.items()}
        if outputs.tokens is not None:
            terms["dense"] = dense_loss(outputs.tokens, outputs.sizes, targets, self.num_points)
        return terms | ({f"aux_{name}": value[:-1].sum() for name, value in losses.items()} if L > 1 else {})

    @torch.no_grad()
    def _costs(self, logits: Tensor, sampled: SampledMasks, targets: list[Target]) -> list[Tensor]:
        """`(L, Q, T)` of each image."""
        costs = []
        for b, target in enumerate(targets):
            n = self.num_points
            bce, dice = mask_costs(sampled.logits[b][..., :n], sampled.truth[b][..., :n])
            by_class = -logits[:, b].softmax(-1)[..., target.labels]
            costs.append(self.weights["class"] * by_class + self.weights["mask"] * bce + self.weights["dice"] * dice)
        return costs


def dense_loss(tokens: Level, sizes: list[tuple[int, int]], targets: list[Target], count: int) -> Tensor:
    """Cross-entropy of the classes at `count` random points of each image, those in no mask left out."""
    logits, labels = [], []
    for one, extent, target in zip(tokens.maps(), extents(tokens, sizes), targets):
        points = random_points(count, one.device)
        logits.append(sample_points(one.float(), points, extent).T)  # (P, K + 1)
        height, width = target.masks.shape[-2:]
        x, y = (points * points.new_tensor([width, height])).long().unbind(1)
        at = target.masks[:, y, x]  # (T, P)
        label = torch.full((count,), -100, device=one.device)
        if len(at):
            label = torch.where(at.any(0), target.labels[at.int().argmax(0)], label)
        labels.append(label)
    logits, labels = torch.cat(logits), torch.cat(labels)
    return F.cross_entropy(logits, labels, reduction="sum") / mean_over_ranks((labels >= 0).sum(), logits.device)
