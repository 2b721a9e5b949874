"""`vitdet predict`: image files to drawings, and to files that others can read."""

import glob
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from vitdet.data.images import ImageError, load_image
from vitdet.deploy.predict import load
from vitdet.metrics.panoptic import write_panoptic
from vitdet.structures import Prediction

LABELS = "predicted_labels"  # the folder of label maps
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def predict_files(
    checkpoint: str | Path,
    images: Sequence[str | Path],
    *,
    output: str | Path = "predictions",
    threshold: float = 0.3,
    device: str | torch.device | None = None,
    batch_size: int = 8,
) -> int:
    """Draw what is found in image files, and write all of it down; the number of files that could not be read.

    `output/predictions.json` is a COCO results file, boxes and masks, whose rows have a `file_name`, too; image ids are 1, 2, … in the order of the
    files. A panoptic model writes COCO's panoptic format instead, the PNGs into `output/predictions`; a semantic one label maps into `output/predicted_labels`,
    whose pixel values are the data set's own.

    Args:
        images: image files, folders (with what is below them) or globs.
        threshold: of what is drawn and counted; the results file has everything.

    Raises:
        FileNotFoundError: there is no checkpoint, or one of `images` matches nothing.
        CheckpointError: the checkpoint can't be used.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False)
    output = Path(output)
    paths = find_images(images, leave_out=output)
    detector = load(checkpoint, device=device)
    pictures = _picture_paths(paths, output)
    results = Results(output, getattr(detector.head, "task", "instances"))
    unreadable, found, start = 0, 0, time.perf_counter()
    for first in range(0, len(paths), batch_size):
        readable = []
        for i in range(first, min(first + batch_size, len(paths))):
            try:
                readable.append((i, load_image(paths[i])))
            except ImageError as error:
                unreadable += 1
                console.print(f"left out: {error}")
        predictions = detector.predict([image for _, image in readable], batch_size=batch_size)
        for (i, image), prediction in zip(readable, predictions):
            prediction.image_id, prediction.path = i + 1, str(paths[i])
            results.add(prediction, pictures[i].relative_to(output).as_posix())
            prediction.save(pictures[i], image=image, threshold=threshold)
            found += len(prediction.above(threshold))
            console.print(f"{paths[i]}: {_describe(prediction.above(threshold))}")
    left_out = f", {unreadable} could not be read" if unreadable else ""
    objects = "" if results.kind == "semantic" else f", {found} objects of score {threshold:g} or more"
    seconds = time.perf_counter() - start
    console.print(
        f"{len(paths) - unreadable} images in {seconds:.1f} s{objects}{left_out}; "
        f"drawings and {results.write()} are in {output}"
    )
    return unreadable


class Results:
    """What was found in all images, in the format of its `kind`: instances, semantic or panoptic."""

    def __init__(self, output: Path, kind: str) -> None:
        self.output, self.kind = output, kind
        self.rows: list[dict[str, Any]] = []
        self.panoptic: dict[int, tuple[bytes, list[dict[str, Any]]]] = {}
        self.files: dict[int, str] = {}
        self.maps: set[str] = set()

    def add(self, prediction: Prediction, name: str) -> None:
        """One more image; `name` is where its drawing lies in the output folder."""
        if self.kind == "semantic":
            self._save_map(prediction, name)
        elif self.kind == "panoptic":
            self.panoptic[prediction.image_id] = prediction.to_coco_panoptic()
            self.files[prediction.image_id] = prediction.path
        else:
            self.rows += [{**row, "file_name": prediction.path} for row in prediction.to_coco()]

    def _save_map(self, prediction: Prediction, name: str) -> None:
        stem = name.rpartition(".")[0]
        name = f"{name}.png" if f"{stem}.png" in self.maps else f"{stem}.png"  # a.jpg beside a.png
        self.maps.add(name)
        path = self.output / LABELS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.array(prediction.category_ids or range(256), np.uint8)
        Image.fromarray(values[prediction.semantic.numpy()]).save(path)

    def write(self) -> str:
        """Writes what is left to write, and says what there is."""
        if self.kind == "semantic":
            return f"{len(self.maps)} label maps ({LABELS})"
        path = self.output / "predictions.json"
        if self.kind == "panoptic":
            write_panoptic(path, self.panoptic, files=self.files)
            return f"predictions.json (COCO panoptic, {len(self.panoptic)} images)"
        self.output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.rows))
        return f"predictions.json ({len(self.rows)} rows, any score)"


def find_images(patterns: Sequence[str | Path], *, leave_out: Path | None = None) -> list[Path]:
    """The files that paths, folders and globs name, each once, in order; folders are searched to the bottom, but for `leave_out`.

    Raises:
        FileNotFoundError: one of them names nothing.
    """
    paths: dict[Path, None] = {}
    for pattern in map(Path, patterns):
        if pattern.is_dir():
            below = (path for path in pattern.rglob("*") if path.suffix.lower() in SUFFIXES)
            matches = sorted(path for path in below if leave_out is None or not _is_below(path, leave_out))
        elif pattern.exists():
            matches = [pattern]
        else:
            matches = [Path(path) for path in sorted(glob.glob(str(pattern), recursive=True)) if Path(path).is_file()]
        if not matches:
            raise FileNotFoundError(f"no image at {pattern}; give image files, folders of images, or globs")
        paths.update(dict.fromkeys(matches))
    return list(paths)


def _is_below(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def _picture_paths(paths: Sequence[Path], output: Path) -> list[Path]:
    """Where the drawings go: as the files lie to each other, so that equal names in different folders do not collide."""
    root = os.path.commonpath([path.resolve().parent for path in paths])
    pictures = [output / path.resolve().relative_to(root) for path in paths]
    # formats that can't hold a picture in colour, or not for every viewer, become PNG
    pictures = [
        p if p.suffix.lower() in SUFFIXES - {".tif", ".tiff"} else p.with_name(p.name + ".png") for p in pictures
    ]
    for path, picture in zip(paths, pictures):
        if picture.resolve() == path.resolve():
            raise FileExistsError(f"the drawing of {path} would overwrite it; give another output folder")
    return pictures


def _describe(prediction: Prediction) -> str:
    if prediction.semantic is not None:
        labels, areas = np.unique(prediction.semantic.numpy(), return_counts=True)
        shares = sorted(zip((areas / areas.sum()).tolist(), labels.tolist()), reverse=True)
        return ", ".join(f"{share:.0%} {prediction.name_of(label)}" for share, label in shares if share >= 0.005)
    counts = Counter(prediction.name_of(label) for label in prediction.labels.tolist())
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
