"""`vitdet predict`: image files to drawings, and to files that others can read."""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from vitdet.deploy.inputs import describe, find_images, picture_paths
from vitdet.deploy.known import KnownImages
from vitdet.deploy.predict import check_batch_size, load, pick_device
from vitdet.errors import UserError
from vitdet.images import ImageError, load_image
from vitdet.metrics.panoptic import write_panoptic
from vitdet.structures import THRESHOLD, Prediction, check_threshold

LABELS = "predicted_labels"  # the folder of label maps


class Predicted(NamedTuple):
    """How many files `predict_files` read, and how many it could not."""

    read: int
    unreadable: int


def predict_files(
    checkpoint: str | Path,
    images: Sequence[str | Path] | str | Path,
    *,
    output: str | Path = "predictions",
    threshold: float = THRESHOLD,
    device: str | torch.device | None = None,
    batch_size: int = 8,
    annotations: str | Path | None = None,
) -> Predicted:
    """Draw what is found in image files, and write all of it down.

    `output/predictions.json` is a COCO results file, boxes and masks, whose rows have a `file_name`, too; image ids are those of `annotations`, or else 1, 2, …
    in the order of the files, by which `evaluate` does not go. A panoptic model writes COCO's panoptic format instead, the PNGs into `output/predictions`; a
    semantic one label maps into `output/predicted_labels`, whose pixel values are the data set's own. What is there of the same name is replaced.

    Args:
        images: image files, folders (with what is below them) or globs.
        threshold: of what is drawn and counted; the results file has everything.
        annotations: a COCO annotation file whose image ids the results are to have. Images that it does not have are left out.

    Returns:
        How many files could be read, and how many not. If there is none that could, nothing is written.

    Raises:
        FileNotFoundError: there is no checkpoint, or one of `images` matches nothing.
        CheckpointError: the checkpoint can't be used.
        UserError: an argument is out of range, there is no such device, the output can't be written, or `annotations` are of other images.
    """
    check_threshold(threshold)
    check_batch_size(batch_size)
    device, output = pick_device(device), Path(output)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    paths, ignored = find_images(images, leave_out=output)
    if ignored:
        console.print(f"left out: {describe(ignored)}")
    known = None if annotations is None else KnownImages(annotations, paths)
    if known is not None:
        paths = known.paths
        for line in known.lines:
            console.print(_printable(line))
    _make_folder(output, console)
    detector = load(checkpoint, device=device)
    if known is not None:
        known.check_classes(detector.category_ids, detector.classes, console)
    pictures = picture_paths(paths, output)
    results = Results(output, getattr(detector.head, "task", "instances"))
    counts: Counter[str] = Counter()
    start = time.perf_counter()
    for batch in _batches(paths, batch_size, counts, console):
        if known is not None:
            for i, image in batch:
                known.check_size(i, image.shape[:2])
        predictions = detector.predict([image for _, image in batch], threshold=0.0, batch_size=batch_size)
        for (i, image), prediction in zip(batch, predictions):
            prediction.image_id, prediction.path = i + 1 if known is None else known.ids[i], str(paths[i])
            with _writing(output):
                results.add(prediction, pictures[i].relative_to(output).as_posix())
                prediction.save(pictures[i], image=image, threshold=threshold)
            shown = prediction.above(threshold)
            counts["objects"] += len(shown)
            console.print(f"{_printable(paths[i])}: {_describe(shown)}")
    return _finish(results, counts, threshold, time.perf_counter() - start, console)


def _finish(results: "Results", counts: Counter[str], threshold: float, seconds: float, console: Console) -> Predicted:
    done = Predicted(counts["read"], counts["unreadable"])
    if not done.read:
        console.print(
            f"nothing was predicted or written: {done.unreadable} of {done.unreadable} files could not be read"
        )
        return done
    with _writing(results.output):
        written = results.write()
    left_out = f", {done.unreadable} could not be read" if done.unreadable else ""
    objects = "" if results.kind == "semantic" else f", {counts['objects']} objects of score {threshold:g} or more"
    console.print(
        f"{done.read} images in {seconds:.1f} s{objects}{left_out}; drawings and {written} are in {results.output}"
    )
    return done


def _batches(
    paths: Sequence[Path], size: int, counts: Counter[str], console: Console
) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Of `size` files at a time those that can be read, each with its position in `paths`."""
    for first in range(0, len(paths), size):
        batch = []
        for i in range(first, min(first + size, len(paths))):
            try:
                batch.append((i, load_image(paths[i])))
            except ImageError as error:
                counts["unreadable"] += 1
                console.print(f"left out: {_printable(error)}")
        counts["read"] += len(batch)
        yield batch


def _make_folder(output: Path, console: Console) -> None:
    if output.exists() and not output.is_dir():
        raise UserError(f"output {output} is a file; give a folder")
    with _writing(output):
        output.mkdir(parents=True, exist_ok=True)
        probe = output / ".vitdet-writes-here"
        probe.touch()
        probe.unlink()
    if any((output / name).exists() for name in ("predictions.json", LABELS)):
        console.print(f"{output} holds earlier results: those of the same name are replaced, others stay")


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Raises:
    UserError: what is done inside can't write.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or output} can't be written: {error.strerror or error}; free some space, or give another output folder"
        ) from error


def _printable(text: Any) -> str:
    """Names that are not valid in the file system's encoding can't be printed as they are."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


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
        path.write_text(json.dumps(self.rows), encoding="utf-8")
        return f"predictions.json ({len(self.rows)} rows, any score)"


def _describe(prediction: Prediction) -> str:
    if prediction.semantic is not None:
        labels, areas = np.unique(prediction.semantic.numpy(), return_counts=True)
        shares = sorted(zip((areas / areas.sum()).tolist(), labels.tolist()), reverse=True)
        return ", ".join(f"{share:.0%} {prediction.name_of(label)}" for share, label in shares if share >= 0.005)
    counts = Counter(prediction.name_of(label) for label in prediction.labels.tolist())
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
