"""The base of all data modules: the size of images, batches, augmentation and loaders."""

from typing import Any, Literal

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from vitdet.annotations.index import CocoIndex
from vitdet.config import Configurable
from vitdet.data.dataset import EvalDataset, TrainDataset, collate
from vitdet.data.description import describe
from vitdet.data.files import Files
from vitdet.data.options import RANGES, Augmentation, Reading, usable_cores
from vitdet.data.parts import JoinedSource, join, listed, open_parts
from vitdet.data.repeats import image_repeats
from vitdet.data.sampler import BatchSampler, EvalBatchSampler, Loader, count_tokens
from vitdet.data.semantic import SemanticIndex
from vitdet.data.sharing import Sharing
from vitdet.data.sources import CocoSource, ImageSource
from vitdet.data.transforms import Augment, EvalTransform, Resample, Size
from vitdet.data.trial import check_augmentation, try_transforms
from vitdet.errors import UserError
from vitdet.handshake import Needs
from vitdet.progress import Progress
from vitdet.ranges import ranged

SplitName = Literal["train", "val", "test"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRANSFORMS = ["HorizontalFlip", {"RandomBrightnessContrast": {"p": 0.5}}]


class ImageData(L.LightningDataModule, Configurable):
    """Base of all Lightning data modules of vitdet: everything that does not depend on the format of the annotations.

    A subclass says how the annotations of a source are opened (`_open`) and how its images are read (`_source`).

    Args:
        splits: the files of each split, `train`, `val` and `test`, or a list of the files of several sources; `None`
            for a split that does not exist.
        size: the size at which the model sees images, in pixels: a number for the long side, `{square: 384}`,
            `{short_side: 480, max_long_side: 800}`, or `None` for the native size of each image.
        batch_size: images in a training batch of one device.
        max_tokens: instead of `batch_size`, the most tokens (patches) in a training batch of one device, which bounds
            the memory for images of any sizes.
        eval_batch_size: images in an evaluation batch of one device; `batch_size` if not given.
        train_transforms: names of transforms, each with its arguments, which are applied to resized training images; by
            default a horizontal flip and random brightness and contrast. Any of albumentations' transforms may be named
            that leaves images RGB arrays of 8 bits; each is tried before the training, see `Augment`.
        scale_jitter: each training image is resized by a random factor from this range, and cropped to its usual size;
            `[0.1, 2.0]` is the usual large-scale jitter. Objects of which too little is left are dropped (see
            `transforms.crop`), so a training image may have none.
        augmentation: crops, scales of batches, mosaics, mixup, copy-paste, see `Augmentation`.
        reading: EXIF tags, damaged files and files at addresses, see `Reading`.
        resample: how images are resized in evaluation, see `EvalTransform`.
        balance: images with classes that occur in less than this share of the training images are repeated (LVIS,
            arXiv:1908.03195), 0.001 is usual; by default none are.
        cache: whether decoded images are kept in memory, by each worker.
        num_workers: processes that load data, in training and evaluation; by default none on a CPU, up to 8 on a GPU.
        seed: the seed of the order of images and of the augmentation.

    Raises:
        UserError: an argument is out of range, no split is given, or the splits have different classes.
        FileNotFoundError: the folder of a split's images does not exist.
    """

    @ranged(RANGES)
    def __init__(
        self,
        splits: dict[SplitName, Any],
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
        balance: float | None = None,
        cache: bool = False,
        num_workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.splits: dict[SplitName, Any] = {name: split for name, split in splits.items() if split}
        if not self.splits:
            raise UserError(f"no data is given; set {self.keys('train')}, and likewise val or test")
        self.size, self.image_size = size, Size.parse(size)
        self.batch_size, self.max_tokens = batch_size, max_tokens
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        transforms = TRANSFORMS if train_transforms is None else train_transforms
        self.augment = Augment(transforms, min_visible=self.source_class.min_visible)
        self.scale_jitter = scale_jitter[0], scale_jitter[1]
        self.augmentation, self.reading = augmentation, reading
        self.cache, self.resample, self.balance = cache, resample, balance
        self.num_workers, self.seed = num_workers, seed
        # common values, which `prepare` replaces by those of the backbone
        self.mean, self.std, self.patch_size = IMAGENET_MEAN, IMAGENET_STD, 16
        self.masks, self.canvas, self.progress = False, None, Progress()
        # how global batches are shared out, where a training says so
        self.sharing: Sharing | None = None
        self.files = Files(self)
        # raises an error here if `resample` is misspelt
        EvalTransform(mean=self.mean, std=self.std, resample=resample)
        opened = self._unify(open_parts(self.splits, self._open, self.files.at))
        self._indices = {name: join(indices) for name, indices in opened.items()}
        self._parts = {name: list(zip(listed(files), opened[name])) for name, files in self.splits.items()}
        # raises an error here if the labels don't list objects
        self.repeats()
        check_augmentation(self)

    # the kind of the labels: instances, semantic or panoptic
    kind: str
    source_class: type[ImageSource] = CocoSource

    def _open(self, split: SplitName, files: Any) -> CocoIndex | SemanticIndex:
        """The annotations of a source of a split, as an index of its images, classes and objects."""
        raise NotImplementedError

    def _source(self, index: Any, files: Any) -> ImageSource:
        """What reads the images of a source, and the objects in them."""
        raise NotImplementedError

    def make_source(self, split: SplitName) -> ImageSource:
        """What reads the images of a split, and the objects in them."""
        sources = [self._source(index, files) for files, index in self.parts(split)]
        return sources[0] if len(sources) == 1 else JoinedSource(self.index(split), sources)

    def parts(self, split: SplitName) -> list[tuple[Any, CocoIndex | SemanticIndex]]:
        """The files of each source of a split, with their index."""
        self.index(split)
        return self._parts[self._given(split)]

    def keys(self, split: str) -> str:
        """The config keys that describe a split, as error messages name them."""
        return f"data.{split}.images and data.{split}.annotations"

    def _unify(self, opened: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The indices of all sources, with the same classes."""
        return opened

    @property
    def _first_index(self) -> CocoIndex | SemanticIndex:
        return next(iter(self._indices.values()))

    @property
    def classes(self) -> list[str]:
        """Class names, by label."""
        return list(self._first_index.names)

    @property
    def category_ids(self) -> list[int]:
        """The category ids of the annotation files, by label."""
        return list(self._first_index.category_ids)

    @property
    def things(self) -> list[bool]:
        """Which classes are things, by label."""
        return list(self._first_index.things)

    @property
    def num_classes(self) -> int:
        return self._first_index.num_classes

    def index(self, split: SplitName) -> Any:
        """The index of the images and classes of a split; if there is no test split, `test` means `val`.

        Raises:
            UserError: the split is not given; the message names the keys to set.
        """
        split = self._given(split)
        if split not in self._indices:
            raise UserError(f"there is no {split} data; set {self.keys(split)}")
        return self._indices[split]

    def _given(self, split: SplitName) -> SplitName:
        return "val" if split == "test" and "test" not in self.splits else split

    def prepare(self, progress: Progress, needs: Needs) -> None:
        """Takes note of what the model needs, and looks at samples; a `Task` calls this before it trains or evaluates.

        Args:
            progress: how far the training is; the scale of batches, and whether there are mosaics, may depend on it.
            needs: what the backbone expects of images, and the head of targets.
        """
        self.progress, self.masks = progress, needs.masks
        self.mean, self.std, self.patch_size, self.canvas = needs.mean, needs.std, needs.patch_size, needs.canvas
        self.files.look()

    def eval_transform(self) -> EvalTransform:
        """What evaluation does to an image; its `config` goes into checkpoints, so that prediction does the same."""
        options = {"resample": self.resample, "bit_depth": self.files.depth.bits}
        return EvalTransform(size=self.size, mean=self.mean, std=self.std, **options)

    def describe(self) -> str:
        """What a run prints at its start: how much data there is, what is left out, what is odd, how images change."""
        return describe(self)

    def setup(self, stage: str) -> None:
        rank_zero_info(self.describe())
        self.files.check(stage)

    def teardown(self, stage: str) -> None:
        for line in self.files.summary():
            rank_zero_info(line)

    def _tokens(self, split: SplitName, scale: float = 1.0) -> list[int]:
        """How many patches each image of a split has, when its size is multiplied by `scale`."""
        crop = self.augmentation.crop if split == "train" else None
        options = {"scale": scale, "patch": self.patch_size, "canvas": self.canvas, "crop": crop}
        return count_tokens(self.index(split), self.image_size, **options)

    def repeats(self) -> np.ndarray | None:
        """How often an epoch draws each training image, on average; nothing where each is drawn once."""
        return image_repeats(self.parts("train"), self.balance) if "train" in self.splits else None

    @property
    def with_masks(self) -> bool:
        """Whether samples need masks: if the model does, or to cut out objects."""
        return self.masks or self.augmentation.copy_paste > 0

    @property
    def _ranks(self) -> dict[str, int]:
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size} if self.trainer else {}

    def train_dataloader(self) -> Loader:
        if not self.with_masks:
            try_transforms(self, masks=False)
        dataset = TrainDataset(
            self.files.source("train"),
            size=self.image_size,
            augment=self.augment,
            scale_jitter=self.scale_jitter,
            augmentation=self.augmentation,
            masks=self.masks,
            mean=self.mean,
            std=self.std,
            seed=self.seed,
            on_bad_image=self.reading.on_bad_image,
            reduce_large=self.reading.reduce_large,
        )
        sampler = BatchSampler(
            # at the largest scale, so that no batch has more than `max_tokens`
            self._tokens("train", max(self.augmentation.batch_scale)),
            batch_size=self.batch_size,
            max_tokens=self.max_tokens,
            scales=self.augmentation.batch_scale,
            progressive=self.augmentation.progressive,
            seed=self.seed,
            progress=self.progress,
            repeats=self.repeats(),
            **self._ranks,
        )
        if self.sharing is not None:
            sampler.share(self.sharing)
        if self.trainer is not None:
            # Lightning sets it from outside of the class
            sampler.same_order = bool(self.trainer.overfit_batches)  # pyright: ignore[reportAttributeAccessIssue]
        return self._loader(dataset, sampler, "train")

    def val_dataloader(self) -> Loader | list[Loader]:
        """The loader of `val`; no loader in a training without `data.val`, which is then not validated."""
        training = self.trainer is not None and self.trainer.state.fn == "fit"
        return [] if training and "val" not in self.splits else self.evaluation("val")

    def test_dataloader(self) -> Loader:
        return self.evaluation(self._given("test"))

    def predict_dataloader(self) -> Loader:
        """The same images as in a test."""
        return self.test_dataloader()

    def evaluation(self, split: SplitName) -> Loader:
        """The loader of a split that is given, for evaluation."""
        source, transform = self.files.source(split), self.eval_transform()
        dataset = EvalDataset(source, transform, on_bad_image=self.reading.on_bad_image)
        sampler = EvalBatchSampler(self._tokens(split), batch_size=self.eval_batch_size, **self._ranks)
        return self._loader(dataset, sampler, split)

    def _loader(self, dataset: Any, sampler: Any, split: SplitName) -> Loader:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        workers = self.num_workers
        # on a CPU, training needs all cores itself
        if workers is None:
            workers = min(8, usable_cores()) if on_gpu else 0
        return Loader(
            dataset,
            bad=self.files.bad(split),
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=workers,
            # workers keep their cached images from epoch to epoch
            persistent_workers=workers > 0,
            pin_memory=on_gpu,
        )
