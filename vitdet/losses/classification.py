"""Classification losses for sigmoid scores.  # N predictions, K classes, M matched predictions"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vitdet.errors import UserError

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
    - `ia_bce`: t = p^α IoU^(1-α); w⁺ = t, w⁻ = 1-t on objects, w⁻ = p^γ elsewhere, γ = 2 (LW-DETR, arXiv:2406.03459).
    - `mal`: w⁺ = IoU^γ, w⁻ = 1-IoU^γ on objects, w⁻ = p^γ elsewhere, γ = 1.5 (DEIM, arXiv:2412.04234).

    Args:
        logits: `(N, K)`.
        matched: `(M,)` index of the predictions that have an object.
        labels: `(M,)` its class.
        ious: `(M,)` IoU of predicted and true box, without gradient.
        detached: the weights are constants to the gradient, too, as in DEIM's own code.
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
