"""A split of images by a hash of their names, which stays as it is when images are added."""

import hashlib
import re
from collections.abc import Sequence

# the share of the images that validate where a folder has no split
FRACTION = 0.2
# Roboflow writes augmented copies of `x.jpg` as `x_jpg.rf.HASH.jpg`: they belong to the same side
_COPY = re.compile(r"\.rf\.\w+(?=\.\w+$)")


def validates(names: Sequence[str], fraction: float) -> list[bool]:
    """Which images are for validation: those whose names have a hash in the lowest `fraction` of all hashes.

    A name keeps its side whatever images there are besides it, but of two images and more at least one is on each
    side.

    Example:
        >>> sum(validates([f"{i}.jpg" for i in range(1000)], 0.2))
        184
    """
    if not 0 < fraction < 1 or len(names) < 2:
        return [False] * len(names)
    places = [_place(name) for name in names]
    chosen = [place < fraction for place in places]
    if len(set(places)) > 1 and len(set(chosen)) == 1:
        # few images: the nearest to the border changes sides
        alone = max(places) if chosen[0] else min(places)
        chosen = [(place == alone) != chosen[0] for place in places]
    return chosen


def _place(name: str) -> float:
    """A number in [0, 1) that follows from a relative path alone."""
    plain = _COPY.sub("", name.replace("\\", "/")).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(plain, digest_size=6).digest(), "big") / 2**48
