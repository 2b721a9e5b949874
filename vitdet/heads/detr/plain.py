"""The original DETR decoder: learned queries attend to every token of the coarsest level. It is small: read it first.

B images, Q queries of an image, h×w a padded map, C channels, K classes, L decoder layers
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitdet.heads.base import Head
from vitdet.heads.layers import BoxMLP, FeedForward, class_bias, sine_embedding
from vitdet.heads.masks.inference import best_detections
from vitdet.heads.options import RANGES
from vitdet.losses.detection import ClassLoss, DETROutputs, SetCriterion
from vitdet.ranges import check_divides, ranged
from vitdet.structures import Features, Prediction, Target, centres


# self-attention among queries, cross-attention to all tokens of an image, and an MLP, each followed by a norm
class PlainDecoderLayer(nn.Module):
    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, ffn_dim, dropout)

    def forward(self, x: Tensor, queries: Tensor, memory: Tensor, position: Tensor, padding: Tensor | None) -> Tensor:
        q = x + queries
        x = self.norm1(x + self.self_attention(q, q, x, need_weights=False)[0])
        q, k = x + queries, memory + position
        y = self.cross_attention(q, k, memory, key_padding_mask=padding, need_weights=False)[0]
        return self.ffn(self.norm2(x + y))


class PlainDETRHead(Head):
    """DETR's decoder as published (Carion et al. 2020, arXiv:2005.12872), on the coarsest level of the features.

    It is a reference to read, and needs long training; for good results use `DETRHead`.

    Args:
        in_channels: channels of each feature level, finest first.
        strides: their strides in pixels.
        num_classes: how many classes there are.
        dim: width of the decoder.
        num_queries: queries of an image: at most so many objects can be found.
        num_layers: the number of decoder layers.
        num_heads: attention heads of the self-attention and of the cross-attention.
        ffn_dim: hidden width of the MLPs.
        dropout: the fraction of values that are dropped in training.
        class_loss: `mal` (DEIM), `ia_bce` (LW-DETR) or `focal`, as in `classification_loss`.
        loss_weights: weights of loss terms that replace the defaults `{class: 1, box: 5, giou: 2}`; the prefix `aux_`
            is for all decoder layers but the last.

    Raises:
        UserError: an argument is out of range, `dim` is no multiple of `num_heads`, or `loss_weights` names a term that
            does not exist.

    Example:
        >>> head = PlainDETRHead([256, 256], [16, 32], num_classes=80, num_layers=2)
        >>> head.queries.weight.shape
        torch.Size([100, 256])
    """

    predicts = "boxes"

    kinds = ("instances",)

    @ranged(RANGES)
    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[float],
        num_classes: int,
        *,
        dim: int = 256,
        num_queries: int = 100,
        num_layers: int = 6,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.0,
        class_loss: ClassLoss = "focal",
        loss_weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__(in_channels, strides, num_classes)
        check_divides("dim", dim, num_heads=num_heads)
        self.num_queries, self.dim = num_queries, dim
        self.input_proj = nn.Linear(self.in_channels[-1], dim)
        self.queries = nn.Embedding(num_queries, dim)
        self.layers = nn.ModuleList(PlainDecoderLayer(dim, num_heads, ffn_dim, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.classify, self.box = nn.Linear(dim, num_classes), BoxMLP(dim)
        nn.init.constant_(self.classify.bias, class_bias())
        # boxes do not start from a reference here, so the queries must not all start with equal boxes
        nn.init.xavier_uniform_(self.box[-1].weight)
        self.criterion = SetCriterion(class_loss, loss_weights)
        self.loss_weights = self.criterion.weights

    def forward(self, features: Features, targets: list[Target] | None = None) -> DETROutputs:
        level = features[-1]
        memory, mask = level.dense()  # (B, C, h, w), (B, h, w)
        memory = self.input_proj(memory.flatten(2).transpose(1, 2))  # (B, C, h, w) -> (B, h*w, C)
        position = self._positions(level.stride, features.sizes, memory, *level.dense()[0].shape[-2:])
        padding = None if mask is None else ~mask.flatten(1)
        queries = self.queries.weight.expand(len(memory), -1, -1)
        x, states = torch.zeros_like(queries), []
        for layer in self.layers:
            x = layer(x, queries, memory, position, padding)
            states.append(self.norm(x))
        states = torch.stack(states).unsqueeze(2)  # (L, B, Q, C) -> (L, B, G=1, Q, C)
        return DETROutputs(self.classify(states), self.box(states).float().sigmoid())

    def _positions(self, stride: float, sizes, memory: Tensor, h: int, w: int) -> Tensor:
        """Sine embeddings `(B, h*w, C)` of the position of each token, as a fraction of its image."""
        pixels = centres((h, w), (stride, stride), memory.device).flip(-1)  # (h*w, 2): y, x
        fractions = pixels / torch.tensor(sizes, device=memory.device)[:, None]  # (B, h*w, 2)
        return sine_embedding(fractions, self.dim // 2).to(memory.dtype)

    def loss(self, outputs: DETROutputs, targets: list[Target]) -> dict[str, Tensor]:
        with torch.autocast(outputs.boxes_cxcywh.device.type, enabled=False):
            return self.criterion(outputs, targets)

    def predict(self, outputs: DETROutputs, sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        return best_detections(outputs.logits[-1, :, 0], outputs.boxes_cxcywh[-1, :, 0], sizes, self.num_queries)
