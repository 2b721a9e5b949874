"""The loss of DEIMv2.

P = 2 + L sets of predictions: the proposals, the first guess, and L decoder layers
B images, Q queries of an image, N queries of all images (or denoising queries), M matched pairs, K classes, T objects
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
    """`DETROutputs` of a first guess and L layers, and the decoder's outputs for queries and for denoising queries."""

    decoded: Decoded | None = None
    noised_decoded: Decoded | None = None


@dataclass
class Pairs:
    """Matched queries and objects, by index `(M,)`, and the `count` that a sum over the pairs is divided by."""

    queries: Tensor
    objects: Tensor
    count: Tensor

    @classmethod
    def of(cls, queries: Tensor, objects: Tensor) -> "Pairs":
        return cls(queries, objects, mean_over_ranks(len(queries), queries.device))


class DEIMCriterion:
    """Classes learn from a matching of each set of predictions, boxes from the matchings of all sets combined (D-FINE,
    arXiv:2410.13842).

    Terms are named as those of `SetCriterion`. The edges of boxes add `fgl` and, for all layers but the last, which
    learn from the last, `ddf`.

    Args:
        class_loss: `mal`, `ia_bce` or `focal`, as in `classification_loss`.
        weights: weights of loss terms that replace the defaults.

    Raises:
        UserError: `weights` names a term that does not exist.
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
        """The terms `class`, `box` and `giou` `(P,)`, `fgl` `(L,)` and `ddf` `(L - 1,)`.

        Args:
            logits: `(P, N, K)`.
            boxes_cxcywh: `(P, N, 4)`.
            decoded: the decoder's outputs, with the edges of the boxes.
            matching: pairs for the classes, with indices of queries in P*N.
            common: pairs for boxes and edges, with indices of queries in N.
            truth: the objects of all images.
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
        # zero: with it, boxes and edges get a gradient also in a batch without objects
        nothing = 0.0 * (boxes_cxcywh.sum() + decoded.edges.sum())
        return {
            "class": per_query.view(P, N).sum(1) / matching.count,
            "box": l1.sum(1) / common.count + nothing,
            "giou": one_less_giou.sum(1) / common.count + nothing,
            "fgl": fine_grained_losses(edges, references, objects, ious[-L:]) / common.count,
            "ddf": distillation_losses(decoded.edges, best, common.queries, ious[-L:]),
        }


def repeated(pairs: Pairs, decoded: Decoded) -> Pairs:
    """The pairs repeated for each of the P sets of predictions, with indices of queries in P*N."""
    P, N = decoded.logits.shape[:2]
    first = torch.arange(P, device=pairs.queries.device)[:, None] * N
    return Pairs((first + pairs.queries).flatten(), pairs.objects.repeat(P), pairs.count)


def most_frequent(queries: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
    """Each query of the pairs `(M,)` once, with the object that it is paired with most often."""
    pairs, counts = torch.stack([queries, objects]).unique(dim=1, return_counts=True)
    # by query, and for each query the most frequent object first
    order = (pairs[0] * (len(queries) + 1) - counts).argsort(stable=True)
    queries, objects = pairs[:, order]
    first = torch.ones_like(queries, dtype=torch.bool)
    first[1:] = queries[1:] != queries[:-1]
    return queries[first], objects[first]
