"""A checkpoint to predictions.  # H×W an image in pixels"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from vitdet import zoo
from vitdet.checkpoint import Checkpoint
from vitdet.data.transforms import EvalTransform
from vitdet.errors import UserError, check
from vitdet.images import ImageLike, as_array
from vitdet.ranges import whole
from vitdet.structures import THRESHOLD, Prediction, check_threshold
from vitdet.zoo.cards import Card


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
        self, images: ImageLike | Sequence[ImageLike], *, threshold: float = THRESHOLD, batch_size: int = 8
    ) -> Prediction | list[Prediction]:
        """What is found in an image, or in each of a list of images.

        Args:
            images: paths, PIL images, or RGB arrays `(H, W, 3)` uint8, of any sizes. They are read batch by batch.
            threshold: leave out what scores less; 0 keeps everything.

        Raises:
            ImageError: a file can't be read.
            TypeError: something is no image.
            UserError: the threshold is not in [0, 1], or the batch size not positive.
        """
        check_threshold(threshold)
        check_batch_size(batch_size)
        if not isinstance(images, (list, tuple)):
            return self._batch([images], threshold)[0]
        batches = (images[i : i + batch_size] for i in range(0, len(images), batch_size))
        return [prediction for batch in batches for prediction in self._batch(batch, threshold)]

    @torch.inference_mode()
    def _batch(self, images: Sequence[ImageLike], threshold: float) -> list[Prediction]:
        arrays = [as_array(image) for image in images]
        x = [self.transform(array).to(self.device) for array in arrays]
        predictions = self.head.infer(self.backbone, x, [array.shape[:2] for array in arrays])
        for prediction, image in zip(predictions, images):
            prediction.names, prediction.category_ids = self.classes, self.category_ids
            prediction.path = str(image) if isinstance(image, (str, Path)) else None
        return [prediction.cpu().above(threshold) for prediction in predictions]


def load(
    model: str | Path, *, checkpoint: str | Path | None = None, device: str | torch.device | None = None
) -> Detector:
    """The detector that a checkpoint holds, or a published one by its name.

    Args:
        model: a checkpoint of a run, of which the averaged weights are taken, if it has some; nothing but the file is needed. Or a name that `vitdet zoo`
            lists: its weights come from the cache, or are downloaded.
        checkpoint: with a name: the file with its weights.
        device: `"cpu"`, `"cuda"` …; by default CUDA where there is one, else the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, holds another model, or needs a part that is not installed.
        DownloadError: the weights can't be fetched.
        UserError: there is no such device.
    """
    device = pick_device(device)
    card, _ = zoo.of(str(model), checkpoint)
    if card is not None:
        return _published(card, checkpoint, device)
    saved = Checkpoint.read(model)
    backbone, head = saved.build()
    transform = EvalTransform(**saved.eval_transform)
    names = {"classes": saved.classes, "category_ids": saved.category_ids}
    return Detector(backbone, head, **names, transform=transform, device=device)


def _published(card: Card, checkpoint: str | Path | None, device: str | torch.device | None) -> Detector:
    model = card.load(checkpoint)
    transform = EvalTransform(**card.eval_transform)
    names = {"classes": card.classes, "category_ids": card.category_ids}
    return Detector(model["backbone"], model["head"], **names, transform=transform, device=device)


def check_batch_size(value: int) -> None:
    """Raises:
    UserError: it is no positive whole number.
    """
    ok, wanted = whole(1)
    check("batch_size", value, ok(value), wanted)


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """`device`, or CUDA where there is one, else the CPU.

    Raises:
        UserError: there is no such device here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, TypeError, ValueError) as error:
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()) if torch.cuda.is_available())]
        here += ["mps"] if torch.backends.mps.is_available() else []
        raise UserError(f"there is no device {str(device)!r} here; choose from {', '.join(here)}") from error
    return chosen
