"""A checkpoint to predictions.  # H×W an image in pixels"""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from vitdet.config import build
from vitdet.data.images import load_image
from vitdet.data.transforms import EvalTransform
from vitdet.structures import Prediction

FORMAT = 1  # of the checkpoints that this version reads
ImageLike = str | Path | Image.Image | np.ndarray


class CheckpointError(ValueError):
    """A file that is no checkpoint of vitdet, or is damaged; the message names it."""


class Detector:
    """A trained model that takes images as they are.

    Attributes:
        backbone, head: in eval mode.
        classes, category_ids: names and the data set's own ids, indexed by label.
        transform: what is done to an RGB array before the backbone sees it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        classes: Sequence[str],
        category_ids: Sequence[int],
        transform: EvalTransform,
        device: str | torch.device | None = None,
    ) -> None:
        self.device = pick_device(device)
        self.backbone, self.head = backbone.to(self.device).eval(), head.to(self.device).eval()
        self.classes, self.category_ids, self.transform = list(classes), list(category_ids), transform

    def predict(
        self, images: ImageLike | Sequence[ImageLike], *, threshold: float = 0.0, batch_size: int = 8
    ) -> Prediction | list[Prediction]:
        """What is found in an image, or in each of a list of images.

        Args:
            images: paths, PIL images, or RGB arrays `(H, W, 3)` uint8, of any sizes. They are read batch by batch.
            threshold: leave out what scores less.

        Raises:
            ImageError: a file can't be read.
            TypeError: something is no image.
        """
        if not isinstance(images, (list, tuple)):
            return self._batch([images], threshold)[0]
        batches = (images[i : i + batch_size] for i in range(0, len(images), batch_size))
        return [prediction for batch in batches for prediction in self._batch(batch, threshold)]

    @torch.inference_mode()
    def _batch(self, images: Sequence[ImageLike], threshold: float) -> list[Prediction]:
        arrays = [as_array(image) for image in images]
        x = [self.transform(array).to(self.device) for array in arrays]
        outputs = self.head(self.backbone(x))
        predictions = self.head.predict(outputs, [array.shape[:2] for array in arrays])
        for prediction, image in zip(predictions, images):
            prediction.names, prediction.category_ids = self.classes, self.category_ids
            prediction.path = str(image) if isinstance(image, (str, Path)) else None
        return [prediction.cpu().above(threshold) for prediction in predictions]


def load(path: str | Path, *, device: str | torch.device | None = None) -> Detector:
    """The detector that a checkpoint holds; its averaged weights, if it has some. Nothing but the file is needed.

    Args:
        device: `"cpu"`, `"cuda"` …; by default CUDA where there is one, else the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, was not written by vitdet, or needs a part that is not installed.
    """
    checkpoint = read_checkpoint(path)
    saved = checkpoint["vitdet"]
    try:
        backbone, head = build(saved["model"]["backbone"]), build(saved["model"]["head"])
    except (ImportError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{path}: its model can't be built: {error}; install or import what it was trained with"
        ) from error
    weights = checkpoint.get("ema_state_dict") or checkpoint["state_dict"]
    try:
        nn.ModuleDict({"backbone": backbone, "head": head}).load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its weights do not fit its model: {error}") from error
    return Detector(
        backbone,
        head,
        classes=saved["classes"],
        category_ids=saved["category_ids"],
        transform=EvalTransform(**{"mean": saved["mean"], "std": saved["std"], **saved["eval_transform"]}),
        device=device,
    )


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's tensors and plain values; code in the file is never run.

    Raises:
        FileNotFoundError, CheckpointError: as `load`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError, OSError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(
            f"{path} can't be read: it is cut off, or holds something else than tensors and plain values ({reason})"
        ) from error
    saved = checkpoint.get("vitdet") if isinstance(checkpoint, dict) else None
    if not isinstance(saved, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"{path} was not written by vitdet; wanted a best.ckpt or last.ckpt of a run")
    if saved["format"] > FORMAT:
        raise CheckpointError(f"{path} has format {saved['format']}, this vitdet reads up to {FORMAT}: update vitdet")
    return checkpoint


def as_array(image: ImageLike) -> np.ndarray:
    """An image as upright RGB `(H, W, 3)` uint8.

    Raises:
        ImageError: a file can't be read.
        TypeError: it is neither a path, a PIL image nor such an array.
    """
    if isinstance(image, (str, Path)):
        return load_image(image)
    if isinstance(image, Image.Image):
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return image
    what = type(image).__name__
    if isinstance(image, (np.ndarray, Tensor)):
        what = f"{what} {tuple(image.shape)} {image.dtype}"
    raise TypeError(f"got {what}; wanted a path, a PIL image, an RGB array (H, W, 3) uint8, or a list of these")


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """`device`, or CUDA where there is one, else the CPU."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
