"""Findings about label maps and the PNGs of panoptic segments."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from vitdet.data.check.content import NO_CLASS, Content, Objects
from vitdet.data.check.finding import Example, Findings
from vitdet.data.check.maps import Map
from vitdet.masks import VOID


def check_maps(content: Content, maps: Sequence[Map], findings: Findings) -> list[Map]:
    """Findings about maps that can't be read, or are of another size than their image; without those, the maps."""
    usable = list(maps)
    by_code: dict[str, list[Example]] = defaultdict(list)
    for i, found in enumerate(maps):
        path = content.maps[i]
        name = content.names[i] if path is None else path.name
        if found.code:
            by_code[found.code].append(Example(f"{name}: {found.why}", content.paths[i]))
        elif (
            path is not None and content.kind == "panoptic" and content.facts[i].width and found.size != content.size(i)
        ):
            (w, h), (width, height) = found.size, content.size(i)
            by_code["map-size"].append(Example(f"{name}: {w}×{h}, its image {width}×{height}", content.paths[i]))
            usable[i] = Map("map-size")
    for code, places in by_code.items():
        findings.note(code, content.split, places, of=len(content))
    return usable


def check_segments(content: Content, maps: Sequence[Map], findings: Findings) -> None:
    """Findings about segments without pixels, and pixels without a segment; boxes of the pixels are kept."""
    objects, split = content.objects, content.split
    place = {(i, number): row for row, (i, number) in enumerate(zip(objects.image.tolist(), objects.ids.tolist()))}
    seen, unlisted, swapped = set(), [], []
    for i, found in enumerate(maps):
        extra = []
        for region in found.regions:
            row = place.get((i, region.value))
            if row is not None:
                seen.add(row)
                objects.masks_xywh[row] = region.box_xywh
                objects.area[row] = region.area
            elif region.value:
                extra.append(region)
        if extra and all((i, _swapped(region.value)) in place for region in extra):
            swapped.append(content.image_example(i))
            maps = [Map("segment-swapped") if k == i else other for k, other in enumerate(maps)]
        elif extra:
            ids = ", ".join(str(region.value) for region in extra[:4]) + (" …" if extra[4:] else "")
            text = f"{content.names[i]}: {sum(region.area for region in extra):,} pixels of {ids}"
            values = tuple(region.value for region in extra)
            unlisted.append(Example(text, content.paths[i], map=content.maps[i], values=values, colours=True))
    read = {i for i, found in enumerate(maps) if found.regions}
    missing = [row for (i, _), row in place.items() if i in read and row not in seen]
    findings.note("segment-swapped", split, swapped, of=len(content))
    findings.note("segment-empty", split, [content.object_example(row) for row in missing], of=len(objects))
    findings.note("segment-unlisted", split, unlisted, of=len(content))
    # a box that is missing, or has no size, is taken from the pixels
    without = ~(objects.boxes_xywh[:, 2:] > 0).all(1) & ~np.isnan(objects.masks_xywh[:, 0])
    findings.note(
        "box-missing",
        split,
        [content.object_example(row) for row in np.flatnonzero(without)[:200].tolist()],
        count=int(without.sum()),
    )
    objects.boxes_xywh[without] = objects.masks_xywh[without]


def _swapped(number: int) -> int:
    """The number that a colour would stand for, if its red and blue were swapped."""
    return (number & 0xFF00) | (number >> 16 & 0xFF) | (number & 0xFF) << 16


def objects_of_maps(content: Content, maps: Sequence[Map]) -> Objects:
    """The values that each label map holds as objects, one for each image and value."""
    rows = [(i, r.value, r.area, *r.box_xywh) for i, found in enumerate(maps) for r in found.regions]
    columns = np.array(rows, np.float64).reshape(-1, 7).T
    image, values = columns[0].astype(np.int64), columns[1].astype(np.int64)
    label_of = {value: label for label, value in enumerate(content.class_ids)}
    label = np.array([label_of.get(value, NO_CLASS) for value in values.tolist()], np.int64)
    none = np.zeros((len(rows), 2), np.int64)
    crowd = np.zeros(len(rows), bool)
    return Objects(image, label, values, columns[3:].T.copy(), columns[2], crowd, values, none)


