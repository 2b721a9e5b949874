"""How DEIMv2's predictions are scored.

# P = 2 + L sets of predictions: the proposals, the first guess, L layers; B images, Q queries, K classes, T objects
# N queries of all images, or denoising queries
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vitdet.heads.deim.decoder import Decoded
from vitdet.heads.deim.edges import distillation_losses, fine_grained_losses
from vitdet.losses.assign import match
from vitdet.losses.detection import (
    TERMS,
    ClassLoss,
    DETROutputs,
    Objects,
    box_losses,
    classification_loss,
    mean_over_ranks,
    with_weights,
)
from vitdet.structures import Target


@dataclass
class DEIMOutputs(DETROutputs):
    """`DETROutputs` of a first guess and L layers, and what the decoder gave for queries and for denoising queries."""

    decoded: Decoded | None = None
    noised_decoded: Decoded | None = None


@dataclass
class Pairs:
    """Which query has which object, `(M,)` each, and what a sum over them is divided by."""

    queries: Tensor
    objects: Tensor
    count: Tensor

    @classmethod
    def of(cls, queries: Tensor, objects: Tensor) -> "Pairs":
        return cls(queries, objects, mean_over_ranks(len(queries), queries.device))


class DEIMCriterion:
    """Each set of predictions is matched by itself, for its classes; boxes learn from the pairs of all sets together
    (D-FINE, arXiv:2410.13842).

    Terms are named as those of `SetCriterion`; the edges add `fgl`, and, where there is a later layer to learn from,
    `ddf`.
    """

    def __init__(self, class_loss: ClassLoss, weights: dict[str, float] | None) -> None:
        self.class_loss = class_loss
        defaults = {f"{part}{name}": w for part in ("", "aux_", "enc_", "dn_") for name, w in TERMS.items()}
        defaults |= {f"{part}fgl": 0.15 for part in ("", "aux_", "dn_")} | {"aux_ddf": 1.5, "dn_ddf": 1.5}
        self.weights = with_weights(defaults, weights)

    def __call__(self, outputs: DEIMOutputs, targets: list[Target]) -> dict[str, Tensor]:
        truth = Objects.of(targets)
        logits = torch.cat([outputs.proposals.logits[None], outputs.logits])  # (P, B, 1, Q, K)
        boxes = torch.cat([outputs.proposals.boxes_cxcywh[None], outputs.boxes_cxcywh])
        matched, objects = match(logits, boxes, targets)
        matching = Pairs(matched, objects, mean_over_ranks(len(truth.labels), boxes.device))
        common = Pairs.of(*most_frequent(matched % boxes[0, ..., 0].numel(), objects))
        losses = self._losses(logits.flatten(1, 3), boxes.flatten(1, 3), outputs.decoded, matching, common, truth)
        ddf, fgl = losses.pop("ddf"), losses.pop("fgl")
        terms = {"fgl": fgl[-1], "aux_fgl": fgl[:-1].sum(), "aux_ddf": ddf.sum()}
        for name, value in losses.items():
            terms |= {f"enc_{name}": value[0], f"aux_{name}": value[1:-1].sum(), name: value[-1]}
        if outputs.noised is not None:
            noised, pairs = outputs.noised_decoded, Pairs.of(outputs.noised.matched, outputs.noised.objects)
            losses = self._losses(noised.logits, noised.boxes_cxcywh, noised, repeated(pairs, noised), pairs, truth)
            terms |= {f"dn_{name}": value.sum() for name, value in losses.items()}
        return terms

    def _losses(
        self, logits: Tensor, boxes_cxcywh: Tensor, decoded: Decoded, matching: Pairs, common: Pairs, truth: Objects
    ) -> dict[str, Tensor]:
        """`class`, `box` and `giou` `(P,)`, `fgl` `(L,)` and `ddf` `(L - 1,)` of logits `(P, N, K)` and boxes `(P, N,
        4)`.

        Args:
            matching: pairs for the classes, by index in P*N.
            common: pairs for boxes and edges, by index in N.
        """
        P, N, L = *logits.shape[:2], len(decoded.edges)
        ious = box_losses(boxes_cxcywh.flatten(0, 1)[matching.queries], truth.boxes_cxcywh[matching.objects])[2]
        labels = truth.labels[matching.objects]
        per_query = classification_loss(
            self.class_loss, logits.flatten(0, 1), matching.queries, labels, ious, detached=self.class_loss == "mal"
        )
        objects = truth.boxes_cxcywh[common.objects]  # (M, 4)
        scored = box_losses(boxes_cxcywh[:, common.queries].flatten(0, 1), objects.repeat(P, 1))
        l1, one_less_giou, ious = (value.view(P, len(objects)) for value in scored)  # (P*M,) -> (P, M)
        references = decoded.references_cxcywh[common.queries]
        edges = decoded.edges[:, common.queries]
        best = decoded.logits[-1].float().sigmoid().amax(-1)
        nothing = 0.0 * (boxes_cxcywh.sum() + decoded.edges.sum())  # the graph is the same without objects
        return {
            "class": per_query.view(P, N).sum(1) / matching.count,
            "box": l1.sum(1) / common.count + nothing,
            "giou": one_less_giou.sum(1) / common.count + nothing,
            "fgl": fine_grained_losses(edges, references, objects, ious[-L:]) / common.count,
            "ddf": distillation_losses(decoded.edges, best, common.queries, ious[-L:]),
        }


def repeated(pairs: Pairs, decoded: Decoded) -> Pairs:
    """The same pairs in each set of predictions, as indices of all of them."""
    P, N = decoded.logits.shape[:2]
    first = torch.arange(P, device=pairs.queries.device)[:, None] * N
    return Pairs((first + pairs.queries).flatten(), pairs.objects.repeat(P), pairs.count)


def most_frequent(queries: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
    """Of pairs `(M,)` of queries and objects, each query once, with the object that it has most often."""
    pairs, counts = torch.stack([queries, objects]).unique(dim=1, return_counts=True)
    order = (pairs[0] * (len(queries) + 1) - counts).argsort(stable=True)  # by query, the most frequent first
    queries, objects = pairs[:, order]
    first = torch.ones_like(queries, dtype=torch.bool)
    first[1:] = queries[1:] != queries[:-1]
    return queries[first], objects[first]
