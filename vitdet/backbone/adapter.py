"""A small convolutional network beside the ViT, for detail that patches lose.

b images with equal grids, H×W an image in pixels, c channels; maps are (b, h, w, c), channels last
"""

import torch.nn.functional as F
from torch import Tensor, nn

from vitdet.backbone.hybrid import ConvBN


class SpatialAdapter(nn.Module):
    """Maps of strides 8, 16 and 32 straight from the pixels: the Spatial Tuning Adapter of DEIMv2, Huang et al. 2025 (arXiv:2509.20787).

    `strides` and `channels` describe the maps.
    """

    strides = (8, 16, 32)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = (2 * width, 4 * width, 4 * width)
        self.stem = ConvBN(3, width, 3, stride=2, activation=nn.GELU())
        self.convs = nn.ModuleList(ConvBN(a, b, 3, stride=2) for a, b in zip((width, *self.channels), self.channels))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Images `(b, 3, H, W)` to their maps `(b, H/s, W/s, c)`, rounded up."""
        x = self.stem(pixels.permute(0, 2, 3, 1))  # (b, 3, H, W) -> (b, H, W, 3)
        x = F.max_pool2d(x.permute(0, 3, 1, 2), 3, stride=2, padding=1).permute(0, 2, 3, 1)  # (b, h, w, c) and back
        maps: list[Tensor] = []
        for conv in self.convs:
            maps.append(conv(F.gelu(maps[-1]) if maps else x))
        return maps
