"""`vitdet predict`: draws predictions on image files, and writes them in standard formats."""

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
from vitdet.structures import Prediction
from vitdet.thresholds import Threshold, check_threshold, describe_threshold

# the folder of label maps
LABELS = "predicted_labels"


class Predicted(NamedTuple):
    """The numbers of files that `predict_files` could and could not read.

    Attributes:
        read: the number of files that were read.
        unreadable: the number of files that could not be read.
    """

    read: int
    unreadable: int


def predict_files(
    checkpoint: str | Path,
    images: Sequence[str | Path] | str | Path,
    *,
    output: str | Path = "predictions",
    threshold: Threshold | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 8,
    annotations: str | Path | None = None,
) -> Predicted:
    """Predicts on image files, draws the predictions, and writes them to the folder `output`.

    The files depend on the model, and replace earlier files with these names:

    * A model of instances writes `predictions.json`, a COCO results file of boxes and masks. Image ids are those of
      `annotations` or, without these, 1, 2, … in the order of the files. Rows also hold a `file_name`, by which
      `evaluate` matches images.
    * A panoptic model writes `predictions.json` in COCO's panoptic format, and PNG files in the folder `predictions`.
    * A semantic model writes label maps in the folder `predicted_labels`. Their pixel values are the ids of the
      data set.

    Args:
        checkpoint: checkpoint of a run, or name of a published model.
        images: image files, folders (searched recursively) or globs.
        output: folder for drawings and results.
        threshold: lowest score, in [0, 1], of the predictions that are drawn and counted, or a list of such scores,
            indexed by label; by default the model's thresholds. Results files hold all scores.
        device: the device to run on. By default CUDA if it is available, otherwise the CPU.
        batch_size: number of images in a batch.
        annotations: COCO annotation file that provides the image ids. Images that it does not contain are left out.

    Returns:
        The numbers of files that could and could not be read. If none could be read, nothing is written.

    Raises:
        FileNotFoundError: there is no such checkpoint, or an element of `images` matches no file.
        CheckpointError: the checkpoint can't be used.
        UserError: an argument is out of its range, the device does not exist, the output can't be written, or
            `annotations` describes other images.
    """
    if threshold is not None:
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
    threshold = detector.thresholds if threshold is None else threshold
    if known is not None:
        known.check_classes(detector.category_ids, detector.classes, console)
    pictures = picture_paths(paths, output)
    results = Results(output, detector.kind)
    counts: Counter[str] = Counter()
    start = time.perf_counter()
    for batch in _batches(paths, batch_size, counts, console, bit_depth=detector.transform.bit_depth):
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
            console.print(f"{_printable(paths[i])}: {shown.describe()}")
    return _finish(results, counts, threshold, time.perf_counter() - start, console)


def _finish(
    results: "Results", counts: Counter[str], threshold: Threshold, seconds: float, console: Console
) -> Predicted:
    done = Predicted(counts["read"], counts["unreadable"])
    if not done.read:
        console.print(
            f"nothing was predicted or written: {done.unreadable} of {done.unreadable} files could not be read"
        )
        return done
    with _writing(results.output):
        written = results.write()
    left_out = f", {done.unreadable} could not be read" if done.unreadable else ""
    least = describe_threshold(threshold)
    objects = "" if results.kind == "semantic" else f", {counts['objects']} objects of score {least} or more"
    console.print(
        f"{done.read} images in {seconds:.1f} s{objects}{left_out}; drawings and {written} are in {results.output}"
    )
    return done


def _batches(
    paths: Sequence[Path], size: int, counts: Counter[str], console: Console, *, bit_depth: int | None
) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Yields batches of at most `size` images, each with its position in `paths`; unreadable files are left out."""
    for first in range(0, len(paths), size):
        batch = []
        for i in range(first, min(first + size, len(paths))):
            try:
                batch.append((i, load_image(paths[i], bit_depth=bit_depth)))
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
    """Turns an `OSError` of the statements inside into a `UserError`.

    Raises:
        UserError: a file can't be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or output} can't be written: {error.strerror or error}; free some space, "
            "or give another output folder"
        ) from error


def _printable(text: Any) -> str:
    """Replaces characters that can't be printed, as in file names with bytes that are not valid UTF-8."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


class Results:
    """Collects the predictions on all images, and writes them in the format of their kind.

    Args:
        output: Folder to write to.
        kind: Kind of the predictions: `"instances"`, `"semantic"` or `"panoptic"`.
    """

    def __init__(self, output: Path, kind: str) -> None:
        self.output, self.kind = output, kind
        self.rows: list[dict[str, Any]] = []
        self.panoptic: dict[int, tuple[bytes, list[dict[str, Any]]]] = {}
        self.files: dict[int, str] = {}
        self.maps: set[str] = set()

    def add(self, prediction: Prediction, name: str) -> None:
        """Adds the prediction on an image; `name` is the path of its drawing relative to the output folder."""
        if self.kind == "semantic":
            self._save_map(prediction, name)
        elif self.kind == "panoptic":
            self.panoptic[prediction.image_id] = prediction.to_coco_panoptic()
            self.files[prediction.image_id] = prediction.path
        else:
            self.rows += [{**row, "file_name": prediction.path} for row in prediction.to_coco()]

    def _save_map(self, prediction: Prediction, name: str) -> None:
        stem = name.rpartition(".")[0]
        # a.jpg and a.png in the same folder must not share a label map
        name = f"{name}.png" if f"{stem}.png" in self.maps else f"{stem}.png"
        self.maps.add(name)
        path = self.output / LABELS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.array(prediction.category_ids or range(256), np.uint8)
        Image.fromarray(values[prediction.semantic.numpy()]).save(path)

    def write(self) -> str:
        """Writes `predictions.json`, if the kind has it, and returns a description of the files."""
        if self.kind == "semantic":
            return f"{len(self.maps)} label maps ({LABELS})"
        path = self.output / "predictions.json"
        if self.kind == "panoptic":
            write_panoptic(path, self.panoptic, files=self.files)
            return f"predictions.json (COCO panoptic, {len(self.panoptic)} images)"
        self.output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.rows), encoding="utf-8")
        return f"predictions.json ({len(self.rows)} rows, any score)"
