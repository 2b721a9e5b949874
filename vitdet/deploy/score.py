"""Scores a detector, on whatever engine it runs, on the validation or test images of a data module.

There is no trainer: these are the images, the transform and the metric that `vitdet test` uses.
"""

import time
from dataclasses import dataclass, field
from itertools import islice

import torch

from vitdet.data import ImageData
from vitdet.deploy.predict import Detector
from vitdet.errors import UserError, check
from vitdet.handshake import Needs
from vitdet.metrics import Metric, create_metric
from vitdet.progress import Progress
from vitdet.ranges import whole


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


@torch.inference_mode()
def score(detector: Detector, data: ImageData, *, split: str = "test", images: int | None = None) -> Scores:
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
    ids = category_ids(detector, data)
    prepare(data, detector)
    metric = create_metric(detector.predicts, data, split=split, seen_only=images is not None)
    loader = data.test_dataloader() if split == "test" else data.evaluation(split)
    batches = None if images is None else -(-images // data.eval_batch_size)
    seen, seconds = 0, 0.0
    for batch, targets in islice(loader, batches):
        start = time.perf_counter()
        predictions = detector.infer([image.to(detector.device) for image in batch], [t.orig_size for t in targets])
        seconds += time.perf_counter() - start
        for prediction, target in zip(predictions, targets):
            prediction.names, prediction.category_ids = detector.classes, ids
            prediction.image_id = target.image_id
        metric.update(predictions, targets)
        seen += len(targets)
    values = {name: float(value) for name, value in metric.compute().items()}
    return Scores(values, f"{metric.protocol()}, {detector.runs_on}", seen, seconds, metric)


def prepare(data: ImageData, detector: Detector) -> None:
    """Makes the data's images what the detector's transform makes of them."""
    transform = detector.transform.config
    data.size, data.image_size, data.resample = transform["size"], detector.transform.size, transform["resample"]
    masks = detector.predicts != "boxes"
    mean, std = (tuple(transform[key]) for key in ("mean", "std"))
    # patches only say which images are put in a batch together
    data.prepare(Progress(), Needs(mean, std, patch_size=16, masks=masks))
    data.files.read_like(transform)
    data.files.check("test")


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
