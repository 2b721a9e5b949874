"""The data sets for training and evaluation: each turns an image and its objects into a tensor and a `Target`.

H×W stands for the size of an image in pixels, T for the number of objects in it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from vitdet.data.bad import Noted
from vitdet.data.options import Augmentation, OnBadImage
from vitdet.data.sampler import Draw
from vitdet.data.sources import ImageSource
from vitdet.data.transforms import Augment, EvalTransform, Sample, Size, crop, fit_boxes, reduction, to_tensor
from vitdet.data.transforms.mixing import copy_paste, mixup
from vitdet.errors import DataError, UserError
from vitdet.images import ImageError
from vitdet.structures import Target


class Samples(Dataset):
    """Base of both data sets: what a worker process has to say goes to `Loader` with a batch.

    An error is returned in place of a batch, and `Loader` raises it. What is to be said of images that were skipped is
    returned beside the batch, so that the main process says it once, whatever the number of workers.

    Args:
        source: reads the images and their objects.
        on_bad_image: whether an image that can't be used stops the run.
    """

    def __init__(self, source: ImageSource, on_bad_image: OnBadImage) -> None:
        self.source, self.on_bad_image = source, on_bad_image
        self._notes: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, draws: list[Draw]) -> list[tuple[Tensor, Target]] | Noted | UserError:
        self.source.ahead([draw.index for draw in draws])
        try:
            samples = [self[draw] for draw in draws]
        except UserError as error:
            if get_worker_info() is None:
                raise
            return error
        notes = self.take_notes()
        return Noted(samples, notes) if notes else samples

    def take_notes(self) -> list[tuple[int, str]]:
        """The images that were skipped since the last call, and why."""
        notes, self._notes = self._notes, []
        return notes

    def _skip(self, i: int, error: DataError) -> None:
        """Takes note that image `i` can't be used.

        Raises:
            DataError: such images stop the run.
        """
        if self.on_bad_image == "error":
            raise stopping(error) from error
        self._notes.append((i, str(error)))


class TrainDataset(Samples):
    """Augmented training samples; each depends on the seed and its `Draw` only, not on the worker that makes it.

    Args:
        source: reads the images and their objects.
        size: the size to which an image is resized before the scale jitter.
        augment: the transforms that are applied to the resized and cropped image.
        scale_jitter: each image is resized by a random factor from this range, and cropped to its usual size.
        augmentation: crops, mosaics, mixup and copy-paste; the scales of batches come with the draws of the sampler.
        masks: whether targets have masks. The samples of the source must have them if objects are pasted, too.
        mean, std: the mean and the standard deviation of each channel, for pixel values in [0, 1].
        seed: the seed of the augmentation.
        on_bad_image: whether an image that can't be used stops the run or is replaced by a random image.
        reduce_large: whether large JPEGs are decoded at a fraction of their size.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        size: Size,
        augment: Augment,
        scale_jitter: tuple[float, float],
        augmentation: Augmentation,
        masks: bool,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        on_bad_image: OnBadImage,
        reduce_large: bool,
    ) -> None:
        super().__init__(source, on_bad_image)
        self.size, self.augment, self.reduce_large = size, augment, reduce_large
        self.scale_jitter, self.augmentation, self.masks = scale_jitter, augmentation, masks
        self.mean, self.std, self.seed = list(mean), list(std), seed

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Target]:
        # a repetition within the epoch is augmented anew
        again = (draw.repetition,) if draw.repetition else ()
        rng = np.random.default_rng((self.seed, draw.epoch, draw.index, *again))
        sample = self._read(draw.index, rng, draw.scale)
        size = self.size(*sample.size, draw.scale)
        window, until = self.augmentation.crop, self.augmentation.mosaic_until
        shown = size if window is None else (min(size[0], window[0]), min(size[1], window[1]))
        if rng.random() < self.augmentation.mosaic and draw.progress < until and min(size) > 1:
            sample = self._mosaic(sample, size, shown, rng)
        else:
            sample = self._cropped(sample, size, shown, rng)
        sample = self._mixed(sample, draw, rng)
        sample = fit_boxes(self.augment(sample, seed=int(rng.integers(2**32))))
        if not self.masks:
            sample.masks = None
        return to_tensor(sample.image, self.mean, self.std), make_target(self.source.index, draw.index, sample)

    def _read(self, i: int, rng: np.random.Generator, scale: float) -> Sample:
        """Image `i`, or, if it can't be used, a random one, decoded for the largest size at which it may be shown.

        Args:
            i: the position of the image.
            rng: draws another image.
            scale: the factor by which its usual size is multiplied before the scale jitter.
        """
        for _ in range(20):
            try:
                whole = self._whole(i)
                largest = self.size(*whole, scale * max(1.0, self.scale_jitter[1]))
                return self.source.sample(i, reduction=reduction(whole, largest) if self.reduce_large else 1)
            except DataError as error:
                self._skip(i, error)
                # `rng` is seeded for this draw, so every run takes the same replacement
                i = int(rng.integers(len(self)))
        raise ImageError(f"20 images in a row could not be read; the last: {self._notes[-1][1]}")

    def _whole(self, i: int) -> tuple[int, int]:
        """`(H, W)` of the file of image `i`."""
        return int(self.source.index.heights[i]), int(self.source.index.widths[i])

    def _cropped(
        self, sample: Sample, size: tuple[int, int], shown: tuple[int, int], rng: np.random.Generator
    ) -> Sample:
        """The sample resized to `size` `(H, W)` times a random factor, and cropped to at most `shown` `(H, W)`."""
        scale = rng.uniform(*self.scale_jitter)
        full = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        return crop(sample, full, shown, rng, min_visible=self.source.min_visible)

    def _mixed(self, sample: Sample, draw: Draw, rng: np.random.Generator) -> Sample:
        """The sample with objects of another image pasted onto it, blended with another image, both, or as it is."""
        options = self.augmentation
        # without a probability nothing is drawn, so the random numbers of trainings without these options stay the same
        if options.copy_paste and rng.random() < options.copy_paste and draw.progress < options.copy_paste_until:
            may, min_visible = self.source.index.things, self.source.min_visible
            sample = copy_paste(sample, self._other(sample, draw, rng), rng, may=may, min_visible=min_visible)
        if options.mixup and rng.random() < options.mixup and draw.progress < options.mixup_until:
            sample = mixup(sample, self._other(sample, draw, rng), rng)
        return sample

    def _other(self, sample: Sample, draw: Draw, rng: np.random.Generator) -> Sample:
        """A random image, resized and cropped as usual, and to at most the size of `sample`."""
        other = self._read(int(rng.integers(len(self))), rng, draw.scale)
        size = self.size(*other.size, draw.scale)
        return self._cropped(other, size, sample.image.shape[:2], rng)

    def _mosaic(self, first: Sample, size: tuple[int, int], shown: tuple[int, int], rng: np.random.Generator) -> Sample:
        """Four images as tiles of one canvas: more objects for as many tokens (as in YOLOv4, arXiv:2004.10934).

        Args:
            first: the sample in the first tile; the other three are drawn at random.
            size: `(H, W)` of an image without mosaic; the images in the tiles are scaled relative to it.
            shown: `(H, W)` of the canvas.
        """
        height, width = shown
        canvas = np.full((height, width, 3), 114, np.uint8)
        middle = [max(1, min(side - 1, round(side * rng.uniform(0.35, 0.65)))) for side in shown]
        others = rng.integers(len(self), size=3).tolist()
        scales = (max(size) / max(self.size(*self._whole(i))) for i in others)
        samples = [first, *(self._read(i, rng, scale) for i, scale in zip(others, scales))]
        boxes, labels, masks = [], [], []
        for k, sample in enumerate(samples):
            top, bottom = ((0, middle[0]), (middle[0], height))[k // 2]
            left, right = ((0, middle[1]), (middle[1], width))[k % 2]
            # The image is resized to 0.5 to 1 times its usual size, and the tile shows a part of it.
            usual = self.size(*sample.size)
            full = self.size(*sample.size, rng.uniform(0.5, 1.0) * max(size) / max(usual))
            tile = crop(sample, full, (bottom - top, right - left), rng, min_visible=self.source.min_visible)
            h, w = tile.image.shape[:2]
            canvas[top : top + h, left : left + w] = tile.image
            boxes.append((tile.boxes * [w, h, w, h] + [left, top, left, top]) / [width, height, width, height])
            labels.append(tile.labels)
            if (shapes := tile.decoded) is not None:
                around = ((0, 0), (top, height - top - h), (left, width - left - w))
                masks.append(np.pad(shapes, around))
        boxes = np.concatenate(boxes).astype(np.float32).clip(0, 1)
        return Sample(canvas, boxes, np.concatenate(labels), np.concatenate(masks) if masks else None)


class EvalDataset(Samples):
    """Evaluation samples, whose images are prepared as they are for prediction.

    Args:
        source: reads the images and their objects.
        transform: resizes and normalises an image.
        on_bad_image: whether an image that can't be used stops the run (`error`) or is replaced by a grey image
            (`skip`).
            In a grey image the model finds nothing, so all its objects count as missed.
    """

    def __init__(self, source: ImageSource, transform: EvalTransform, *, on_bad_image: OnBadImage) -> None:
        super().__init__(source, on_bad_image)
        self.transform = transform

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Target]:
        index, i = self.source.index, draw.index
        objects = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        try:
            objects = self.source.objects(i)
            image = self.source.image(i)
        except DataError as error:
            self._skip(i, error)
            image = np.full((int(index.heights[i]), int(index.widths[i]), 3), 114, np.uint8)
        x = self.transform(image)
        height, width = x.shape[-2:]
        return x, make_target(index, i, Sample(image, *objects), (height, width))


