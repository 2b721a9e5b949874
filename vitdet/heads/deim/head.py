"""DEIMv2's head: features -> proposals -> queries -> edges of boxes.

B images, Q queries of an image, N queries of all images, C channels, K classes, L decoder layers
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitdet.heads.base import Head
from vitdet.heads.deim.criterion import DEIMCriterion, DEIMOutputs
from vitdet.heads.deim.decoder import DEIMDecoder, move_boxes
from vitdet.heads.layers import BoxMLP
from vitdet.heads.masks.inference import best_detections
from vitdet.heads.options import COUNT, POINTS, RANGES
from vitdet.heads.queries.deformable import Memory
from vitdet.heads.queries.denoising import Denoising, Queries
from vitdet.heads.queries.selection import Proposer, QuerySelection, Selection
from vitdet.losses import ClassLoss
from vitdet.ranges import check_divides, ranged
from vitdet.structures import Features, Prediction, Target

SELECTION = Selection(anchor_fraction=0.05, anchor_margin=0.01, distinct=None)
# half of D-FINE's `label_noise_ratio` of 0.5, because D-FINE's code halves it, too
LABEL_NOISE = 0.25


class PlainProposer(Proposer):
    """Scores tokens without projecting them first."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__(dim, num_classes)
        self.project, self.box = nn.Identity(), BoxMLP(dim, activation=nn.SiLU)

    def boxes(self, anchors_cxcywh: Tensor, x: Tensor) -> Tensor:
        return move_boxes(anchors_cxcywh, self.box(x))


class DEIMHead(Head):
    """DEIMv2's decoder (Huang et al. 2025, arXiv:2509.20787): boxes are refined as distributions of their edges.

    Args:
        in_channels: channels of each feature level, finest first.
        strides: their strides in pixels.
        num_classes: how many classes there are.
        dim: width of the decoder.
        num_queries: queries of an image: at most so many objects can be found.
        num_layers: the number of decoder layers.
        num_heads: attention heads of the self-attention and of the cross-attention.
        num_points: sampling points of each head of the cross-attention: a number for all levels, or a list with a
            number for each level.
        ffn_dim: hidden width of the gated MLPs.
        denoising: about how many denoising queries an image has in training (DINO, arXiv:2203.03605); 0 turns them off.
        class_loss: `mal` (DEIM), `ia_bce` (LW-DETR) or `focal`, as in `classification_loss`.
        loss_weights: weights of loss terms that replace the defaults `{class: 1, box: 5, giou: 2, fgl: 0.15}` and
            `{aux_ddf: 1.5, dn_ddf: 1.5}`; a prefix, as in `aux_class`, is for the first guess and the other decoder
            layers (`aux_`), the denoising queries (`dn_`), and, `fgl` aside, the proposals (`enc_`).
        max_detections: how many detections `predict` returns for an image; `num_queries` if not given.

    Raises:
        UserError: an argument is out of range, `dim` is no multiple of `num_heads`, or `loss_weights` names a term that
            does not exist.

    Example:
        >>> head = DEIMHead([256, 256], [8, 16], num_classes=80, num_layers=3)
        >>> sorted(head.loss_weights)[:4]
        ['aux_box', 'aux_class', 'aux_ddf', 'aux_fgl']
    """

    predicts = "boxes"

    kinds = ("instances",)
    class_parts = ("decoder.classify", "selection.groups.*.classify", "denoising.embed")
    query_parts = ()

    @ranged(RANGES | {"dim": COUNT, "num_points": POINTS})
    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[float],
        num_classes: int,
        *,
        dim: int = 256,
        num_queries: int = 300,
        num_layers: int = 4,
        num_heads: int = 8,
        num_points: int | list[int] = 4,
        ffn_dim: int = 512,
        denoising: int = 200,
        class_loss: ClassLoss = "mal",
        loss_weights: dict[str, float] | None = None,
        max_detections: int | None = None,
    ) -> None:
        super().__init__(in_channels, strides, num_classes)
        check_divides("dim", dim, num_heads=num_heads)
        self.num_queries, self.max_detections = num_queries, max_detections or num_queries
        self.input_proj = nn.ModuleList(nn.Identity() if c == dim else nn.Linear(c, dim) for c in in_channels)
        sizes = {"num_queries": num_queries, "proposer": PlainProposer}
        self.selection = QuerySelection(dim, num_classes, options=SELECTION, **sizes)
        layer = {"num_heads": num_heads, "num_points": num_points, "ffn_dim": ffn_dim}
        layer["num_levels"] = len(self.in_channels)
        self.decoder = DEIMDecoder(dim, num_classes, num_layers=num_layers, **layer)
        noise = {"num_queries": denoising, "label_noise": LABEL_NOISE}
        self.denoising = Denoising(dim, num_classes, **noise) if denoising else None
        self.criterion = DEIMCriterion(class_loss, loss_weights)
        self.loss_weights = self.criterion.weights

    def forward(self, features: Features, targets: list[Target] | None = None) -> DEIMOutputs:
        """Logits and boxes of a first guess and after each layer; with `targets`, also denoising queries."""
        x = torch.cat([proj(level.x) for proj, level in zip(self.input_proj, features)])
        proposals = self.selection(x, features)
        queries = self._queries(proposals.tokens, proposals.boxes_cxcywh)
        noised = self.denoising(targets) if self.denoising is not None and targets is not None else None
        decoded = self.decoder(queries.and_noised(noised), Memory(x, features))
        found, rest = (decoded.take(part) for part in (slice(len(queries.images)), slice(len(queries.images), None)))
        shape = (len(features.sizes), 1, self.num_queries)
        logits, boxes = (value.unflatten(1, shape) for value in (found.logits, found.boxes_cxcywh))
        outputs = DEIMOutputs(logits, boxes, proposals=proposals, decoded=found)  # (L, N, K) -> (L, B, G=1, Q, K)
        if noised is not None:
            outputs.noised, outputs.noised_decoded = noised, rest
        return outputs

    def _queries(self, tokens: Tensor, boxes_cxcywh: Tensor) -> Queries:
        """The queries that start from the selected tokens `(B, 1, Q, C)` and their boxes `(B, 1, Q, 4)`, packed."""
        B, _, Q = tokens.shape[:3]
        images = torch.arange(B, device=tokens.device).repeat_interleave(Q)
        return Queries(tokens.detach().flatten(0, 2), boxes_cxcywh.detach().flatten(0, 2), images, [Q] * B)

    def loss(self, outputs: DEIMOutputs, targets: list[Target]) -> dict[str, Tensor]:
        """The unweighted terms in fp32: `class`, `box`, `giou`, `fgl` and `ddf`, with prefixes as in `loss_weights`."""
        with torch.autocast(outputs.boxes_cxcywh.device.type, enabled=False):
            return self.criterion(outputs, targets)

    def predict(self, outputs: DEIMOutputs, sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        return best_detections(outputs.logits[-1, :, 0], outputs.boxes_cxcywh[-1, :, 0], sizes, self.max_detections)
