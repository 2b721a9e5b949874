"""The data module under all data sets: sizes, batches, augmentation, loaders."""

import os
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from vitdet.annotations.index import CocoIndex
from vitdet.config import Configurable
from vitdet.data.dataset import EvalDataset, TrainDataset, collate
from vitdet.data.description import describe
from vitdet.data.options import RANGES, Augmentation, Reading
from vitdet.data.sampler import BatchSampler, EvalBatchSampler, Loader
from vitdet.data.semantic import SemanticIndex
from vitdet.data.sources import CocoSource, ImageSource
from vitdet.data.transforms import Augment, EvalTransform, Resample, Size
from vitdet.errors import UserError
from vitdet.handshake import Needs
from vitdet.progress import Progress
from vitdet.ranges import ranged

SplitName = Literal["train", "val", "test"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageData(L.LightningDataModule, Configurable):
    """What all data sets have in common. One of them says how its index is opened (`_open`) and its images are read (`make_source`).

    Args:
        splits: what is given for each split; nothing where it is not.
        size: how large the model sees images: a number for the long side, `{short_side: 480, max_long_side: 800}`, `{square: 384}`, or nothing for
            their native size.
        batch_size: images in a training batch of one device.
        max_tokens: instead, tokens (patches) in a training batch of one device: it bounds the memory whatever the images' sizes.
        eval_batch_size: images in an evaluation batch; `batch_size` if not given.
        train_transforms: albumentations for training, by name, each with its arguments; they see the resized image.
        scale_jitter: each training image is resized by a random factor from this range, and cropped to its usual size;
            `[0.1, 2.0]` is the usual large-scale jitter. Objects of which too little is left are dropped (see
            `transforms.crop`), so a training image may have none.
        augmentation: crops, scales of batches, mosaics, see `Augmentation`.
        reading: EXIF tags and damaged files, see `Reading`.
        resample: how images are resized in evaluation, see `EvalTransform`.
        cache: keep decoded images in memory (of each worker).
        num_workers: processes that load training data; by default none on a CPU, and up to 8 on a GPU.
        seed: of the order and the augmentation.
    """

    @ranged(RANGES)
    def __init__(
        self,
        splits: dict[str, Any],
        *,
        size: int | dict[str, int] | None = None,
        batch_size: int = 8,
        max_tokens: int | None = None,
        eval_batch_size: int | None = None,
        train_transforms: list[str | dict[str, Any]] | None = None,
        scale_jitter: tuple[float, float] = (1.0, 1.5),
        augmentation: Augmentation = Augmentation(),
        reading: Reading = Reading(),
        resample: Resample = "area",
        cache: bool = False,
        num_workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.splits = {name: split for name, split in splits.items() if split}
        if not self.splits:
            raise UserError(f"no data is given; set {self.keys('train')}, and likewise val or test")
        self.size, self.image_size = size, Size.parse(size)
        self.batch_size, self.max_tokens = batch_size, max_tokens
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        transforms = (
            ["HorizontalFlip", {"RandomBrightnessContrast": {"p": 0.5}}]
            if train_transforms is None
            else train_transforms
        )
        self.augment = Augment(transforms, min_visible=self.source_class.min_visible)
        self.scale_jitter, self.augmentation, self.reading = tuple(scale_jitter), augmentation, reading
        self.cache, self.resample = cache, resample
        self.num_workers, self.seed = num_workers, seed
        # what ViTs usually want, until a `Task` says what its backbone does
        self.mean, self.std, self.patch_size = IMAGENET_MEAN, IMAGENET_STD, 16
        # a misspelt `resample` fails here
        self.eval_transform()
        self.masks, self.canvas, self.progress = False, None, Progress()
        self._indices = {name: self._open(name) for name in self.splits}
        self._check()

    kind: str  # of the labels: instances, semantic or panoptic
    source_class: type[ImageSource] = CocoSource

    def _open(self, split: SplitName) -> CocoIndex | SemanticIndex:
        """The index of a split that is given."""
        raise NotImplementedError

    def make_source(self, split: SplitName) -> ImageSource:
        """What reads the images of a split, with their objects."""
        raise NotImplementedError

    def keys(self, split: str) -> str:
        """The keys that describe a split, for messages."""
        return f"data.{split}.images and data.{split}.annotations"

    def _check(self) -> None:
        """Every split speaks of the same classes, and its folder exists."""
        for name, split in self.splits.items():
            if not Path(split.images).is_dir():
                raise FileNotFoundError(f"data.{name}.images is {split.images!r}, which is no folder")
            known = dict(zip(self.category_ids, self.classes))
            other = dict(zip(self._indices[name].category_ids, self._indices[name].names))
            if known != other:
                wrong = [
                    f"{i}: {known.get(i)!r} and {other.get(i)!r}"
                    for i in sorted({*known, *other})
                    if known.get(i) != other.get(i)
                ]
                raise UserError(
                    f"the categories of {name} differ from those of {next(iter(self.splits))}, by id: {'; '.join(wrong[:5])}"
                )

    @property
    def _first(self) -> CocoIndex | SemanticIndex:
        return next(iter(self._indices.values()))

    @property
    def classes(self) -> list[str]:
        """Class names, by label."""
        return list(self._first.names)

    @property
    def category_ids(self) -> list[int]:
        """The JSON's own ids, by label."""
        return list(self._first.category_ids)

    @property
    def things(self) -> list[bool]:
        """Which classes are things, by label."""
        return list(self._first.things)

    @property
    def num_classes(self) -> int:
        return self._first.num_classes

    def index(self, split: SplitName) -> CocoIndex | SemanticIndex:
        """The images and classes of a split; where there is no test split, those of `val`.

        Raises:
            ValueError: the split is not given; the message names the keys to set.
        """
        split = self._given(split)
        if split not in self._indices:
            raise UserError(f"there is no {split} data; set {self.keys(split)}")
        return self._indices[split]

    def _given(self, split: SplitName) -> SplitName:
        return "val" if split == "test" and "test" not in self.splits else split

    def prepare(self, progress: Progress, needs: Needs) -> None:
        """A `Task` calls it before it trains or evaluates.

        Args:
            progress: how far the training is, which batches and mosaics follow.
            needs: what the backbone expects of images, and the head of targets.
        """
        self.progress, self.masks = progress, needs.masks
        self.mean, self.std, self.patch_size, self.canvas = needs.mean, needs.std, needs.patch_size, needs.canvas

    def eval_transform(self) -> EvalTransform:
        """What validation does to an image; its `config` goes into the checkpoint, so that prediction does the same."""
        return EvalTransform(size=self.size, mean=self.mean, std=self.std, resample=self.resample)

    def describe(self) -> str:
        """What a run prints at its start: how much data, what is left out, what is odd, and what is done to an image."""
        return describe(self)

    def setup(self, stage: str) -> None:
        rank_zero_info(self.describe())

    def _tokens(self, split: SplitName, scale: float = 1.0) -> list[int]:
        index, p = self.index(split), self.patch_size
        if self.canvas is not None:
            return [(self.canvas // p) ** 2] * len(index.heights)
        sizes = (self.image_size(h, w, scale) for h, w in zip(index.heights.tolist(), index.widths.tolist()))
        crop = self.augmentation.crop if split == "train" else None
        if crop is not None:
            sizes = ((min(h, crop[0]), min(w, crop[1])) for h, w in sizes)
        return [-(-h // p) * -(-w // p) for h, w in sizes]

    @property
    def _ranks(self) -> dict[str, int]:
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size} if self.trainer else {}

    def train_dataloader(self) -> Loader:
        dataset = TrainDataset(
            self.make_source("train"),
            size=self.image_size,
            augment=self.augment,
            scale_jitter=self.scale_jitter,
            augmentation=self.augmentation,
            mean=self.mean,
            std=self.std,
            seed=self.seed,
            on_bad_image=self.reading.on_bad_image,
        )
        sampler = BatchSampler(
            # the budget holds at any scale
            self._tokens("train", max(self.augmentation.batch_scale)),
            batch_size=self.batch_size,
            max_tokens=self.max_tokens,
            scales=self.augmentation.batch_scale,
            progressive=self.augmentation.progressive,
            seed=self.seed,
            progress=self.progress,
            **self._ranks,
        )
        if self.trainer is not None:
            sampler.same_order = bool(self.trainer.overfit_batches)
        return self._loader(dataset, sampler)

    def val_dataloader(self) -> Loader | list[Loader]:
        """None in a training without `data.val`, which is then not validated."""
        training = self.trainer is not None and self.trainer.state.fn == "fit"
        return [] if training and "val" not in self.splits else self._eval_loader("val")

    def test_dataloader(self) -> Loader:
        return self._eval_loader(self._given("test"))

    def predict_dataloader(self) -> Loader:
        """The images of a test."""
        return self.test_dataloader()

    def _eval_loader(self, split: SplitName) -> Loader:
        source, transform = self.make_source(split), self.eval_transform()
        dataset = EvalDataset(source, transform, on_bad_image=self.reading.on_bad_image)
        return self._loader(
            dataset, EvalBatchSampler(self._tokens(split), batch_size=self.eval_batch_size, **self._ranks)
        )

    def _loader(self, dataset: Any, sampler: Any) -> Loader:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        workers = self.num_workers
        if workers is None:  # on a CPU, training needs all cores itself
            workers = min(8, _usable_cores()) if on_gpu else 0
        return Loader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,  # they keep their cached images from epoch to epoch
            pin_memory=on_gpu,
        )


def _usable_cores() -> int:
    """Those that this process may use, where the system tells (Linux); else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