def check_values(contents: Sequence[Content], findings: Findings) -> bool:
    """Findings about values of label maps that are no class, judged over all splits.

    Returns:
        Whether the values mean the classes that the data are said to have.
    """
    files, maps, seen = Counter[int](), 0, set[int]()
    for content in contents:
        files.update(content.objects.raw_label.tolist())
        maps += len(set(content.objects.image.tolist()))
    seen = set(files)
    meant = True
    for content in contents:
        known = content.class_ids
        # such values say nothing more once the whole split is explained
        if code := values_code(seen, known):
            held = f"the values are {', '.join(map(str, sorted(seen)[:12]))}{' …' if len(seen) > 12 else ''}"
            few = [content.image_example(i) for i in range(min(len(content), 3))]
            findings.note(code, content.split, few, count=1, detail=held)
            meant = False
            continue
        _check_strays(content, files, maps, findings)
        valued = np.isin(content.objects.raw_label, known)
        none = sorted(set(content.objects.image.tolist()) - set(content.objects.image[valued].tolist()))
        findings.note("map-empty", content.split, [content.image_example(i) for i in none], of=len(content))
    return meant


def values_code(seen: set[int], known: Sequence[int]) -> str:
    """The code for what all values of a data set together look like, or an empty one.

    Args:
        seen: the values that occur.
        known: the values of the classes.
    """
    count = len(known)
    strange = seen - set(known)
    if count > 1 and 255 in strange and seen <= {0, 255}:
        return "map-0-255"
    # as many values as classes, of which all but the first are far from any number of a class
    if 1 < len(seen) <= count and len(strange) == len(seen - {0}) and min(strange) >= max(20, 2 * max(known)):
        return "map-0-255"
    plain = list(known) == list(range(count))
    if plain and count > 1 and 0 not in seen and count in seen and seen <= {*range(1, count + 1), VOID}:
        return "map-one-based"
    return ""


def _check_strays(content: Content, files: Counter[int], maps: int, findings: Findings) -> None:
    objects = content.objects
    total = objects.area.sum()
    # the values of a blurred map mean nothing
    judged = ~np.isin(objects.image, _check_blurred(content, findings))
    by_code: dict[str, list[tuple[int, np.ndarray]]] = defaultdict(list)
    for value in np.unique(objects.raw_label[judged & (objects.label == NO_CLASS)]).tolist():
        # what is meant to be left out occurs in many files, or has the usual number
        usual = value == VOID or files[value] > 0.3 * maps
        by_code["map-void" if usual else "map-value"].append(
            (value, np.flatnonzero(judged & (objects.raw_label == value)))
        )
    for code, found in by_code.items():
        rows = np.concatenate([rows for _, rows in found])
        shares = [f"{value} in {objects.area[rows].sum() / total:.2%} of the pixels" for value, rows in found]
        few = [content.object_example(row) for row in rows[:200].tolist()]
        count = len(set(objects.image[rows].tolist()))
        findings.note(code, content.split, few, count=count, of=len(content), detail=", ".join(shares[:6]))


def _check_blurred(content: Content, findings: Findings) -> np.ndarray:
    """Findings about maps with many values that are no class in few pixels, and the positions of these maps."""
    objects = content.objects
    strange = (objects.label == NO_CLASS) & (objects.raw_label != VOID)
    values = np.bincount(objects.image[strange], minlength=len(content))
    pixels = np.bincount(objects.image, objects.area, minlength=len(content))
    share = np.bincount(objects.image[strange], objects.area[strange], len(content)) / np.maximum(pixels, 1)
    maps = np.flatnonzero((values > max(20, len(content.classes))) & (share < 0.5))
    few = [content.image_example(i, f"{values[i]} values in {share[i]:.1%} of the pixels") for i in maps.tolist()]
    findings.note("map-blurred", content.split, few, of=len(content))
    return maps
