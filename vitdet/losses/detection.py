"""The outputs and the losses of the DETR heads.

L layers, B images, G groups of queries, Q queries of a group, N tokens or other predictions, K classes, M matched
pairs, T objects of all images, C channels
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from vitdet.boxes import cxcywh_to_xyxy, giou, iou
from vitdet.errors import UserError
from vitdet.losses.assign import assign_aligned, match
from vitdet.losses.points import OVERSAMPLE, QueryMasks, SampledMasks, mask_costs, point_losses, sample_masks
from vitdet.structures import Target

ClassLoss = Literal["focal", "ia_bce", "mal"]
ALPHA, GAMMA = 0.25, {"focal": 2.0, "ia_bce": 2.0, "mal": 1.5}


def classification_loss(
    kind: ClassLoss,
    logits: Tensor,
    matched: Tensor,
    labels: Tensor,
    ious: Tensor,
    *,
    detached: bool = False,
) -> Tensor:
    """Loss `(N,)` of each prediction, summed over classes.

    All three are a weighted cross-entropy, `-(w⁺ log p + w⁻ log(1 - p))`, and differ in the weights:

    - `focal`: w⁺ = α(1-p)^γ on objects, w⁻ = (1-α)p^γ elsewhere, γ = 2 (Lin et al. 2017, arXiv:1708.02002).
    - `ia_bce`: t = p^α IoU^(1-α), w⁺ = t, w⁻ = 1-t on objects, w⁻ = p^γ elsewhere, γ = 2 (LW-DETR, arXiv:2406.03459).
    - `mal`: w⁺ = IoU^γ, w⁻ = 1-IoU^γ on objects, w⁻ = p^γ elsewhere, γ = 1.5 (DEIM, arXiv:2412.04234).

    Args:
        logits: `(N, K)`.
        matched: `(M,)` index of the predictions that have an object.
        labels: `(M,)` classes of these objects.
        ious: `(M,)` IoU of predicted and true boxes; it gets no gradient.
        detached: whether the weights get no gradient either, as in the code of DEIM's authors.
    """
    if kind not in GAMMA:
        raise UserError(f"class_loss is {kind!r}; choose from focal, ia_bce, mal")
    alpha, gamma = ALPHA, GAMMA[kind]
    logits, ious = logits.float(), ious.detach().float()
    p = logits.sigmoid()
    positive = torch.zeros_like(logits)
    p = p.detach() if detached else p
    negative = p**gamma if kind != "focal" else (1 - alpha) * p**gamma
    at = (matched, labels)
    if kind == "focal":
        w_positive, w_negative = alpha * (1 - p[at]) ** gamma, torch.zeros_like(ious)
    elif kind == "ia_bce":
        w_positive = (p[at].detach() ** alpha * ious ** (1 - alpha)).clamp(min=0.01)
        w_negative = 1 - w_positive
    else:
        w_positive = ious**gamma
        w_negative = 1 - w_positive
    positive = positive.index_put(at, w_positive)
    negative = negative.index_put(at, w_negative)
    return -(positive * F.logsigmoid(logits) + negative * F.logsigmoid(-logits)).sum(-1)


def box_losses(boxes_cxcywh: Tensor, targets_cxcywh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L1 loss, GIoU loss and IoU (without gradient), each `(M,)`, of boxes `(M, 4)` as fractions of the image."""
    boxes_cxcywh = boxes_cxcywh.float()
    l1 = (boxes_cxcywh - targets_cxcywh).abs().sum(-1)
    boxes_xyxy, targets_xyxy = cxcywh_to_xyxy(boxes_cxcywh), cxcywh_to_xyxy(targets_cxcywh)
    return l1, 1 - giou(boxes_xyxy, targets_xyxy), iou(boxes_xyxy.detach(), targets_xyxy)


@dataclass
class Objects:
    """The objects of all images, image after image: `boxes_cxcywh` `(T, 4)`, `labels` `(T,)`."""

    boxes_cxcywh: Tensor
    labels: Tensor

    @classmethod
    def of(cls, targets: list[Target]) -> "Objects":
        return cls(torch.cat([t.boxes_cxcywh for t in targets]), torch.cat([t.labels for t in targets]))


def mean_over_ranks(count: int | Tensor, device, *, least: float = 1.0) -> Tensor:
    """The mean of `count` over the ranks, by which a loss is divided; all ranks together count at least `least`.

    The gradient, which is the mean over the ranks, is thus the same on any number of ranks.
    """
    value = torch.as_tensor(count, dtype=torch.float32, device=device)
    if not (dist.is_available() and dist.is_initialized()):
        return value.clamp(min=least)
    value = value.clone()
    dist.all_reduce(value)
    return value.clamp(min=least) / dist.get_world_size()


