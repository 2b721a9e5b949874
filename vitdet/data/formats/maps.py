"""What the pixels of label maps stand for: values or colours, and which classes have which."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitdet.data.formats.classes import ClassList, Colour
from vitdet.data.formats.tree import Tree
from vitdet.errors import DataError
from vitdet.images import load_values
from vitdet.masks import VOID

# so many maps are looked at to learn their values, of all where they have no list of classes
SAMPLE = 64
NOTHING = re.compile(r"^_?(background|void|unlabell?ed|ignored?|other|none|bg)_?$", re.IGNORECASE)


@dataclass(frozen=True)
class Map:
    """A label map: its path in the tree, and its name in the folder of the maps."""

    path: str
    name: str


@dataclass
class Rule:
    """What pixels stand for.

    Args:
        names, values: the classes and their pixel values, in the maps or in what they are converted to.
        colours: the colour of each class, where maps are pictures; a pixel of another colour is void.
        grey: whether maps are pictures whose three channels are the same value.
        lines: what was odd.
    """

    names: list[str]
    values: list[int] | None
    colours: list[Colour] | None = None
    grey: bool = False
    lines: list[str] = field(default_factory=list)

    @property
    def converts(self) -> bool:
        return self.colours is not None or self.grey

    @property
    def plain(self) -> list[Any]:
        return [self.colours, self.grey]

    def files(self, tree: Tree, maps: Mapping[str, list[Map]]) -> list[Path]:
        return [tree.path(label_map.path) for some in maps.values() for label_map in some]

    def write(self, tree: Tree, maps: Mapping[str, list[Map]], folder: Path) -> list[str]:
        """Writes the maps as values; returns a line about pixels whose colour is no class's."""
        jobs = [
            (tree.path(label_map.path), folder / split / f"{label_map.name.rpartition('.')[0]}.png")
            for split, some in maps.items()
            for label_map in some
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            counts = sum(pool.map(lambda job: self._convert(*job), jobs), Counter())
        if not counts:
            return []
        colour, number = counts.most_common(1)[0]
        shown = tuple(int(part) for part in (colour >> 16, colour >> 8 & 255, colour & 255))
        return [f"{sum(counts.values())} pixels have a colour that is no class's, most of them {shown}: they are void"]

    def _convert(self, source: Path, goal: Path) -> Counter:
        values, unknown = load_values(source, colours=self.colours is not None), Counter()
        if values.ndim == 2:
            raise DataError(f"{source} has one value a pixel, where other maps beside it are colours; make them alike")
        if self.grey or self.colours is None:
            if (values != values[..., :1]).any():
                raise DataError(f"{source} has colours, where other maps beside it are grey; make them alike")
            found = np.ascontiguousarray(values[..., 0])
        else:
            found, unknown = labels_of(values, self.colours)
        goal.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(found).save(goal)
        return unknown


def labels_of(picture: np.ndarray, colours: list[Colour]) -> tuple[np.ndarray, Counter]:
    """The position of each pixel's colour in a list, `VOID` for all others; and how often each other colour occurs."""
    wanted = np.array([_number(colour) for colour in colours])
    order = np.argsort(wanted)
    numbers, inverse = np.unique(_numbers(picture), return_inverse=True)
    place = order[np.searchsorted(wanted, numbers, sorter=order).clip(max=len(wanted) - 1)]
    label = np.where(wanted[place] == numbers, place, VOID).astype(np.uint8)
    counts = np.bincount(inverse.reshape(-1), minlength=len(numbers))
    unknown = Counter({int(n): int(c) for n, c, label_ in zip(numbers, counts, label) if label_ == VOID})
    return label[inverse].reshape(picture.shape[:2]), unknown


def _number(colour: Colour) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _numbers(picture: np.ndarray) -> np.ndarray:
    red, green, blue = (picture[..., i].astype(np.int32) for i in range(3))  # (H, W) each
    return red << 16 | green << 8 | blue


def values_of(tree: Tree, maps: Mapping[str, list[Map]], classes: ClassList | None) -> Rule:
    """What the pixels of the maps stand for.

    Raises:
        DataError: nothing tells.
    """
    paths = [tree.path(label_map.path) for some in maps.values() for label_map in some]
    looked = paths if classes is None else paths[:: max(1, len(paths) // SAMPLE)]
    pictures, grey, seen = False, True, Counter()
    only_colours = classes is not None and classes.values is None and classes.colours is not None
    for path in looked:
        # a palette is for looking at, unless the colours alone tell the classes
        picture = load_values(path, colours=only_colours)
        pictures |= picture.ndim == 3
        if picture.ndim == 3:
            grey = grey and not (picture != picture[..., :1]).any()
            picture = picture[..., 0]
        seen.update(np.unique(picture).tolist())
    if pictures and not grey:
        if classes is None or classes.colours is None:
            where = f"{classes.path} has none" if classes else "there is no list of them"
            raise DataError(
                f"its label maps ({looked[0]}) are colours, and {where}; write {tree.root / 'class_dict.csv'} with the "
                "lines name,r,g,b and CLASS,128,0,0"
            )
        return Rule(classes.names, None, classes.colours)
    rule = _unnamed(sorted(seen)) if classes is None else _named(classes, seen, len(looked))
    rule.grey = pictures
    return rule


def _unnamed(seen: list[int]) -> Rule:
    """Classes that are called by their values, where no file names them."""
    values = seen if seen == [0, 255] else [value for value in seen if value != 255]
    names = ["background", "foreground"] if len(values) == 2 and values[0] == 0 else [f"value {v}" for v in values]
    if not values:
        raise DataError("its label maps have no value but 255, which is void; are they the right ones?")
    void = "" if 255 in values or 255 not in seen else ", 255 is void"
    line = f"there is no list of classes, so they are called by their pixel values{void}"
    return Rule(names, values, lines=[f"{line}; --data.classes [NAME, …] names them"])


def _named(classes: ClassList, seen: Counter, looked: int, said: Sequence[str] = ()) -> Rule:
    """Which values the classes of a list have, by the values that occur."""
    count, lines = len(classes.names), [*(said or [f"classes are those of {classes.path}"])]
    if classes.values is not None:
        values = classes.values
    elif count == 1 and 0 in seen and (above := [value for value in (1, 255) if value in seen]):
        # a class alone would be found everywhere
        lines.append(f"pixel value 0 is a class, too, called background; {above[0]} is {classes.names[0]}")
        return _named(ClassList(classes.path, ["background", *classes.names], [0, above[0]]), seen, looked, lines)
    elif count == 2 and set(seen) <= {0, 255} and 255 in seen:
        values = [0, 255]
    elif count not in seen or NOTHING.match(classes.names[0]):
        values = list(range(count))
    elif 0 not in seen:
        values = list(range(1, count + 1))
        lines.append(f"pixel values count from 1: {values[0]} is {classes.names[0]}")
    else:
        raise DataError(
            f"{classes.path} lists {count} classes, but pixels have the values 0 to {count}; which are "
            f"they: --data.values {list(range(1, count + 1))} where 0 is void, or {list(range(count))} where {count} is"
        )
    other = {value: number for value, number in sorted(seen.items()) if value not in values}
    if len(other) == len(seen):
        raise DataError(
            f"no pixel of its label maps has a value of a class of {classes.path}: they have {sorted(seen)[:10]}, "
            f"the classes {values[:10]}; give --data.values"
        )
    if other:
        shown = ", ".join(map(str, list(other)[:8])) + (", …" if len(other) > 8 else "")
        lines.append(
            f"pixel values that are no class are void: {shown} (in up to {max(other.values())} of {looked} maps)"
        )
    return Rule(classes.names, values, lines=lines)
