"""The outputs and the losses of the mask heads.

L layers, B images, Q queries of an image, K classes, T objects of an image, C channels, P points
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vitdet.losses.assign import assign
from vitdet.losses.detection import Objects, mean_over_ranks, with_weights
from vitdet.losses.points import (
    OVERSAMPLE,
    SampledMasks,
    extents,
    mask_costs,
    point_losses,
    random_points,
    sample_masks,
    sample_points,
)
from vitdet.structures import Level, Target

# the weight of the class "nothing" in the classification loss
NOTHING = 0.1


@dataclass
class MaskOutputs:
    """`logits` `(L, B, Q, K + 1)`, whose last class is "nothing", and mask `embeddings` `(L, B, Q, C)` of the queries.

    The dot products of the embeddings with the features in `pixels` are the masks; there is a single level of pixel
    features for all layers, or a level for each layer. `sizes` are the `(H, W)` of the images in pixels. `tokens` is a
    level of logits with `K + 1` channels, if the head also classifies tokens.
    """

    logits: Tensor
    embeddings: Tensor
    pixels: list[Level]
    sizes: list[tuple[int, int]]
    tokens: Level | None = None


class MaskCriterion:
    """Matches queries to objects, and computes the losses of their classes and masks after every layer.

    Terms of the last layer have no prefix, the sums over all other layers have the prefix `aux_`.

    Args:
        num_points: the number of points of each mask at which the loss is computed.
        weights: weights of loss terms that replace the defaults `{class: 2, mask: 5, dice: 5}`.
        dense: whether the head also classifies tokens, with the term `dense`.

    Raises:
        UserError: `weights` names a term that does not exist.
    """

    def __init__(self, num_points: int, weights: dict[str, float] | None, *, dense: bool = False) -> None:
        self.num_points = num_points
        terms = {"class": 2.0, "mask": 5.0, "dice": 5.0}
        self.weights = {f"{part}{name}": weight for part in ("", "aux_") for name, weight in terms.items()}
        self.weights = with_weights(self.weights | ({"dense": 1.0} if dense else {}), weights)

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
        weights = mean_over_ranks(weight[wanted].view(L, B * Q).sum(1), logits.device, least=0.0)
        losses = {"class": by_query.sum(1) / weights}
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
        """The weighted matching costs `(L, Q, T)` of each image."""
        costs = []
        for b, target in enumerate(targets):
            n = self.num_points
            bce, dice = mask_costs(sampled.logits[b][..., :n], sampled.truth[b][..., :n])
            by_class = -logits[:, b].softmax(-1)[..., target.labels]
            costs.append(self.weights["class"] * by_class + self.weights["mask"] * bce + self.weights["dice"] * dice)
        return costs


def dense_loss(tokens: Level, sizes: list[tuple[int, int]], targets: list[Target], count: int) -> Tensor:
    """The mean cross-entropy of the classes at `count` random points of each image; points in no mask are ignored."""
    logits, labels = [], []
    for token_map, extent, target in zip(tokens.maps(), extents(tokens, sizes), targets):
        points = random_points(count, token_map.device)
        logits.append(sample_points(token_map.float(), points, extent).T)  # (P, K + 1)
        height, width = target.masks.shape[-2:]
        x, y = (points * points.new_tensor([width, height])).long().unbind(1)
        at = target.masks[:, y, x]  # (T, P)
        label = torch.full((count,), -100, device=token_map.device)
        if len(at):
            label = torch.where(at.any(0), target.labels[at.int().argmax(0)], label)
        labels.append(label)
    logits, labels = torch.cat(logits), torch.cat(labels)
    return F.cross_entropy(logits, labels, reduction="sum") / mean_over_ranks((labels >= 0).sum(), logits.device)
