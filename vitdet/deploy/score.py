"""Scores a detector, on whatever engine it runs, on the validation or test images of a data module.

There is no trainer: these are the images, the transform and the metric that `vitdet test` uses.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from vitdet.data import ImageData
from vitdet.data.module import SplitName
from vitdet.deploy.predict import Detector
from vitdet.errors import UserError, check
from vitdet.handshake import Needs
from vitdet.metrics import Metric, create_metric
from vitdet.progress import Progress
from vitdet.ranges import whole
from vitdet.structures import Target

Batch = tuple[Sequence[Tensor], list[Target]]


@dataclass(frozen=True)
class Scores:
    """The scores of a detector.

    Attributes:
        values: the scores by name, in [0, 1], the main one first.
        protocol: the line that says how they were counted.
        images: the number of images.
        seconds: the time that the model took, without reading images and scoring.
        metric: the metric that counted, which may write the predictions.
    """

    values: dict[str, float]
    protocol: str
    images: int
    seconds: float
    metric: Metric = field(repr=False)

    @property
    def main(self) -> tuple[str, float]:
        """Name and value of the main score."""
        return next(iter(self.values.items()))


def score(detector: Detector, data: ImageData, *, split: SplitName = "test", images: int | None = None) -> Scores:
    """Scores a detector on a split of a data module.

    Args:
        detector: the detector, on any engine.
        data: the data module. Its images are transformed as the detector's transform says, whatever the size of `data`.
        split: the split; if there is no `test`, that means `val`.
        images: at most about so many images, whole batches of them; by default all.

    Raises:
        UserError: the detector predicts something else than the data describe, or there are no images.
    """
    ok, wanted = whole(1)
    check("images", images, images is None or ok(images), wanted)
    prepare(data, detector, split=split)
    loader = data.test_dataloader() if split == "test" else data.evaluation(split)
    batches = loader if images is None else islice(loader, -(-images // data.eval_batch_size))
    return score_batches(detector, data, batches, split=split, seen_only=images is not None)


@torch.inference_mode()
def score_batches(
    detector: Detector, data: ImageData, batches: Iterable[Batch], *, split: SplitName = "test", seen_only: bool = True
) -> Scores:
    """Scores a detector on batches of a split, for data that are prepared for it, see `prepare`; otherwise as `score`.

    Args:
        detector, data, split: as in `score`.
        batches: images and targets.
        seen_only: whether only the images of the batches count.
    """
    metric, ids = (
        create_metric(str(detector.predicts), data, split=split, seen_only=seen_only),
        category_ids(detector, data),
    )
    seen, seconds = 0, 0.0
    for images, targets in batches:
        start = time.perf_counter()
        found = detector.infer([image.to(detector.device) for image in images], [t.orig_size for t in targets])
        seconds += time.perf_counter() - start
        for prediction, target in zip(found, targets):
            prediction.names, prediction.category_ids = detector.classes, ids
            prediction.image_id = target.image_id
        metric.update(found, targets)
        seen += len(targets)
    values = {name: float(value) for name, value in metric.compute().items()}
    return Scores(values, f"{metric.protocol()}, {detector.runs_on}", seen, seconds, metric)


def prepare(data: ImageData, detector: Detector, *, split: SplitName = "test") -> None:
    """Makes the data's images what the detector's transform makes of them.

    Raises:
        UserError: the data have labels of another kind, other classes, or images that can't be read.
    """
    category_ids(detector, data)
    transform = detector.transform.config
    data.size, data.image_size, data.resample = transform["size"], detector.transform.size, transform["resample"]
    masks = detector.predicts != "boxes"
    mean, std = (tuple(transform[key]) for key in ("mean", "std"))
    # patches only say which images are put in a batch together
    data.prepare(Progress(), Needs(mean, std, patch_size=16, masks=masks))
    data.files.read_like(transform)
    data.files.check("validate" if split == "val" else "test")


def category_ids(detector: Detector, data: ImageData) -> list[int]:
    """The data's ids of the detector's classes, indexed by label.

    Raises:
        UserError: the data have labels of another kind, or other classes.
    """
    if data.kind != detector.kind:
        raise UserError(
            f"the model predicts {detector.kind}, and the data are of the kind {data.kind}; give data like those of "
            "its training"
        )
    if list(data.classes) == list(detector.classes):
        return data.category_ids
    # of a data set with the same ids, such as COCO's, some names are spelt in another way
    shared, known = set(data.classes) & set(detector.classes), set(detector.category_ids) <= set(data.category_ids)
    if data.kind == "instances" and known and 2 * len(shared) >= len(detector.classes):
        return detector.category_ids
    raise UserError(
        f"the model has the classes {_few(detector.classes)}, the data have {_few(data.classes)}; give data with the "
        "classes of its training"
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f", … ({len(names)})" if len(names) > 5 else "")
