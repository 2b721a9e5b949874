"""How often an epoch draws each training image: weights of sources, and repetition of rare classes.

I is the number of images, K of classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vitdet.annotations.index import CocoIndex
from vitdet.errors import UserError


def image_repeats(parts: Sequence[tuple[Any, Any]], balance: float | None) -> np.ndarray | None:
    """How often an epoch draws each image of some sources, `(I,)`, on average; nothing where each is drawn once.

    Args:
        parts: the files of each source, which have its weight, and its index.
        balance: the share of images below which a class is rare, see `repeat_factors`; `None` for no repetition.

    Raises:
        UserError: the indices don't list the objects of an image.
    """
    if balance is None and all(files.weight == 1 for files, _ in parts):
        return None
    weights = np.concatenate([np.full(len(index), float(files.weight)) for files, index in parts])
    return weights if balance is None else weights * repeat_factors([index for _, index in parts], balance)


def repeat_factors(indices: Sequence[CocoIndex], threshold: float) -> np.ndarray:
    """The repeat factor of each image `(I,)`, the largest max(1, sqrt(t / f(c))) of its classes (arXiv:1908.03195).

    f(c) is the share of all images that have an object of class c to train on; an image without objects has 1.

    Args:
        indices: the annotations of all images, with equal classes.
        threshold: t, the share below which a class is rare.

    Raises:
        UserError: the indices don't list the objects of an image.
    """
    has = np.concatenate([_classes_of_images(index) for index in indices])
    share = has.mean(0) if len(has) else np.ones(has.shape[1])
    with np.errstate(divide="ignore"):
        # a class that no image has repeats none
        factors = np.maximum(1.0, np.sqrt(threshold / share))
    return np.where(has, factors, 1.0).max(1, initial=1.0)


def rare_classes(indices: Sequence[CocoIndex], threshold: float) -> list[str]:
    """The names of the classes that fewer images have than the threshold, the rarest first, without absent ones."""
    share = np.concatenate([_classes_of_images(index) for index in indices]).mean(0)
    return [indices[0].names[k] for k in np.argsort(share, kind="stable").tolist() if 0 < share[k] < threshold]


def _classes_of_images(index: Any) -> np.ndarray:
    """Which classes each image has objects of, `(I, K)` bool."""
    if not hasattr(index, "trainable"):
        raise UserError("data.balance needs data that lists its objects, and semantic label maps don't; leave it out")
    image = np.repeat(np.arange(len(index)), np.diff(index.first))
    has = np.zeros((len(index), index.num_classes), bool)
    has[image[index.trainable], index.categories[index.trainable]] = True
    return has


def rounded(factors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The positions of images, each as often as its factor says, on average; the total hardly varies.

    A factor of 2.3 gives two or three repetitions. The factors are summed up in random order, and an image is repeated
    at each whole number that the sum passes, so that all repetitions together are the sum of the factors, to within 1.

    Returns:
        Numbers `i + I·k`: the k-th repetition of image i, in ascending order of i.
    """
    order = rng.permutation(len(factors))
    passed = np.floor(np.cumsum(factors[order]) + rng.random()).astype(np.int64)
    counts = np.empty(len(factors), np.int64)
    counts[order] = np.diff(passed, prepend=0)
    image = np.repeat(np.arange(len(factors)), counts)
    nth = np.arange(len(image)) - np.repeat(np.cumsum(counts) - counts, counts)
    return image + len(factors) * nth