def stopping(error: DataError) -> DataError:
    """The error about an image that stops a run, with what can be done."""
    kind = ImageError if isinstance(error, ImageError) else DataError
    return kind(f"{error}; mend or remove it, or set data.reading.on_bad_image: skip")


def make_target(index: Any, i: int, sample: Sample, size: tuple[int, int] | None = None) -> Target:
    """The `Target` of a sample.

    Args:
        index: the index of the images, which has their original sizes and ids.
        i: the position of the image in the index.
        sample: the image with its objects.
        size: `(H, W)` at which the model sees the image; by default the size of the sample's image.
    """
    low, high = torch.from_numpy(np.ascontiguousarray(sample.boxes, np.float32)).reshape(-1, 4).split(2, dim=1)
    return Target(
        boxes_cxcywh=torch.cat([(low + high) / 2, high - low], dim=1),
        labels=torch.from_numpy(np.ascontiguousarray(sample.labels, np.int64)),
        size=size or sample.image.shape[:2],
        orig_size=(int(index.heights[i]), int(index.widths[i])),
        image_id=int(index.image_ids[i]),
        masks=None if sample.masks is None else torch.from_numpy(np.ascontiguousarray(sample.masks).view(bool)),
    )


def collate(samples: Any) -> Any:
    """A batch: a list of images, which may differ in size, and their targets. An error is passed on, see `Samples`."""
    if isinstance(samples, UserError):
        return samples
    if isinstance(samples, Noted):
        return Noted(collate(samples.batch), samples.notes)
    images, targets = zip(*samples)
    return list(images), list(targets)
