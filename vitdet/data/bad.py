"""Images and labels that can't be used: what is said of them, and how many may be skipped."""

import logging
from dataclasses import dataclass, field
from typing import Any

from vitdet.errors import DataError

log = logging.getLogger("vitdet")

# how many images are named in the log; the others are only counted, and so are those beyond in the summary
LINES, NAMED = 20, 5


@dataclass
class Bad:
    """The images of a split that were skipped, of which a few may be.

    Args:
        split: the name of the split.
        total: the number of images in it.
        share: the largest share of them that may be skipped; a single one always may.

    Attributes:
        reasons: why each was skipped, by its position in the split, or another key of its own.

    Example:
        >>> bad = Bad("train", total=300, share=0.01)
        >>> bad.add(7, "a.jpg can't be decoded")
        >>> bad.summary()
        "train: 1 of 300 images was skipped (0.333 %): a.jpg can't be decoded"
    """

    split: str
    total: int
    share: float
    reasons: dict[Any, str] = field(default_factory=dict)

    def add(self, i: Any, reason: Any) -> None:
        """Takes note of an image, unless it is known, and says so.

        Args:
            i: the position of the image in the split, or another key of its own.
            reason: a sentence with the name of the file.

        Raises:
            DataError: these are too many.
        """
        if i in self.reasons:
            return
        self.reasons[i] = str(reason)
        count = len(self.reasons)
        if count <= LINES:
            log.warning("%s: skipped (%d of %d images so far): %s", self.split, count, self.total, reason)
        if count == LINES:
            log.warning("%s: further images that are skipped are only counted", self.split)
        if count > max(1, self.share * self.total):
            raise DataError(
                f"{self._counted()}, more than data.reading.max_bad allows ({100 * self.share:.3g} %): "
                f"{self._named()}; mend or remove them, or set a larger data.reading.max_bad"
            )

    def summary(self) -> str | None:
        """A line for the end of a run; nothing if no image was skipped."""
        return f"{self._counted()}: {self._named()}" if self.reasons else None

    def _counted(self) -> str:
        count = len(self.reasons)
        share = f"{100 * count / max(self.total, 1):.3g} %"
        return f"{self.split}: {count} of {self.total} images {'was' if count == 1 else 'were'} skipped ({share})"

    def _named(self) -> str:
        more = len(self.reasons) - NAMED
        return "; ".join(list(self.reasons.values())[:NAMED]) + (f"; and {more} more" if more > 0 else "")


@dataclass
class Noted:
    """A batch with what a data set, perhaps in a worker process, has to say of the images that it skipped.

    Attributes:
        batch: the samples, or the batch that was made of them.
        notes: the position of each skipped image, and the reason.
    """

    batch: Any
    notes: list[tuple[int, str]]

    def pin_memory(self) -> "Noted":
        """The same: it is rare enough to be copied to the device from pageable memory."""
        return self
