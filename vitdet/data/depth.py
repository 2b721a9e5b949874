"""How many bits the images of a data set use, where their files have more than 8 bits a channel."""

from dataclasses import dataclass, field

import numpy as np

from vitdet.data.sources import ImageSource
from vitdet.images import open_image
from vitdet.pixels import MAX_BITS, ImageError, deep_values

# the bits that cameras and scanners give
BITS = (8, 10, 12, 14, MAX_BITS)
# how many images are looked at, and the most pixels of them that are decoded, which takes about a second
SAMPLE, PIXELS = 32, 50_000_000


@dataclass(frozen=True)
class Depth:
    """How deep the images of a data set are taken to be.

    Attributes:
        bits: the bits of images with more than 8 bits a channel; `None` where there is none in the sample.
        lines: what a run says of it.
    """

    bits: int | None = None
    lines: list[str] = field(default_factory=list)


def spread(total: int, count: int) -> list[int]:
    """At most `count` positions out of `total`, evenly spread.

    Example:
        >>> spread(100, 5), spread(3, 5)
        ([0, 25, 50, 74, 99], [0, 1, 2])
    """
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int)).tolist()


def find_depth(source: ImageSource, *, given: int | None = None) -> Depth:
    """The bit depth of a data set: as given, or the smallest of 8, 10, 12, 14 and 16 that holds a sample's values.

    A depth of each image's own would make dark images as bright as others, so all images share one. It goes into
    checkpoints, so that prediction reads images in the same way.

    Args:
        source: knows the files of the images; those that can't be read are passed over.
        given: the bit depth, if it is known.
    """
    largest: list[int] = []
    pixels = 0
    chosen = spread(len(source), SAMPLE)
    source.ahead(chosen)
    for i in chosen:
        try:
            with open_image(source.path(i)) as image:
                # PGM and PPM say which value is white
                values = None if image.format == "PPM" or pixels > PIXELS else deep_values(image)
        except ImageError:
            continue
        if values is not None and values.dtype.kind in "iu":
            largest.append(int(values.max(initial=0)))
            pixels += values.size
    if not largest:
        return Depth(given)
    count, top = f"{len(largest)} image{'s' if len(largest) > 1 else ''} of 16 bits", max(largest)
    if given is not None:
        beyond = sum(value >= 2**given for value in largest)
        more = f"; {beyond} of {count} hold larger values, up to {top}, which become white" if beyond else ""
        return Depth(given, [f"16-bit images: {given} bits, {2**given - 1} is white (data.reading.bit_depth){more}"])
    bits = next((bits for bits in BITS if top < 2**bits), MAX_BITS)
    why = f"the largest value of {count} is {top}; data.reading.bit_depth sets the bits"
    return Depth(bits, [f"16-bit images: taken to use {bits} bits, {2**bits - 1} is white ({why})"])
