"""The rule for the size to which images are resized."""

from vitdet.config import Configurable
from vitdet.errors import DataError, UserError, check
from vitdet.images import MAX_PIXELS
from vitdet.ranges import whole

# the most pixels of a side of a resized image: beyond it, a single image takes gigabytes
MAX_SIDE = 2**15


class Size(Configurable):
    """The size to which images are resized for the model: a single rule, or no rule for the native size.

    Args:
        long_side: the length of the longer side in pixels; the aspect ratio is kept.
        short_side: the length of the shorter side in pixels; the aspect ratio is kept.
        max_long_side: the largest length of the longer side in pixels, where `short_side` is given.
        square: the length of both sides in pixels; the aspect ratio is not kept.

    Example:
        >>> Size(long_side=320)(480, 640)
        (240, 320)
    """

    def __init__(
        self,
        *,
        long_side: int | None = None,
        short_side: int | None = None,
        max_long_side: int | None = None,
        square: int | None = None,
    ) -> None:
        rules = {"long_side": long_side, "short_side": short_side, "square": square}
        given = [name for name, value in rules.items() if value is not None]
        if len(given) > 1:
            raise UserError(f"size has {' and '.join(given)}; give one")
        if max_long_side is not None and short_side is None:
            raise UserError("max_long_side goes with short_side; use long_side alone")
        is_whole, wanted = whole(1)
        for name, value in {**rules, "max_long_side": max_long_side}.items():
            check(f"size.{name}", value, value is None or is_whole(value), f"pixels, {wanted}")
        self.long_side, self.short_side, self.max_long_side, self.square = long_side, short_side, max_long_side, square
        largest = max(value or 0 for value in rules.values())
        check("size", largest, largest <= MAX_SIDE, f"at most {MAX_SIDE} pixels")

    @classmethod
    def parse(cls, value: "int | dict[str, int] | None") -> "Size":
        """The size that an option describes: `320` is short for `{long_side: 320}`, and `None` is the native size."""
        if value is None or isinstance(value, dict):
            unknown = set(value or {}) - {"long_side", "short_side", "max_long_side", "square"}
            check("size", value, not unknown, "the keys long_side, short_side with max_long_side, or square")
            return cls(**(value or {}))
        check("size", value, whole(1)[0](value), "pixels of the long side, a whole number from 1, or {square: 384}")
        return cls(long_side=value)

    def __call__(self, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
        """`(H, W)` to which an image of `height` and `width` is resized, multiplied by `scale`."""
        if self.square is not None:
            side = max(1, round(self.square * scale))
            return _bounded(side, side, (height, width))
        factor = scale
        if self.long_side is not None:
            factor *= self.long_side / max(height, width)
        elif self.short_side is not None:
            ratio = self.short_side / min(height, width)
            factor *= min(ratio, self.max_long_side / max(height, width)) if self.max_long_side else ratio
        return _bounded(max(1, round(height * factor)), max(1, round(width * factor)), (height, width))

    def __str__(self) -> str:
        rules = {"long side": self.long_side, "short side": self.short_side, "square": self.square}
        text = next((f"{name} {value}" for name, value in rules.items() if value is not None), "native size")
        return text + (f", long side at most {self.max_long_side}" if self.max_long_side else "")


def _bounded(height: int, width: int, before: tuple[int, int]) -> tuple[int, int]:
    """The size, if it has no more pixels than an image that is read.

    Raises:
        DataError: it has more: the image is a line of pixels, or the rule is one for much smaller images.
    """
    if height * width > MAX_PIXELS:
        made = f"an image of {before[0]}×{before[1]} pixels would be resized to {height}×{width}"
        raise DataError(f"{made}; wanted at most {MAX_PIXELS:,} pixels: give a smaller size, or a max_long_side")
    return height, width