def set_losses(
    logits: Tensor,
    boxes_cxcywh: Tensor,
    matched: Tensor,
    objects: Tensor,
    truth: Objects,
    normaliser: Tensor,
    *,
    class_loss: ClassLoss,
) -> dict[str, Tensor]:
    """`class`, `box` and `giou` loss `(L,)`, for all layers in a single pass.

    Args:
        logits: `(L, N, K)`.
        boxes_cxcywh: `(L, N, 4)`.
        matched: `(M,)` index in `L*N` of the predictions that have an object.
        objects: `(M,)` index of their objects in `truth`.
        truth: the objects of all images.
        normaliser: the number by which the sums are divided.
        class_loss: the kind of classification loss, see `classification_loss`.
    """
    L, N = logits.shape[:2]
    layer = matched // max(N, 1)
    l1, one_less_giou, ious = box_losses(boxes_cxcywh.flatten(0, 1)[matched], truth.boxes_cxcywh[objects])
    per_query = classification_loss(class_loss, logits.flatten(0, 1), matched, truth.labels[objects], ious)
    # zero: with it, boxes get a gradient also in a batch without objects
    nothing = 0.0 * boxes_cxcywh.float().sum()
    by_layer = l1.new_zeros(L)
    return {
        "class": per_query.view(L, N).sum(1) / normaliser,
        "box": by_layer.index_add(0, layer, l1) / normaliser + nothing,
        "giou": by_layer.index_add(0, layer, one_less_giou) / normaliser + nothing,
    }


@dataclass
class Proposals:
    """The selected `tokens` `(B, G, Q, C)`, their `logits` `(B, G, Q, K)` and `boxes_cxcywh` `(B, G, Q, 4)`.

    For the dense aux loss there are predictions of *all* tokens, `dense_logits` `(N, K)` and `dense_boxes` `(N, 4)`,
    with the number `images` `(N,)` of each token's image and its centre, `centres` `(N, 2)`.
    """

    tokens: Tensor
    logits: Tensor
    boxes_cxcywh: Tensor
    dense_logits: Tensor | None = None
    dense_boxes: Tensor | None = None
    images: Tensor | None = None
    centres: Tensor | None = None


@dataclass
class Noised:
    """Denoising queries: `content` `(N, C)`, `boxes_cxcywh` `(N, 4)`, `images` `(N,)`, and `lengths` of sequences.

    Those with index `matched` `(M,)` have to restore the boxes of `objects` `(M,)` of the concatenated targets.
    """

    content: Tensor
    boxes_cxcywh: Tensor
    images: Tensor
    lengths: list[int]
    matched: Tensor
    objects: Tensor


@dataclass
class DETROutputs:
    """`logits` `(L, B, G, Q, K)` and `boxes_cxcywh` `(L, B, G, Q, 4)` after each layer; the last layer is the result.

    `masks` is given if the head finds masks. All else is given in training only: the proposals, with their masks if
    the head finds them, and the denoising queries with their logits `(L, N, K)` and boxes `(L, N, 4)`.
    """

    logits: Tensor
    boxes_cxcywh: Tensor
    masks: QueryMasks | None = None
    proposals: Proposals | None = None
    proposal_masks: QueryMasks | None = None
    noised: Noised | None = None
    noised_logits: Tensor | None = None
    noised_boxes: Tensor | None = None


# the weights that are usual for DETR
TERMS = {"class": 1.0, "box": 5.0, "giou": 2.0}


def with_weights(defaults: dict[str, float], given: dict[str, float] | None) -> dict[str, float]:
    """The weights of all terms: the given weights, and the defaults of all other terms.

    Raises:
        UserError: a weight is given for a term that does not exist.
    """
    unknown = set(given or ()) - set(defaults)
    if unknown:
        raise UserError(f"loss_weights has {sorted(unknown)}; the terms are {sorted(defaults)}")
    return defaults | (given or {})


