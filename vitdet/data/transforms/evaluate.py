"""Resizing and normalising upright RGB arrays for the model; H×W is the size of an image in pixels."""

import functools
from collections.abc import Sequence
from typing import Literal, get_args

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitdet.data.transforms.size import Size
from vitdet.errors import UserError

Resample = Literal["area", "bilinear", "antialias"]


class EvalTransform:
    """The transform of images in validation and prediction, which resizes and normalises them.

    Args:
        size: the size to which images are resized, see `Size.parse`.
        mean, std: the value for each channel by which the backbone's images are normalised, for pixels in [0, 1].
        resample: the filter with which the model was trained: `area` (see `resize`), `bilinear` (four nearest pixels,
            however much the image shrinks) or `antialias` (torchvision's triangle filter, as wide as the new pixels).
        bit_depth: the bits of images with more than 8 bits a channel, which readers of images need, see `load_image`.
    """

    def __init__(
        self,
        *,
        size: int | dict[str, int] | None = None,
        mean: Sequence[float],
        std: Sequence[float],
        resample: Resample = "area",
        bit_depth: int | None = None,
    ) -> None:
        if resample not in get_args(Resample):
            raise UserError(f"resample is {resample!r}; choose from {', '.join(get_args(Resample))}")
        self.config = {"size": size, "mean": list(mean), "std": list(std), "resample": resample}
        self.config |= {} if bit_depth is None else {"bit_depth": bit_depth}
        self.size = Size.parse(size)
        self.mean, self.std, self.resample, self.bit_depth = list(mean), list(std), resample, bit_depth

    def __call__(self, image: np.ndarray) -> Tensor:
        """RGB `(H, W, 3)` uint8 to float `(3, H', W')`."""
        height, width = self.size(*image.shape[:2])
        if self.resample == "bilinear":
            # as floats, so that OpenCV does not round the values
            plain = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
            return to_tensor(plain, self.mean, self.std)
        if self.resample == "antialias":
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # (H, W, 3) -> (1, 3, H, W)
            smooth = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)[0]
            return to_tensor(smooth.permute(1, 2, 0).numpy(), self.mean, self.std)
        return to_tensor(resize(image, height, width), self.mean, self.std)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image `(H, W, 3)` at another size: by area averaging if it shrinks, by bilinear interpolation if it grows."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def to_tensor(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """An RGB image `(H, W, 3)` with values in 0 … 255 as a normalised float tensor `(3, H, W)`."""
    if image.dtype == np.uint8:
        # the same values, looked up in a table, which takes half of the time
        x: np.ndarray = np.empty((3, *image.shape[:2]), np.float32)
        for plane, channel, table in zip(x, cv2.split(image), _table(tuple(mean), tuple(std))):
            cv2.LUT(channel, table, dst=plane)
        return torch.from_numpy(x)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float()  # (H, W, 3) -> (3, H, W)
    return _normalised(pixels.flatten(1), mean, std).view(pixels.shape)


def _normalised(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Values `(3, N)` in 0 … 255, normalised in place."""
    shift, scale = (torch.tensor(value).view(3, 1) for value in (mean, std))
    return x.sub_(shift * 255).div_(scale * 255)


@functools.lru_cache(maxsize=8)
def _table(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """What each value of each channel becomes, `(3, 256)` float32."""
    return _normalised(torch.arange(256.0).repeat(3, 1), mean, std).numpy()
