"""Finding the pairs of images and semantic label maps of a split."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vitdet.data.check.content import Content, Objects
from vitdet.data.check.finding import Example, Findings
from vitdet.data.names import by_stem


def read_pairs(
    images: Path,
    labels: Path,
    *,
    split: str,
    names: Sequence[str],
    values: Sequence[int] | None,
    suffixes: tuple[str | None, str | None],
    files: Path | None,
    findings: Findings,
) -> Content | None:
    """The images of a split with their label maps, which are not read yet; `None` if there is no pair.

    Args:
        images, labels: the folder of the images, and that of the label maps.
        split: the name of the split.
        names, values: the classes, and their pixel values.
        files: a text file that names the pairs to take; by default all are.
        suffixes: what follows the common part of the names of an image and its map.
        findings: where files without a partner go.
    """
    try:
        photos, maps = (by_stem(folder, suffix) for folder, suffix in zip((images, labels), suffixes))
        if files is not None:
            wanted = set(files.read_text(encoding="utf-8").splitlines())
            photos, maps = ({k: v for k, v in names.items() if k in wanted} for names in (photos, maps))
    except (OSError, ValueError) as error:
        findings.note("labels-unreadable", split, [Example(str(error))])
        return None
    alone = [Example(name, images / name) for stem, name in photos.items() if stem not in maps]
    findings.note("image-without-map", split, alone, of=len(photos))
    findings.note(
        "map-alone", split, [Example(name) for stem, name in maps.items() if stem not in photos], of=len(maps)
    )
    common = sorted(photos.keys() & maps.keys())
    if not common:
        found = f"{len(photos)} images in {images}, {len(maps)} label maps in {labels}, none of one name"
        findings.note("split-empty", split, [Example(found)])
        return None
    shown = [photos[stem] for stem in common]
    widths, heights = np.zeros((2, len(common)), np.int64)
    ids = list(range(len(names)) if values is None else values)
    paths: list[Path | None] = [images / name for name in shown]
    content = Content(split, "semantic", images, shown, paths, widths, heights, list(names), ids, no_objects())
    content.maps = [labels / maps[stem] for stem in common]
    return content


def no_objects() -> Objects:
    """The objects of label maps that are not read yet."""
    none = np.zeros(0, np.int64)
    return Objects(none, none, none, np.zeros((0, 4)), np.zeros(0), none.astype(bool), none, np.zeros((0, 2), np.int64))
