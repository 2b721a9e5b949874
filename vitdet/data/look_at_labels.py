"""A look at label maps and panoptic PNGs: values that are no class, and segments and pixels without each other.

K is the number of classes.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from vitdet.annotations.box_formats import disagree
from vitdet.annotations.misread import MOST
from vitdet.data.panoptic import PanopticSource
from vitdet.data.semantic import SemanticIndex
from vitdet.errors import DataError
from vitdet.images import ImageError
from vitdet.masks import VOID, bounds

# the share of the pixels that may have no class before a data set with a single class in it is refused
FEW = 0.01
# boxes of an image that are compared with the pixels of their segments
BOXES = 20


def look_at_maps(index: SemanticIndex, positions: Iterable[int]) -> list[str]:
    """What is odd in some label maps, a line each.

    Args:
        index: the label maps.
        positions: which of them are looked at.

    Raises:
        DataError: there is nothing to find in them, or their values are probably others than those of the classes.
    """
    pixels: Counter[int] = Counter()
    maps = 0
    for i in positions:
        try:
            values = index.values(i)
        except ImageError:
            # it is said, or stops the run, where the image is read
            continue
        # counting the values is ten times as fast as sorting them; all negative ones are counted as -1
        counts = np.bincount(values.reshape(-1).astype(np.int64).clip(min=-1) + 1)
        pixels.update({value - 1: int(counts[value]) for value in np.flatnonzero(counts).tolist()})
        maps += 1
    if not pixels:
        return []
    seen = sorted(pixels)
    labels = index.label_of(np.array(seen)).tolist()
    other = [value for value, label in zip(seen, labels) if label == VOID]
    present = sorted({label for label in labels if label != VOID})
    share = sum(pixels[value] for value in other) / sum(pixels.values())
    where = f"{maps} label maps" + (f" of {len(index)}" if maps < len(index) else "")
    _check_values(index, seen, other, present, share, where)
    return _lines(index, other, present, share, where)


def _check_values(
    index: SemanticIndex, seen: Sequence[int], other: Sequence[int], present: Sequence[int], share: float, where: str
) -> None:
    """Raises:
    DataError: see `look_at_maps`.
    """
    count = index.num_classes
    real = [value for value in seen if value != VOID]
    from_one = index.assumed and 0 not in real and count in real and max(real) == count
    alone = index.assumed and len(present) <= 1 and share >= FEW
    if present and not from_one and not alone:
        return
    start = f"{index.path}: {where} hold the {listed(seen)}, and the classes have {listed(index.category_ids, 'value')}"
    fault = f"{len(present)} of {count} classes occur{'s' if len(present) == 1 else ''}"
    fault = f"{fault}, and {share:.0%} of the pixels are no class"
    if from_one:
        remedy = f"if the maps count from 1, set data.values: {list(range(1, count + 1))}"
    elif count == 1 and present and len(other) == 1:
        remedy = f"if the value of {index.names[0]} is {other[0]}, set data.values: {list(other)}"
    elif len(seen) == count:
        remedy = f"set data.values: {list(seen)}, in the order of the classes"
    else:
        remedy = "list the value of each class under data.values"
    if index.assumed and present:
        remedy += f", or, if the other pixels are void, data.values: {index.category_ids}"
    raise DataError(f"{start}: {fault}; {remedy}")


def _lines(index: SemanticIndex, other: Sequence[int], present: Sequence[int], share: float, where: str) -> list[str]:
    lines = []
    count = index.num_classes
    if other:
        line = f"{share:.2%} of the pixels of {where} are no class ({listed(other)}): neither trained on nor scored"
        if index.assumed and 0 in present and other[0] == count:
            line += (
                f"; if the classes count from 1 and 0 is void, set data.values: {list(range(1, count + 1))}, and "
                f"if {count} is void, {index.category_ids}"
            )
        lines.append(line)
    absent = [name for label, name in enumerate(index.names) if label not in present]
    if absent:
        names = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        lines.append(f"{len(absent)} of {count} classes do not occur in {where}: {names}")
    if count == 1 or len(present) == 1:
        lines.append("a single class occurs, so every pixel that is scored is right, whatever a model finds")
    return lines


def look_at_segments(source: PanopticSource, positions: Iterable[int]) -> list[str]:
    """What is odd in some panoptic PNGs, a line each.

    Args:
        source: reads them.
        positions: which images are looked at.

    Raises:
        DataError: no segment has pixels.
    """
    images = segments = empty = unknown = lost = total = 0
    differ: list[bool] = []
    first = swapped = ""
    for i in positions:
        try:
            ids, known = source.ids(i), source.numbers(i)
        except DataError:
            # it is said, or stops the run, where the image is read
            continue
        found, counts = np.unique(ids, return_counts=True)
        stray = (found != 0) & ~np.isin(found, known)
        images, segments, total = images + 1, segments + len(known), total + ids.size
        differ += _boxes_differ(source, i, ids).tolist()
        empty += int((~np.isin(known, found)).sum())
        unknown, lost = unknown + int(stray.sum()), lost + int(counts[stray].sum())
        if stray.any() and not first:
            first = f"{found[stray][0]} in {source.index.png_name(i)}"
            turned = (found >> 16) + (found & 0xFF00) + ((found & 255) << 16)
            swapped = "; their channels seem to be in the order B, G, R" if np.isin(known, turned).all() else ""
    if segments and empty == segments:
        raise DataError(
            f"{source.index.path}: none of the {segments} segments of {images} images has a pixel in the PNGs in "
            f"{source.segments}, whose numbers are others (such as {first or 0}){swapped}; a number is R + 256 G + "
            "65536 B of the colour, or the value of a grey PNG"
        )
    lines = _say_boxes(source, differ)
    if empty:
        lines.append(f"{empty} of {segments} segments of {images} images have no pixel in the PNGs: they are left out")
    if unknown:
        lines.append(
            f"{unknown} numbers in the PNGs of {images} images are no segment of the JSON (such as {first}): these "
            f"{lost / total:.2%} of the pixels are void, neither trained on nor scored"
        )
    return lines


def _say_boxes(source: PanopticSource, differ: Sequence[bool]) -> list[str]:
    """Raises:
    DataError: most boxes differ.
    """
    off = f"{sum(differ)} of {len(differ)} boxes are not those of their segments' pixels"
    if sum(differ) > MOST * len(differ):
        remedy = 'correct them, or leave "bbox" out: boxes are then taken from the pixels'
        raise DataError(f"{source.index.path}: {off}; {remedy}")
    return [off] if any(differ) else []


def _boxes_differ(source: PanopticSource, i: int, ids: np.ndarray) -> np.ndarray:
    """Which boxes of segments with pixels, of those that the JSON has, are not around the pixels."""
    index, span = source.index, source.index.annotations(i)
    rows = span.start + np.flatnonzero((index.trainable & ~index.boxless)[span])[:BOXES]
    around = bounds(ids[None] == index.annotation_ids[rows, None, None]).astype(np.float64)
    around[:, 2:] -= around[:, :2]
    return disagree(index.boxes_xywh[rows], around)[(around[:, 2:] > 0).all(1)]


def listed(values: Sequence[int], what: str = "value") -> str:
    """Values in words.

    Example:
        >>> listed([1, 2, 3, 7]), listed([255])
        ('values 1 to 3 and 7', 'value 255')
    """
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    # a run of two is two values
    words = [
        word
        for low, high in runs
        for word in ([f"{low} to {high}"] if high > low + 1 else [str(value) for value in range(low, high + 1)])
    ]
    more = f" and {len(words) - 8} more" if len(words) > 8 else ""
    text = ", ".join(words[:8]) if more or len(words) < 2 else " and ".join([", ".join(words[:-1]), words[-1]])
    return f"{what}{'s' if len(values) != 1 else ''} {text}{more}"