class SetCriterion:
    """Matches each set of predictions to the objects, and computes its losses.

    Terms of the last layer have no prefix; the prefix is `aux_` for the other layers, `enc_` for the proposals, `dn_`
    for the denoising queries, and `dense_` for the tokens.
    """

    def __init__(self, class_loss: ClassLoss, weights: dict[str, float] | None, *, mask_points: int = 0) -> None:
        self.class_loss, self.mask_points = class_loss, mask_points
        self.weights = {
            f"{part}{name}": w for part in ("", "aux_", "enc_", "dn_", "dense_") for name, w in TERMS.items()
        }
        if mask_points:
            self.weights |= {f"{part}{name}": 5.0 for part in ("", "aux_", "enc_") for name in ("mask", "dice")}
        self.weights = with_weights(self.weights, weights)

    def __call__(self, outputs: DETROutputs, targets: list[Target]) -> dict[str, Tensor]:
        truth = Objects.of(targets)
        count = mean_over_ranks(len(truth.labels), truth.labels.device)
        losses = self._matched(outputs.logits, outputs.boxes_cxcywh, targets, truth, count, outputs.masks)
        terms = {name: value[-1] for name, value in losses.items()}
        if len(outputs.logits) > 1:
            terms.update({f"aux_{name}": value[:-1].sum() for name, value in losses.items()})
        if outputs.proposals is not None:
            enc = outputs.proposals
            masks = outputs.proposal_masks
            losses = self._matched(enc.logits[None], enc.boxes_cxcywh[None], targets, truth, count, masks)
            terms.update({f"enc_{name}": value.sum() for name, value in losses.items()})
            if enc.dense_logits is not None:
                terms.update({f"dense_{name}": value for name, value in self._dense(enc, targets, truth).items()})
        if outputs.noised is not None:
            noised, boxes = outputs.noised, outputs.noised_boxes
            steps = torch.arange(len(boxes), device=boxes.device)[:, None] * boxes.shape[1]
            # the queries with an object, repeated for each layer
            matched = (steps + noised.matched).flatten()
            objects = noised.objects.repeat(len(boxes))
            pairs = mean_over_ranks(len(noised.matched), boxes.device)
            losses = set_losses(
                outputs.noised_logits, boxes, matched, objects, truth, pairs, class_loss=self.class_loss
            )
            terms.update({f"dn_{name}": value.sum() for name, value in losses.items()})
        return terms

    def _matched(
        self, logits, boxes_cxcywh, targets, truth: Objects, count: Tensor, masks: QueryMasks | None = None
    ) -> dict[str, Tensor]:
        sampled = costs = None
        if masks is not None:
            sampled = sample_masks(masks.embeddings, masks.pixels, masks.sizes, targets, OVERSAMPLE * self.mask_points)
            costs = self._mask_costs(sampled)
        matched, objects = match(logits, boxes_cxcywh, targets, extra=costs)
        groups = logits.shape[2]
        losses = set_losses(
            logits.flatten(1, 3),
            boxes_cxcywh.flatten(1, 3),
            matched,
            objects,
            truth,
            count * groups,
            class_loss=self.class_loss,
        )
        if sampled is not None:
            layer = matched // logits[0, ..., 0].numel()
            pairs = point_losses(sampled, matched, objects, logits.shape[:-1], self.mask_points)
            # zero: with it, masks get a gradient also in a batch without objects
            nothing = 0.0 * (masks.embeddings.float().sum() + sum(level.x.float().sum() for level in masks.pixels))
            for name, value in zip(("mask", "dice"), pairs):
                losses[name] = value.new_zeros(len(logits)).index_add(0, layer, value) / (count * groups) + nothing
        return losses

    @torch.no_grad()
    def _mask_costs(self, sampled: SampledMasks) -> list[Tensor]:
        """The weighted costs `(L, G, Q, T)` of the masks of each image."""
        costs = []
        for logits, truth in zip(sampled.logits, sampled.truth):
            bce, dice = mask_costs(logits[..., : self.mask_points], truth[:, : self.mask_points])
            costs.append(self.weights["mask"] * bce + self.weights["dice"] * dice)
        return costs

    def _dense(self, enc: Proposals, targets: list[Target], truth: Objects) -> dict[str, Tensor]:
        tokens, objects, first = [], [], 0
        for i, target in enumerate(targets):
            mine = (enc.images == i).nonzero().squeeze(1)
            chosen, owner = assign_aligned(
                enc.dense_logits[mine], enc.dense_boxes[mine], enc.centres[mine], target.labels, target.boxes_cxcywh
            )
            tokens.append(mine[chosen])
            objects.append(owner + first)
            first += len(target.labels)
        tokens, objects = torch.cat(tokens), torch.cat(objects)
        count = mean_over_ranks(len(tokens), truth.labels.device)
        losses = set_losses(
            enc.dense_logits[None], enc.dense_boxes[None], tokens, objects, truth, count, class_loss=self.class_loss
        )
        return {name: value.sum() for name, value in losses.items()}
