"""Loads a trained model and predicts on images."""

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vitdet import zoo
from vitdet.checkpoint import Checkpoint, CheckpointError
from vitdet.data.transforms import EvalTransform
from vitdet.deploy.ahead import ahead, batched
from vitdet.deploy.inputs import expand
from vitdet.errors import UserError, check
from vitdet.fetch import STDIN
from vitdet.images import ImageLike, as_array
from vitdet.ranges import whole
from vitdet.structures import Prediction
from vitdet.thresholds import THRESHOLD, Threshold, check_threshold
from vitdet.zoo.cards import Card


class Detector:
    """A trained model that predicts on images of any format and size; `load` creates it.

    Args:
        backbone: The backbone, which is set to eval mode.
        head: The head, which is set to eval mode.
        classes: Class names, indexed by label.
        category_ids: Ids of the classes in the data set, indexed by label.
        transform: Transform of an RGB array `(H, W, 3)` uint8 into the input of the backbone.
        device: Device to run on. By default CUDA if it is available, otherwise the CPU.
        thresholds: Lowest score of a returned detection for each class, indexed by label. By default 0.3 for all.

    Raises:
        UserError: the device does not exist, or the thresholds are not one score for each class.
    """

    data: dict[str, Any] | None = None
    """The class and the arguments of the data module that it was trained on, if they are known."""

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        classes: Sequence[str],
        category_ids: Sequence[int],
        transform: EvalTransform,
        device: str | torch.device | None = None,
        thresholds: Sequence[float] | None = None,
    ) -> None:
        self.device = pick_device(device)
        self.backbone = backbone.to(self.device).eval()
        # any module with the attribute `predicts` and the method `infer` of a `Head`
        self.head: Any = head.to(self.device).eval()
        self.classes, self.category_ids, self.transform = list(classes), list(category_ids), transform
        self.thresholds = [THRESHOLD] * len(self.classes) if thresholds is None else list(map(float, thresholds))
        check_threshold(self.thresholds, classes=len(self.classes))

    @property
    def kind(self) -> str:
        """What it predicts: `instances`, `semantic` or `panoptic`."""
        return getattr(self.head, "task", "instances")

    @property
    def predicts(self) -> str | None:
        """What is scored of its predictions, see `Head.predicts`."""
        return self.head.predicts

    @property
    def runs_on(self) -> str:
        """The library and the device that run it, for the line that says how scores were counted."""
        return f"torch {torch.__version__} ({self.device.type})"

    def predict(
        self, images: ImageLike | Sequence[ImageLike], *, threshold: Threshold | None = None, batch_size: int = 8
    ) -> Prediction | list[Prediction]:
        """Predicts on an image, or on each image of a list, a folder or a pattern.

        Args:
            images: an image in any form that `vitdet.images.as_array` takes: a path, a URL, `-` for standard input, the
                bytes of a file, an open file, a PIL image, an array `(H, W)` or `(H, W, 1, 3 or 4)`, a tensor
                `(1, 3 or 4, H, W)`; or a folder, which is searched recursively, a pattern with `*`, or a list of all of
                these. Sizes may differ. Images of 16 bits are scaled as in the training, floats go from 0 to 1.
            threshold: the lowest score, in [0, 1], of the predictions that are returned, or a list of such scores,
                indexed by label; by default `self.thresholds`, which were chosen on the validation data.
            batch_size: the number of images in a batch.

        Returns:
            A prediction for an image, or a list of predictions for a list, a folder or a pattern.

        Raises:
            ImageError: an image can't be read.
            TypeError: an element is not an image.
            FileNotFoundError: a folder or a pattern has no image.
            UserError: the threshold is not in [0, 1], or the batch size is not positive.
        """
        several, single = expand(images)
        found = list(self.stream(several, threshold=threshold, batch_size=batch_size))
        return found[0] if single else found

    def stream(
        self, images: Iterable[ImageLike], *, threshold: Threshold | None = None, batch_size: int = 8
    ) -> Iterator[Prediction]:
        """Predicts on many images, one batch after the other, while threads read the next ones.

        Args:
            images: images, as in `predict`; folders and patterns are not. They are taken as they are needed.
            threshold, batch_size: as in `predict`.

        Returns:
            A prediction for each image, in order. Nothing but the present batches is kept in memory.

        Raises:
            ImageError: an image can't be read; the rest is as in `predict`.
        """
        threshold = self.thresholds if threshold is None else threshold
        check_threshold(threshold, classes=len(self.classes))
        check_batch_size(batch_size)
        reads = ahead(self.read, images, count=2 * batch_size, size=Read.size)
        return (one.above(threshold) for batch in batched(reads, batch_size) for one in self.find(batch))

    def __call__(self, images: ImageLike | Sequence[ImageLike], **options: Any) -> Prediction | list[Prediction]:
        """The same as `predict`."""
        return self.predict(images, **options)

    def infer(self, x: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Runs the model.

        Args:
            x: images as `transform` returns them, each `(3, H, W)`, on the device.
            sizes: `(H, W)` in pixels of the originals.

        Returns:
            A prediction of all scores for each image, in pixels of the original, without class names.
        """
        return self.head.infer(self.backbone, x, sizes)

    def see(self, arrays: Sequence[np.ndarray], x: Sequence[Tensor] | None = None) -> list[Prediction]:
        """Transforms images and runs the model; what predicts in another way, such as in tiles, overrides this.

        Args:
            arrays: RGB images, each `(H, W, 3)` uint8.
            x: what `transform` made of them, where that was done ahead. Never given to a class that overrides this.

        Returns:
            As `infer`.
        """
        x = [self.transform(array) for array in arrays] if x is None else x
        return self.infer([image.to(self.device) for image in x], [array.shape[:2] for array in arrays])

    def read(self, image: ImageLike) -> "Read":
        """Reads and transforms an image, for `find`; threads do this ahead of the model.

        Raises:
            ImageError: it can't be read.
        """
        array = as_array(image, bit_depth=self.transform.bit_depth)
        path = str(image) if isinstance(image, (str, Path)) and str(image) != STDIN else None
        # what sees images in another way transforms them itself
        x = self.transform(array) if type(self).see is Detector.see else None
        return Read(array, x, path)

    @torch.inference_mode()
    def find(self, images: "Sequence[Read]") -> list[Prediction]:
        """Predictions of all scores, on the CPU, on images that have been read."""
        x = [image.x for image in images if image.x is not None]
        arrays = [image.array for image in images]
        predictions = [one.cpu() for one in (self.see(arrays, x) if x else self.see(arrays))]
        for prediction, image in zip(predictions, images):
            prediction.names, prediction.category_ids = self.classes, self.category_ids
            prediction.path = image.path
        return predictions


class Read(NamedTuple):
    """An image that has been read.

    Attributes:
        array: RGB `(H, W, 3)` uint8.
        x: what the model's transform makes of it, `(3, h, w)` float; `None` where that is done later.
        path: its file or address, if it has one.
    """

    array: np.ndarray
    x: Tensor | None
    path: str | None

    def size(self) -> int:
        """The bytes that it takes."""
        return self.array.nbytes + (0 if self.x is None else self.x.nbytes)


def _is_exported(name: str) -> bool:
    return name.endswith((".onnx", ".xml", ".pt2")) or (bool(name) and any(Path(name).glob("*.xml")))


# Models that are neither a checkpoint nor a published name: the module whose function `load(model, device=…, …)` loads
# them, and whether a name means such a model. A module is imported only for a model of its own.
LOADERS: dict[str, Callable[[str], bool]] = {"vitdet.deploy.engines.detector": _is_exported}


def load(
    model: str | Path,
    *,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> Detector:
    """Loads a detector from a checkpoint, an exported model, or a published model by its name.

    Args:
        model: the checkpoint of a run, a model that `vitdet export` wrote (`.onnx`, `.xml`, `.pt2`), or a name that
            `vitdet zoo` lists. A checkpoint needs no other files, and its averaged weights are used if it holds them.
            The weights of a published model come from the cache, or are downloaded.
        checkpoint: a file with the weights of the published model `model`.
        device: the device to run on, such as `"cpu"` or `"cuda"`. By default CUDA if it is available, otherwise the
            CPU. An exported model takes the devices of its engine, too.
        options: options of an exported model alone, `engine` and `threads`, see `EngineDetector`.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged, holds another model, or needs a part that is not installed.
        DownloadError: the weights can't be downloaded.
        UserError: the device does not exist, or an option is not one of this model.
    """
    for module, suits in LOADERS.items():
        if checkpoint is None and suits(str(model)):
            return importlib.import_module(module).load(model, device=device, **options)
    if options:
        raise UserError(f"{min(options)} is an option of exported models, such as model.onnx, and {model} is none")
    device = pick_device(device)
    card, _ = zoo.of(str(model), None if checkpoint is None else str(checkpoint))
    if card is not None:
        return _published(card, checkpoint, device)
    saved = Checkpoint.read(model)
    backbone, head = saved.build()
    try:
        transform = EvalTransform(**saved.eval_transform)
    except (TypeError, UserError) as error:
        raise CheckpointError(f"{model}: its transform of images can't be used: {error}") from error
    names = {"classes": saved.classes, "category_ids": saved.category_ids}
    detector = Detector(backbone, head, **names, transform=transform, device=device, thresholds=saved.thresholds)
    detector.data = saved.data
    return detector


def _published(card: Card, checkpoint: str | Path | None, device: str | torch.device | None) -> Detector:
    model = card.load(checkpoint)
    transform = EvalTransform(**card.eval_transform)
    names = {"classes": card.classes, "category_ids": card.category_ids}
    return Detector(model["backbone"], model["head"], **names, transform=transform, device=device)


def check_batch_size(value: int) -> None:
    """Checks a batch size.

    Raises:
        UserError: it is not a positive integer.
    """
    ok, wanted = whole(1)
    check("batch_size", value, ok(value), wanted)


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """Returns `device` or, by default, CUDA if it is available, otherwise the CPU.

    Raises:
        UserError: the device does not exist.
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
