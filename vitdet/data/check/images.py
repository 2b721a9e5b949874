"""Findings about image files: missing, damaged, of another size, unlisted, alike, or in two splits."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from vitdet.data.check.content import Content
from vitdet.data.check.files import Facts
from vitdet.data.check.finding import Example, Findings
from vitdet.data.names import difference, nearest

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
# two pictures are alike if so many of the 64 bits of their hashes differ at most, and their grey values by so much
BITS, GREY = 6, 4.0


def check_files(content: Content, contents: Sequence[Content], findings: Findings) -> None:
    """Findings about files that are missing, damaged or unusual.

    Args:
        content: the split.
        contents: all splits, whose images may lie in the same folder.
        findings: where they go.
    """
    split = content.split
    leaving = [content.image_example(i) for i, path in enumerate(content.paths) if path is None]
    findings.note("image-outside-folder", split, leaving)
    by_code: dict[str, list[Example]] = defaultdict(list)
    for i, facts in enumerate(content.facts):
        if content.paths[i] is None:
            continue
        if facts.problem == "image-missing":
            meant = nearest(content.root, content.names[i])
            # a name that is only spelt alike is often that of another image
            same = meant is not None and "spelling" not in difference(content.names[i], meant)
            hint = f"; there is {meant}" if same else ""
            by_code[facts.problem].append(Example(content.names[i] + hint))
        elif facts.problem:
            by_code[facts.problem].append(Example(f"{content.names[i]}: {facts.why}"))
        for code in facts.odd:
            by_code[code].append(content.image_example(i))
    for code, places in by_code.items():
        findings.note(code, split, places, of=len(content))
    if content.kind != "semantic":
        known = {os.path.normpath(path) for other in contents for path in other.paths if path is not None}
        extra = [name for name in image_files(content.root) if os.path.normpath(content.root / name) not in known]
        findings.note("image-unlisted", split, [Example(name, content.root / name) for name in extra])


def image_files(root: Path) -> list[str]:
    """The names of all image files below a folder, relative to it."""
    found = []
    for folder, folders, names in os.walk(root):
        folders.sort()
        paths = (os.path.join(folder, name) for name in sorted(names) if name.lower().endswith(SUFFIXES))
        found += [os.path.relpath(path, root).replace(os.sep, "/") for path in paths]
    return found


def check_sizes(content: Content, findings: Findings) -> None:
    """Findings about sizes that the annotations give, and EXIF tags."""
    by_code: dict[str, list[Example]] = defaultdict(list)
    for i, facts in enumerate(content.facts):
        said, shown = (int(content.widths[i]), int(content.heights[i])), content.file_size(i)
        if code := size_code(said, facts, exif=content.exif):
            more = f"EXIF orientation {facts.orientation}"
            if not facts.width:
                more = ""
            elif code != "exif-unsure":
                more = f"the file is {_by(shown)}, the annotations say {_by(said) if all(said) else 'nothing'}"
            by_code[code].append(content.image_example(i, more))
        if facts.width and min(shown) * 4 < max(shown):
            by_code["image-elongated"].append(content.image_example(i, _by(shown)))
    if content.kind == "semantic":
        # the size of an image with a label map is said by that map, if it can be read
        by_code.pop("size-missing", None)
        by_code["map-size"] = by_code.pop("size-differs", []) + by_code.pop("size-swapped", [])
    for code, places in by_code.items():
        findings.note(code, content.split, places, of=len(content))


def size_code(said: tuple[int, int], facts: Facts, *, exif: bool) -> str:
    """The code for the size that the annotations give of an image, or an empty one.

    Args:
        said: the width and height in the annotations, 0 where they have none.
        facts: the file.
        exif: whether the image is turned upright by its EXIF tag.
    """
    stored, upright = (facts.width, facts.height), facts.upright
    shown = upright if exif else stored
    if not all(said):
        return "size-missing"
    if not facts.width or said == shown:
        return "exif-unsure" if facts.orientation in (2, 3, 4) else ""
    if stored != upright and said in (stored, upright):
        return "size-exif" if exif else "size-upright"
    return "size-swapped" if said == shown[::-1] else "size-differs"


def _by(size: Iterable[int]) -> str:
    return "×".join(map(str, size))


class _Seen:
    """An image of a split, with what it is compared by."""

    def __init__(self, content: Content, i: int, path: Path) -> None:
        # several sources of a split, such as `train 1`, are one split
        self.split = content.split.split()[0]
        self.name, self.path, self.facts = content.names[i], path, content.facts[i]
        self.place = os.path.realpath(path)


def check_copies(contents: Sequence[Content], findings: Findings) -> None:
    """Findings about images that are equal or look alike, within a split and between splits."""
    seen = [
        _Seen(content, i, path)
        for content in contents
        for i, (path, facts) in enumerate(zip(content.paths, content.facts))
        if facts.digest and path is not None
    ]
    first: dict[tuple[str, bytes], _Seen] = {}
    copies: dict[str, list[Example]] = defaultdict(list)
    leaks: dict[str, list[Example]] = defaultdict(list)
    kept = []
    for image in seen:
        before = [first[key] for split in _splits(contents) if (key := (split, image.facts.digest)) in first]
        same = next((other for other in before if other.split == image.split), None)
        if same is None:
            first[image.split, image.facts.digest] = image
            kept.append(image)
        elif same.place != image.place:
            copies[image.split].append(Example(f"{image.name} is {same.name}", image.path))
        for other in before:
            if other.split != image.split:
                leaks[f"{other.split}, {image.split}"].append(
                    Example(f"{image.name} is {other.name} of {other.split}", image.path)
                )
    for split, places in copies.items():
        findings.note("image-duplicate", split, places, of=_count(contents, split))
    for pair, places in leaks.items():
        findings.note("leak", pair, places, of=_count(contents, pair.split(", ")[1]))
    _check_alike(kept, findings)


def _splits(contents: Sequence[Content]) -> list[str]:
    return list(dict.fromkeys(content.split.split()[0] for content in contents))


def _count(contents: Sequence[Content], split: str) -> int:
    return sum(len(content) for content in contents if content.split.split()[0] == split)


def _check_alike(seen: list[_Seen], findings: Findings) -> None:
    shown = [(image, grey) for image in seen if (grey := image.facts.grey) is not None]
    images = [image for image, _ in shown]
    grey = np.stack([picture for _, picture in shown]) if shown else np.zeros((0, 32, 32), np.uint8)
    within: dict[str, dict[int, Example]] = defaultdict(dict)
    between: dict[str, dict[int, Example]] = defaultdict(dict)
    for a, b in alike(grey):
        first, second = images[a], images[b]
        if first.facts.digest == second.facts.digest:
            continue
        if first.split == second.split:
            within[first.split].setdefault(b, Example(f"{second.name} looks like {first.name}", second.path))
        else:
            text = f"{second.name} looks like {first.name} of {first.split}"
            between[f"{first.split}, {second.split}"].setdefault(b, Example(text, second.path))
    for code, found in (("image-near-duplicate", within), ("leak-near", between)):
        for split, places in found.items():
            findings.note(code, split, places.values())


def alike(grey: np.ndarray) -> list[tuple[int, int]]:
    """The pairs of pictures that look alike, the earlier one first.

    Each is hashed to 64 bits: whether a cell of an 8×8 grid is brighter than the next (a difference hash). Hashes that
    differ in at most `BITS` bits share at least one of `BITS + 1` parts, so that only few pairs have to be compared.

    Args:
        grey: `(N, SIDE, SIDE)` uint8.
    """
    if len(grey) < 2:
        return []
    values = grey.astype(np.float32)
    # (N, 32, 32) -> (N, 8, 8): the mean of each cell, then with the first column repeated behind the last
    cells = values.reshape(len(grey), 8, 4, 8, 4).mean((2, 4))
    bits = (np.roll(cells, -1, 2) > cells).reshape(len(grey), 64)
    pairs = set()
    for part in np.array_split(np.arange(64), BITS + 1):
        keys = bits[:, part] @ (1 << np.arange(len(part)))
        order = np.argsort(keys, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
            # flat pictures, whose hashes say nothing, would make a group of all
            for k, a in enumerate(group[:-1]):
                near = group[k + 1 :][(bits[group[k + 1 :]] != bits[a]).sum(1) <= BITS]
                difference = np.abs(values[near] - values[a]).mean((1, 2))
                pairs.update((min(a, b), max(a, b)) for b in near[difference <= GREY].tolist())
    return sorted((int(a), int(b)) for a, b in pairs)
