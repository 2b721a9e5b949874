"""Checking a data set: reading it in threads, then all findings."""

import os
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitdet.data.check import boxes, classes, images, labels
from vitdet.data.check.coco import read_coco
from vitdet.data.check.content import Content, Kind
from vitdet.data.check.files import Facts, read_facts
from vitdet.data.check.finding import Findings
from vitdet.data.check.maps import Map, read_map
from vitdet.data.check.masks import Mask, read_masks
from vitdet.data.check.pairs import read_pairs
from vitdet.data.check.report import Report
from vitdet.data.check.statistics import numbers

# how many images a thread reads before it reports
AT_ONCE = 16


def native(height: int, width: int) -> tuple[int, int]:
    """The size of an image that is not resized."""
    return height, width


def all_used(name: str) -> bool:
    """Whether a class is left out of training, if all are trained on."""
    return False


def long_side(side: int) -> Callable[[int, int], tuple[int, int]]:
    """The rule that resizes an image so that its longer side has `side` pixels."""

    def resized(height: int, width: int) -> tuple[int, int]:
        longest = max(height, width)
        return max(1, round(height * side / longest)), max(1, round(width * side / longest))

    return resized


@dataclass(frozen=True)
class Place:
    """Where the files of a split are.

    Args:
        images: the folder of the images.
        labels: the COCO JSON, or the folder of the label maps.
        segments: the folder of the PNGs of panoptic segments.
        files: a text file that names the pairs of image and label map of the split, see `SemanticSplit`.
    """

    images: Path
    labels: Path
    segments: Path | None = None
    files: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What is checked, and for which model.

    Args:
        source: the folder or config, as it was given.
        kind: the kind of the labels.
        splits: where the files of each split are.
        names: the classes of semantic data.
        values: the pixel value of each class of semantic data; by default 0..K-1.
        image_suffix, label_suffix: see `SemanticData`.
        exif: whether images are turned upright by their EXIF tag.
        size: the height and width at which the model sees an image of a height and width.
        patch: the side of a patch of the model in pixels.
        queries: how many objects the model can find in an image, if that is limited.
        unused: whether a class of the files, by its name, is one that is left out of training.
        lines: what was recognised.
    """

    source: str
    kind: Kind
    splits: dict[str, Place]
    names: Sequence[str] = ()
    values: Sequence[int] | None = None
    image_suffix: str | None = None
    label_suffix: str | None = None
    exif: bool = True
    size: Callable[[int, int], tuple[int, int]] = native
    patch: int = 16
    queries: int | None = None
    unused: Callable[[str], bool] = all_used
    lines: list[str] = field(default_factory=list)

    def with_model(self, **model: Any) -> "Plan":
        """The same data for another `size`, `patch` or `queries`."""
        return replace(self, **model)


# takes how many images there are and how many were read
Watch = Callable[[int, int], None]


def check(plan: Plan, *, decode: bool = False, watch: Watch | None = None, threads: int | None = None) -> Report:
    """Reads all labels and image headers of a data set, and reports what is wrong with them.

    Args:
        plan: what is checked.
        decode: whether the pixels of all images are read, too: finds damage, and images that look alike.
        watch: told how far it is.
        threads: how many files are read at a time, by default as many as there are cores, up to 8.
    """
    started, findings = time.monotonic(), Findings()
    contents = [c for name, place in plan.splits.items() if (c := _open(plan, name, place, findings)) is not None]
    total = sum(len(content) for content in contents)
    done, width = 0, threads or min(8, os.cpu_count() or 1)
    with warnings.catch_warnings(), ThreadPoolExecutor(width) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for content in contents:
            job = _Job(content, plan.splits[content.split].labels, decode)
            parts = [range(i, min(i + AT_ONCE, len(content))) for i in range(0, len(content), AT_ONCE)]
            for part in pool.map(job, parts):
                done += len(part)
                if watch is not None:
                    watch(total, done)
            _findings(content, contents, job, plan, findings)
    meant = plan.kind != "semantic" or labels.check_values(contents, findings)
    images.check_copies(contents, findings)
    for content in contents:
        classes.check_classes(content, findings, trained=meant and content is contents[0], unused=plan.unused)
        classes.check_fit(content, plan.size, plan.patch, plan.queries, findings)
    if meant:
        classes.compare_classes(contents, findings)
    statistics = {content.split: numbers(content, plan.size, plan.patch) for content in contents}
    seconds = time.monotonic() - started
    return Report(plan.source, plan.kind, findings.ordered(), statistics, plan.lines, seconds, decode)


def _open(plan: Plan, split: str, place: Place, findings: Findings) -> Content | None:
    if plan.kind == "semantic":
        content = read_pairs(
            place.images,
            place.labels,
            split=split,
            names=plan.names,
            values=plan.values,
            suffixes=(plan.image_suffix, plan.label_suffix),
            files=place.files,
            findings=findings,
        )
    else:
        content = read_coco(
            place.labels,
            split=split,
            kind=plan.kind,
            images=place.images,
            segments=place.segments,
            findings=findings,
        )
    if content is not None:
        content.exif = plan.exif
        content.facts = [Facts() for _ in range(len(content))]
    return content


class _Job:
    """Reads the files and labels of some images of a split; results are kept here."""

    def __init__(self, content: Content, file: Path, decode: bool) -> None:
        self.content, self.file, self.decode = content, file, decode
        # an image without segments has no PNG
        self.maps = [Map() for _ in content.maps]
        self.masks: dict[int, list[Mask]] = {}
        first = np.searchsorted(content.objects.image, np.arange(len(content) + 1))
        self.rows = [range(a, b) for a, b in zip(first[:-1].tolist(), first[1:].tolist())]

    def __call__(self, part: range) -> range:
        content = self.content
        for i in part:
            path = content.paths[i]
            if path is not None:
                content.facts[i] = read_facts(path, decode=self.decode)
            if content.kind == "instances":
                self.masks[i] = read_masks(content, i, self.rows[i], self.file)
            elif (png := content.maps[i]) is not None:
                self.maps[i] = read_map(png, colours=content.kind == "panoptic")
        return part


def _findings(content: Content, contents: Sequence[Content], job: _Job, plan: Plan, findings: Findings) -> None:
    """Findings about a single split."""
    images.check_files(content, contents, findings)
    if content.kind == "instances":
        boxes.check_masks(content, [mask for i in sorted(job.masks) for mask in job.masks[i]], findings)
    else:
        job.maps = labels.check_maps(content, job.maps, findings)
    if content.kind == "semantic":
        content.objects = labels.objects_of_maps(content, job.maps)
        content.widths, content.heights = np.array([found.size for found in job.maps]).reshape(-1, 2).T
    elif content.kind == "panoptic":
        labels.check_segments(content, job.maps, findings)
    images.check_sizes(content, findings)
    if content.kind != "semantic":
        boxes.check_boxes(content, findings)
