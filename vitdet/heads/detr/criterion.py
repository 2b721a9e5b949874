"""What the DETR heads predict, and how it is scored.

# L layers, B images, G groups, Q queries, K classes, N tokens or denoising queries
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vitdet.boxes import cxcywh_to_xyxy
from vitdet.errors import UserError
from vitdet.heads.masks.branches import QueryMasks
from vitdet.heads.masks.criterion import OVERSAMPLE, SampledMasks, point_losses, sample_masks
from vitdet.heads.masks.pixels import binary_masks, extents
from vitdet.heads.queries.denoising import Noised
from vitdet.heads.queries.selection import Proposals
from vitdet.losses import ClassLoss, Objects, assign_aligned, match, mean_over_ranks, set_losses
from vitdet.losses.segmentation import mask_costs
from vitdet.structures import Prediction, Target


@dataclass
class DETROutputs:
    """`logits` `(L, B, G, Q, K)` and `boxes_cxcywh` `(L, B, G, Q, 4)` after each decoder layer; the last one counts.

    `masks` is there if the head finds masks. The rest is there in training: the proposals, with their masks if they have some, and the denoising queries
    with their logits `(L, N, K)` and boxes `(L, N, 4)`.
    """

    logits: Tensor
    boxes_cxcywh: Tensor
    masks: QueryMasks | None = None
    proposals: Proposals | None = None
    proposal_masks: QueryMasks | None = None
    noised: Noised | None = None
    noised_logits: Tensor | None = None
    noised_boxes: Tensor | None = None


TERMS = {"class": 1.0, "box": 5.0, "giou": 2.0}  # the usual DETR weights


def with_weights(defaults: dict[str, float], given: dict[str, float] | None) -> dict[str, float]:
    """The weights of all terms, those that are given instead of the defaults.

    Raises:
        ValueError: there is no such term.
    """
    unknown = set(given or ()) - set(defaults)
    if unknown:
        raise UserError(f"loss_weights has {sorted(unknown)}; the terms are {sorted(defaults)}")
    return defaults | (given or {})


class SetCriterion:
    """Matches, then scores, each set of predictions: the last layer, `aux_` layers, `enc_` proposals, `dn_` denoising, `dense_` tokens."""

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
            matched = (steps + noised.matched).flatten()  # the same queries in each layer
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
            # without objects the graph is the same
            nothing = 0.0 * (masks.embeddings.float().sum() + sum(level.x.float().sum() for level in masks.pixels))
            for name, value in zip(("mask", "dice"), pairs):
                losses[name] = value.new_zeros(len(logits)).index_add(0, layer, value) / (count * groups) + nothing
        return losses

    @torch.no_grad()
    def _mask_costs(self, sampled: SampledMasks) -> list[Tensor]:
        """`(L, G, Q, T)` of each image."""
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


def best_detections(
    logits: Tensor, boxes_cxcywh: Tensor, sizes, max_detections: int, masks: QueryMasks | None = None
) -> list[Prediction]:
    """The `max_detections` best (query, class) pairs of each image, boxes clipped to it, with their masks if there are any.

    Args:
        logits: `(B, Q, K)`.
        boxes_cxcywh: `(B, Q, 4)`.
        sizes: `(H, W)` of the original images.
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
        prediction = Prediction(boxes[i, queries] * scale, scores[i], index[i] % K, size=(height, width))
        if masks is not None:
            embeddings = masks.embeddings[-1, i, 0, queries]
            prediction.masks = binary_masks(embeddings, maps[i], (height, width), covered[i])
        predictions.append(prediction)
    return predictions
