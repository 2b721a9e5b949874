"""Which text file holds the labels of an image, in YOLO's formats."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

IMAGE_FOLDERS = ("images", "Images", "JPEGImages")
# the name of a folder of images, in which `train_images` becomes `train_labels`
IMAGES = re.compile(r"(?<![a-z])(images?|imgs?|JPEGImages)(?![a-z])", re.IGNORECASE)


def label_places(image: Path) -> Iterator[str]:
    """The label files that may belong to an image, as text, the likeliest first: in a folder `labels` beside `images`,
    beside the image, in a folder `labels` beside the image or its folder, and in `train_labels` or `annotations` beside
    `train_images` or `images`.

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
    words = folder.split("/")
    for i in reversed(range(len(words))):
        if IMAGES.search(words[i]):
            for labels in ("labels", "annotations"):
                yield "/".join([*words[:i], IMAGES.sub(labels, words[i]), *words[i + 1 :], name])
            break


class LabelFiles:
    """The text files of a data set, which are found by the names of its images, whatever their case.

    Args:
        files: all files of the data set.
    """

    def __init__(self, files: list[Path]) -> None:
        self.texts = {path.as_posix() for path in files if path.suffix.lower() == ".txt"}
        self.lower = {text.lower(): text for text in sorted(self.texts, reverse=True)}

    def of(self, image: Path) -> Iterator[str]:
        """Those that may belong to an image, the likeliest first."""
        for place in label_places(image):
            found = place if place in self.texts else self.lower.get(place.lower())
            if found is not None:
                yield found
