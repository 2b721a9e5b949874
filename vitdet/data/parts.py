"""Splits whose images come from several sources: their files, their indices, and the reading of their images."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vitdet.annotations.derived import Joined
from vitdet.data.object_masks import Masks
from vitdet.data.options import POSITIVE
from vitdet.data.semantic import JoinedMaps, SemanticIndex
from vitdet.data.sources import ImageSource
from vitdet.data.transforms import Sample
from vitdet.errors import UserError, check
from vitdet.remote import Remote, ahead, place

# the name of a split
Name = TypeVar("Name", bound=str)


def listed(files: Any) -> list[Any]:
    """The files of each source of a split, which may have a single one."""
    return list(files) if isinstance(files, (list, tuple)) else [files]


def open_parts(
    splits: Mapping[Name, Any],
    open_: Callable[[Name, Any], Any],
    at: Callable[[str], Path | Remote] = place,
) -> dict[str, list[Any]]:
    """The index of each source of each split.

    Args:
        splits: the files of each split.
        open_: opens the labels of a source of a split.
        at: what reads from a path or an address.

    Raises:
        FileNotFoundError: the folder of a source's images does not exist.
        UserError: the weight of a source is no positive number, or is given for a split that is not trained on.
    """
    ok, wanted = POSITIVE
    for name, files in splits.items():
        for k, source in enumerate(listed(files)):
            key = f"data.{name}[{k}]" if isinstance(files, (list, tuple)) else f"data.{name}"
            if not at(source.images).is_dir():
                raise FileNotFoundError(f"{key}.images is {source.images!r}, which is no folder")
            check(f"{key}.weight", source.weight, ok(source.weight), wanted)
            if source.weight != 1 and name != "train":
                raise UserError(f"{key}.weight is {source.weight}; only training images have weights, leave it out")
    return {name: [open_(name, source) for source in listed(files)] for name, files in splits.items()}


def join(indices: Sequence[Any]) -> Any:
    """A single index of the images of all."""
    if len(indices) == 1:
        return indices[0]
    return JoinedMaps(indices) if isinstance(indices[0], SemanticIndex) else Joined(indices)


class JoinedSource(ImageSource):
    """Reads the images of several sources in a row.

    Args:
        index: the joined index.
        sources: what reads the images of each.
    """

    def __init__(self, index: Any, sources: Sequence[ImageSource]) -> None:
        self.index = index
        self.sources: list[Any] = list(sources)
        self.min_visible, self.with_masks = sources[0].min_visible, sources[0].with_masks
        self._starts = np.cumsum([0, *map(len, sources)]).tolist()

    def _at(self, i: int) -> tuple[Any, int]:
        """The source of image `i`, and the position of the image in it."""
        k = bisect_right(self._starts, i) - 1
        return self.sources[k], i - self._starts[k]

    def path(self, i: int) -> Path | Remote:
        source, j = self._at(i)
        return source.path(j)

    def ahead(self, images: Sequence[int]) -> None:
        found = (self._at(i) for i in images)
        ahead(path for source, j in found if isinstance(source.root, Remote) for path in source.wanted([j]))

    def image(self, i: int, *, reduction: int = 1) -> np.ndarray:
        source, j = self._at(i)
        return source.image(j, reduction=reduction)

    def objects(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        source, j = self._at(i)
        return source.objects(j)

    def masks(self, i: int) -> Masks:
        source, j = self._at(i)
        return source.masks(j)

    def sample(self, i: int, *, reduction: int = 1) -> Sample:
        source, j = self._at(i)
        return source.sample(j, reduction=reduction)

    def truth(self, i: int) -> tuple:
        """See `PanopticSource.truth`."""
        source, j = self._at(i)
        return source.truth(j)

    def ids(self, i: int) -> np.ndarray:
        """See `PanopticSource.ids`."""
        source, j = self._at(i)
        return source.ids(j)

    def numbers(self, i: int) -> np.ndarray:
        """See `PanopticSource.numbers`."""
        source, j = self._at(i)
        return source.numbers(j)

    @property
    def segments(self) -> Path | Remote:
        """The folder of the PNGs of the first source."""
        return self.sources[0].segments

    def void(self, i: int) -> tuple:
        """See `PanopticSource.void`."""
        source, j = self._at(i)
        return source.void(j)
