"""The queries of a decoder, and contrastive denoising queries, Zhang et al. 2022 (DINO, arXiv:2203.03605).

N queries, or denoising queries, of all images, T objects of an image, C channels

In training, the decoder gets further queries, which start from true boxes with noise. With little noise the decoder has
to restore the true box (positives), with much noise it has to reject the query (negatives). Each set of `2 * T`
denoising queries is a separate sequence, so no information leaks to the other queries, and nothing is padded.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitdet.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from vitdet.losses.detection import Noised
from vitdet.structures import Target

# factor of the noise of corners, which move by up to half a side (positives) or a side (negatives) of the box; and the
# largest number of sets of denoising queries for an image
BOX_NOISE, MAX_GROUPS = 1.0, 10


@dataclass
class Queries:
    """Packed queries: `content` `(N, C)`, reference `boxes_cxcywh` `(N, 4)`, and the number `(N,)` of their images.

    Queries attend only to those of their sequence; `lengths` are the numbers of queries of all sequences.
    """

    content: Tensor
    boxes_cxcywh: Tensor
    images: Tensor
    lengths: list[int]

    def and_noised(self, noised: Noised | None) -> "Queries":
        """These queries, followed by the denoising queries, if there are any."""
        if noised is None:
            return self
        return Queries(
            torch.cat([self.content, noised.content]),
            torch.cat([self.boxes_cxcywh, noised.boxes_cxcywh]),
            torch.cat([self.images, noised.images]),
            self.lengths + noised.lengths,
        )


class Denoising(nn.Module):
    """Makes about `num_queries` denoising queries for each image, and fewer if it has few objects.

    Args:
        dim: channels of the queries.
        num_classes: how many classes there are.
        num_queries: about how many denoising queries an image has.
        label_noise: the fraction of the queries whose class is replaced by a random class.
    """

    def __init__(self, dim: int, num_classes: int, *, num_queries: int, label_noise: float = 0.2) -> None:
        super().__init__()
        self.num_queries, self.label_noise = num_queries, label_noise
        self.embed = nn.Embedding(num_classes, dim)

    def forward(self, targets: list[Target]) -> Noised:
        objects, positive, images, lengths = [], [], [], []
        first, device = 0, self.embed.weight.device
        for i, target in enumerate(targets):
            T = len(target.labels)
            if T:
                # of very many objects only some are taken: memory grows with the square of their number
                keep = min(T, max(self.num_queries // 2, 1))
                groups = max(1, min(self.num_queries // (2 * keep), MAX_GROUPS))
                for _ in range(groups):
                    which = (
                        torch.randperm(T, device=device)[:keep] + first
                        if keep < T
                        else torch.arange(first, first + T, device=device)
                    )
                    objects.append(which.repeat(2))
                    positive.append(torch.arange(2 * keep, device=device) < keep)
                    images.append(torch.full((2 * keep,), i, device=device))
                    lengths.append(2 * keep)
            first += T
        if not objects:
            empty = torch.zeros(0, dtype=torch.long, device=device)
            return Noised(self.embed(empty), torch.zeros(0, 4, device=device), empty, [], empty, empty)
        objects, positive, images = torch.cat(objects), torch.cat(positive), torch.cat(images)
        labels = torch.cat([t.labels for t in targets])[objects]
        boxes = torch.cat([t.boxes_cxcywh for t in targets])[objects]
        return Noised(
            self.embed(self._shake_labels(labels)),
            self._shake_boxes(boxes, positive),
            images,
            lengths,
            positive.nonzero().squeeze(1),
            objects[positive],
        )

    def _shake_labels(self, labels: Tensor) -> Tensor:
        other = torch.randint_like(labels, self.embed.num_embeddings)
        return torch.where(torch.rand(len(labels), device=labels.device) < self.label_noise, other, labels)

    def _shake_boxes(self, boxes_cxcywh: Tensor, positive: Tensor) -> Tensor:
        """Moves each corner by up to half of the box's size (positives), or by between half and all of it
        (negatives)."""
        share = torch.rand_like(boxes_cxcywh) + (~positive).unsqueeze(1)
        sign = torch.randint_like(boxes_cxcywh, 2) * 2 - 1
        half = boxes_cxcywh[:, 2:].repeat(1, 2) / 2
        corners = (cxcywh_to_xyxy(boxes_cxcywh) + sign * share * half * BOX_NOISE).clamp(0, 1)
        low = torch.minimum(corners[:, :2], corners[:, 2:])
        high = torch.maximum(corners[:, :2], corners[:, 2:])
        return xyxy_to_cxcywh(torch.cat([low, high], -1))
