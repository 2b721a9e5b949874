"""Where the images, the label files and the class names of a data set in YOLO's formats are."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vitdet.data.formats.files import Finder, files_under, images_of, read_text, split_of, split_of_name
from vitdet.errors import DataError

# files with a class name in each line, the most telling first; `_darknet.labels` is Roboflow's
NAME_FILES = (
    "obj.names",
    "_darknet.labels",
    "classes.txt",
    "classes.names",
    "names.txt",
    "labels.txt",
    "class_names.txt",
)
# text files that are no labels
OTHER_TEXTS = {*NAME_FILES, "train.txt", "val.txt", "valid.txt", "test.txt", "trainval.txt", "predefined_classes.txt"}
IMAGE_FOLDERS = ("images", "Images", "JPEGImages")


@dataclass
class Layout:
    """The parts of a data set in YOLO's formats.

    Args:
        names: the name of each class id; None if no file has them.
        splits: the images of each split.
        keypoints: how many numbers follow the box in the rows of a data set for poses.
        sources: the files that say all this.
        lines: what was odd.
    """

    names: dict[int, str] | None = None
    splits: dict[str, list[Path]] = field(default_factory=dict)
    keypoints: int = 0
    sources: list[Path] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def label_places(image: Path) -> Iterator[str]:
    """The label files that may belong to an image, as text, the likeliest first: in a folder `labels` beside `images`,
    beside the image, and in a folder `labels` beside the image or its folder.

    Example:
        >>> list(label_places(Path("a/images/train/x.jpg")))[:2]
        ['a/labels/train/x.txt', 'a/images/train/x.txt']
    """
    text = os.path.splitext(image.as_posix())[0] + ".txt"
    folder, _, name = text.rpartition("/")
    for images in IMAGE_FOLDERS:
        before, found, after = f"/{text}".rpartition(f"/{images}/")
        if found:
            yield f"{before}/labels/{after}"[1:]
    yield text
    yield f"{folder}/labels/{name}"
    yield f"{folder.rpartition('/')[0]}/labels/{name}"


def find(folder: Path, files: list[Path]) -> Layout | None:
    """The layout of a folder with these files, or None if it is not in one of YOLO's formats.

    Raises:
        DataError: it is, but its lists of classes or images can't be used.
    """
    texts = {path.as_posix() for path in files if path.suffix.lower() == ".txt"}
    described = _described(folder, files)
    if described is None and not _has_labels(files, texts):
        return None
    layout = Layout() if described is None else described
    if layout.names is None:
        layout.names = _names(folder, files, layout)
    if not layout.splits:
        _lists(folder, files, layout)
    if not layout.splits:
        images = images_of(files)
        for image in images:
            layout.splits.setdefault(split_of(image, folder) or "all", []).append(image)
        stray = layout.splits.pop("all") if len(layout.splits) > 1 and "all" in layout.splits else []
        if stray:
            layout.lines.append(f"images in no folder of a split, left out: {len(stray)} (first: {stray[0]})")
    return layout if layout.splits else None


def _has_labels(files: list[Path], texts: set[str]) -> bool:
    """Whether the first label files with content hold rows of numbers."""
    looked = 0
    for image in images_of(files):
        for place in label_places(image):
            if place not in texts or os.path.basename(place) in OTHER_TEXTS:
                continue
            words = read_text(Path(place)).split("\n", 1)[0].replace(",", " ").split()
            if words:
                return len(words) >= 5 and all(map(_is_number, words))
            looked += 1
        if looked > 200:
            break
    return False


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


# what a data.yaml says


def _described(folder: Path, files: list[Path]) -> Layout | None:
    found = {path: content for path in files if path.parent == folder and (content := _description(path))}
    if not found:
        return None
    best = [path for name in ("data", "dataset") for path in found if path.stem == name] or list(found)
    if len(best) > 1 and best[0].stem not in ("data", "dataset"):
        names = ", ".join(path.name for path in best)
        raise DataError(f"{folder} has several descriptions of a YOLO data set: {names}; name the right one data.yaml")
    path, content = best[0], found[best[0]]
    names = _yaml_names(path, content)
    layout = Layout(names=names, keypoints=_keypoints(path, content), sources=[path])
    if names is not None:
        layout.lines += _odd_names(path, names, content.get("nc"))
    finder = Finder(_bases(folder, content.get("path")), folder)
    for key in ("train", "val", "valid", "validation", "test"):
        entries = content.get(key)
        entries = [entries] if isinstance(entries, str) else entries
        if not entries:
            continue
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise DataError(
                f"{path}: {key} is {str(entries)[:60]!r}; wanted a folder, a list of images, or a list of these"
            )
        images = [image for entry in entries for image in _entry(path, key, entry, finder, layout)]
        if images:
            layout.splits[split_of_name(key) or key] = images
    train = set(layout.splits.get("train", ()))
    for split in ("val", "test"):
        if shared := len(train.intersection(layout.splits.get(split, ()))):
            layout.lines.append(f"{path.name}: {shared} images are in train and in {split}, whose scores will flatter")
    keys = [key for key in content if split_of_name(key) and content[key]]
    if keys and not layout.splits:
        raise DataError(f"{path}: nothing of what it names has images: {'; '.join(layout.lines)}")
    return layout


def _bases(folder: Path, path: Any) -> list[Path]:
    """What the paths of a data.yaml are relative to: its `path`, but first the folder itself, if that lies outside."""
    given = [folder / path] if isinstance(path, str) and path and "\0" not in path else []
    inside = [place for place in given if place.resolve().is_relative_to(folder.resolve())]
    return [*inside, folder, *(place for place in given if place not in inside)]


def _description(path: Path) -> dict[str, Any] | None:
    """The content of a YAML file, all values as text (`no` is a class, and no `false`), if it describes a data set."""
    if path.suffix.lower() not in (".yaml", ".yml"):
        return None
    try:
        content = yaml.load(read_text(path), yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if path.stem not in ("data", "dataset"):
            return None
        raise DataError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    about = isinstance(content, dict) and ("names" in content or "nc" in content) and "data" not in content
    return content if about else None


def _yaml_names(path: Path, content: dict[str, Any]) -> dict[int, str] | None:
    names, count = content.get("names"), content.get("nc")
    if names is None:
        if not str(count).isdecimal():
            raise DataError(f"{path}: nc is {count!r}; wanted the number of classes")
        return None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError(f"{path}: names is {str(names)[:60]!r}; wanted a list of names, or a mapping from class ids")
    for key, name in names.items():
        if not str(key).isdecimal() or not isinstance(name, str):
            raise DataError(f"{path}: names has {str(key)[:40]!r}: {str(name)[:40]!r}; wanted class ids with names")
    return {int(key): name for key, name in names.items()}


def _odd_names(path: Path, names: dict[int, str], count: Any) -> Iterator[str]:
    if count is not None and str(count).strip() != str(len(names)):
        yield f"{path.name}: nc is {str(count)[:20]}, but there are {len(names)} names, which are taken"
    twice = [name for name, number in Counter(names.values()).items() if number > 1]
    if twice:
        yield f"{path.name}: classes of the same name become one: {', '.join(twice)}"


def _keypoints(path: Path, content: dict[str, Any]) -> int:
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(str(side).isdecimal() for side in shape):
        raise DataError(f"{path}: kpt_shape is {str(shape)[:40]!r}; wanted two whole numbers")
    return int(shape[0]) * int(shape[1])


def _entry(path: Path, key: str, entry: str, finder: Finder, layout: Layout) -> list[Path]:
    """The images of a folder or a list that a data.yaml names."""
    place = finder(entry)
    if place is None:
        layout.lines.append(f"{path.name}: {key} names {entry}, which does not exist: left out")
        return []
    if place.is_dir():
        return images_of(files_under(place))
    return listed(place, finder, layout)


def listed(path: Path, finder: Finder, layout: Layout) -> list[Path]:
    """The images that the lines of a text file name."""
    layout.sources.append(path)
    found: dict[Path, None] = {}
    missing, first, twice = 0, "", 0
    for line in filter(None, map(str.strip, read_text(path).splitlines())):
        image = finder(line)
        if image is None or not image.is_file():
            missing, first = missing + 1, first or line
        else:
            twice += image in found
            found[image] = None
    if missing:
        layout.lines.append(f"images in {path.name} that do not exist, left out: {missing} (first: {first})")
    if twice:
        layout.lines.append(f"images in {path.name} more than once, taken once: {twice}")
    return list(found)


# without a data.yaml


def _names(folder: Path, files: list[Path], layout: Layout) -> dict[int, str] | None:
    """The class names from a file with a name in each line."""
    by_name: dict[str, list[Path]] = {}
    for path in files:
        by_name.setdefault(path.name, []).append(path)
    described = [path for path in by_name.get("obj.data", ()) if path.parent == folder]
    named = _data_file(described[0]).get("names") if described else None
    place = Finder([folder], folder)(named) if named else None
    candidates = [[place]] if place else [by_name[name] for name in NAME_FILES if name in by_name]
    for paths in candidates:
        texts = {path: [line.strip() for line in read_text(path).splitlines()] for path in paths}
        first, *others = paths
        wrong = next((path for path in others if texts[path] != texts[first]), None)
        if wrong:
            raise DataError(f"{first} and {wrong} name different classes; leave one of them, or write a data.yaml")
        names = {number: name for number, name in enumerate(texts[first]) if name}
        if names:
            layout.sources.append(first)
            return names
    return None


def _data_file(path: Path) -> dict[str, str]:
    """The keys of Darknet's description, `key = value` in each line."""
    pairs = (line.partition("=") for line in read_text(path).splitlines())
    return {key.strip(): value.strip() for key, found, value in pairs if found}


def _lists(folder: Path, files: list[Path], layout: Layout) -> None:
    """The splits from Darknet's description, or from train.txt and its like in the folder."""
    here = {path.name: path for path in files if path.parent == folder}
    finder = Finder([folder], folder)
    lists: dict[str, Path | None] = {}
    if "obj.data" in here:
        layout.sources.append(here["obj.data"])
        lists = {key: finder(value) for key, value in _data_file(here["obj.data"]).items() if split_of_name(key)}
    if not any(lists.values()):
        lists = {name: path for name, path in here.items() if path.suffix == ".txt" and split_of_name(path.stem)}
    for key, path in lists.items():
        images = listed(path, finder, layout) if path is not None and path.is_file() else []
        split = split_of_name(key.removesuffix(".txt"))
        if images and split:
            layout.splits[split] = images
