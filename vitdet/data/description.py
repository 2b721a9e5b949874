"""The description of the data that is printed at the start of a run."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.data.classes import few
from vitdet.data.repeats import rare_classes
from vitdet.fetch import is_url


def describe(data: Any) -> str:
    """The size of each split of an `ImageData`, what is left out, warnings, and how images are augmented, as lines."""
    parts = [*_splits(data), *_draws(data), *_oddities(data), *data.files.depth.lines, _images(data)]
    return "\n".join(parts)


def _splits(data: Any) -> Iterator[str]:
    for name in data.splits:
        index = data.index(name)
        yield f"{name}: {index}"
        yield from (f"  {note}" for note in index.notes)


def _draws(data: Any) -> Iterator[str]:
    """How often training images are drawn, where not each is drawn once in an epoch."""
    factors = data.repeats() if "train" in data.splits else None
    if factors is None:
        return
    if (factors == 1).all():
        yield f"train: no class is rarer than data.balance {data.balance:g}, so each image is drawn once"
        return
    often = f"{factors.min():.3g} to {factors.max():.3g} times each"
    yield f"train: an epoch draws {round(factors.sum()):,} images from {len(factors):,}, {often}, on average"
    parts = data.parts("train")
    if len(parts) > 1:
        ends = np.cumsum([len(index) for _, index in parts])
        shares = [part.sum() / factors.sum() for part in np.split(factors, ends[:-1])]
        said = (f"{index.path} {share:.1%}" for (_, index), share in zip(parts, shares))
        yield f"  share of its draws by source: {', '.join(said)}"
    if data.balance is not None:
        rare = rare_classes([index for _, index in parts], data.balance)
        yield f"  data.balance repeats images of {len(rare)} classes that less than {data.balance:g} of them have" + (
            f": {few(rare)}" if rare else ""
        )


def _oddities(data: Any) -> Iterator[str]:
    """Warnings about splits that make the scores less meaningful than they look."""
    if "train" in data.splits and "val" not in data.splits:
        yield f"val: none, so nothing is validated, and no checkpoint is the best; for scores set {data.keys('val')}"
    for name in ("val", "test"):
        if name not in data.splits:
            continue
        # the index of semantic label maps lists no objects
        trainable = getattr(data.index(name), "trainable", None)
        if trainable is not None and not trainable.any():
            yield f"{name}: no image has an object to find, so its scores say nothing"
        if "train" in data.splits and (shared := _shared(data, name)):
            what = f"{shared} of its {len(data.index(name))} images are training images, too"
            yield f"{name}: {what}, so its scores say little about new images"


def _shared(data: Any, name: str) -> int:
    """How many images of a split are also in the training split, compared by their absolute paths."""
    seen = set(_files(data, name))
    return len(seen.intersection(_files(data, "train")))


def _files(data: Any, split: str) -> Iterator[str]:
    for files, index in data.parts(split):
        root = files.images if is_url(files.images) else Path(files.images).resolve()
        yield from (os.path.normpath(f"{root}/{name}") for name in index.file_names)


def _images(data: Any) -> str:
    augmentation = data.augmentation
    low, high = augmentation.batch_scale
    scale = "" if low == high == 1.0 else f", batches at {low:g} to {high:g} of it"
    scale += ", growing" if scale and augmentation.progressive else ""
    shares = {name: getattr(augmentation, name) for name in ("mosaic", "copy_paste", "mixup")}
    mosaic = "".join(
        f", {name.replace('_', '-')} {share:g} until {getattr(augmentation, f'{name}_until'):g} of the training"
        for name, share in shares.items()
        if share
    )
    jitter = f"scale {data.scale_jitter[0]:g} to {data.scale_jitter[1]:g}"
    jitter += ", crops of {}×{} (H×W)".format(*augmentation.crop) if augmentation.crop else ""
    return f"images: {data.image_size}{scale}; training: {jitter}{mosaic}, {data.augment}"
