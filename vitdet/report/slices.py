"""AP of parts of the data: by the size and shape of objects, by how many are in an image, and by its source."""

from collections import Counter
from collections.abc import Iterator

import hotcoco
import numpy as np

from vitdet.pages.document import bars
from vitdet.report.album import Album
from vitdet.report.matches import Matches, ap_by_class
from vitdet.report.summary import title

# upper ends of the parts: the root of the area in pixels, width / height, and objects in an image
SIZES, ASPECTS, CROWDS = (16, 32, 96, 256), (0.5, 0.8, 1.25, 2), (2, 5, 10, 20, 50)
# so many sources are told apart
SOURCES = 20


def slices(matches: Matches, album: Album, masks: list[bytes] | None) -> Iterator[str]:
    """The section on parts of the data.

    Args:
        matches: what was found.
        album: the images.
        masks: the run lengths of all detections, if masks are matched.
    """
    yield title("parts", "AP by size, shape, crowding and source")
    yield "<p class=dim>The mean over the classes that occur in a part; those of two parts may differ.</p>"
    truth, boxes = matches.truth, matches.boxes_xywh
    area = boxes[:, 2] * boxes[:, 3] if masks is None else _areas(matches, masks)
    yield from _by("Size: root of the area in pixels", matches, SIZES, truth.area**0.5, np.maximum(area, 0) ** 0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        shapes = [part[:, 2] / part[:, 3] for part in (truth.boxes_xywh, boxes)]
    yield from _by("Shape: width / height of the box", matches, ASPECTS, *map(np.nan_to_num, shapes))
    crowd = np.bincount(truth.image[matches.objects], minlength=len(truth))
    yield from _by(
        "Crowding: objects in the image", matches, CROWDS, crowd[truth.image], crowd[matches.image], whole=True
    )
    yield from _sources(matches, album)


def _areas(matches: Matches, masks: list[bytes]) -> np.ndarray:
    sizes = matches.truth.sizes.tolist()
    codes = [{"size": sizes[i], "counts": masks[n]} for n, i in zip(matches.rows.tolist(), matches.image.tolist())]
    # that of pycocotools fails for more than 255 masks with NumPy 2
    return np.asarray(hotcoco.mask.area(codes), np.float64) if codes else np.zeros(0)


def _by(
    name: str, matches: Matches, ends: tuple[float, ...], objects: np.ndarray, found: np.ndarray, *, whole: bool = False
) -> Iterator[str]:
    """AP of the parts between the ends of a property of objects and detections; `whole` says that it is a count."""
    side = "left" if whole else "right"
    part, other = (np.searchsorted(ends, values, side=side) for values in (objects, found))
    rows = []
    for n in range(len(ends) + 1):
        count = int((matches.objects & (part == n)).sum())
        if count:
            value = _mean(ap_by_class(matches, objects=part == n, detections=other == n))
            rows.append((_range(ends, n, whole), value, f"{value:.3f} <small>{count:,} objects</small>"))
    if rows:
        yield f"<h3>{name}</h3>{bars(rows)}"


def _range(ends: tuple[float, ...], n: int, whole: bool) -> str:
    if not whole:
        return (
            f"below {ends[0]:g}"
            if n == 0
            else f"from {ends[-1]:g}"
            if n == len(ends)
            else f"{ends[n - 1]:g} to {ends[n]:g}"
        )
    low, high = (ends[n - 1] + 1 if n else 1), (ends[n] if n < len(ends) else None)
    return f"{low:g} and more" if high is None else f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0


def _sources(matches: Matches, album: Album) -> Iterator[str]:
    places = [album.position(number) for number in matches.truth.image_ids.tolist()]
    groups = album.groups()
    names = np.array([groups[place] for place in places])
    counts = Counter(names[matches.images].tolist())
    if len(counts) < 2:
        return
    rows = []
    for name, images in counts.most_common(SOURCES):
        inside = names == name
        some = int((matches.objects & inside[matches.truth.image]).sum())
        if some:
            value = _mean(ap_by_class(matches, objects=inside[matches.truth.image], detections=inside[matches.image]))
            rows.append((name, value, f"{value:.3f} <small>{images:,} images, {some:,} objects</small>"))
    more = f" (the {SOURCES} largest of {len(counts)})" if len(counts) > SOURCES else ""
    yield f"<h3>Source of the image{more}</h3>{bars(rows)}"
