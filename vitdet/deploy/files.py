"""`vitdet predict`: draws predictions on image files, and writes them in standard formats."""

import errno
import hashlib
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console

import vitdet
from vitdet.deploy.formats import EMPTY, LABELS, Coco, Crops, Csv, Format, Model, make
from vitdet.deploy.inputs import check_apart, describe, find_images, pictures, places, stems
from vitdet.deploy.journal import FOLDER, Journal
from vitdet.deploy.known import KnownImages
from vitdet.deploy.labelling import LabelMe, LabelStudio, Yolo
from vitdet.deploy.predict import LOADERS, Detector, check_batch_size, load, pick_device
from vitdet.deploy.ranks import Ranks
from vitdet.deploy.tiles import TiledDetector
from vitdet.deploy.writing import Finish, Run, Writing, records, to_disk
from vitdet.errors import UserError, check
from vitdet.thresholds import Threshold, check_threshold, describe_threshold

FORMATS: dict[str, type[Format]] = {
    "coco": Coco,
    "yolo": Yolo,
    "labelme": LabelMe,
    "labelstudio": LabelStudio,
    "csv": Csv,
    "crops": Crops,
}


class Predicted(NamedTuple):
    """The numbers of images that `predict_files` could and could not read.

    Attributes:
        read: the number of images that were read.
        unreadable: the number of images that could not be read.
    """

    read: int
    unreadable: int


def predict_files(
    checkpoint: str | Path | Detector,
    images: Sequence[str | Path] | str | Path,
    *,
    output: str | Path = "predictions",
    formats: Sequence[str] = ("coco",),
    drawings: bool = True,
    threshold: Threshold | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 8,
    annotations: str | Path | None = None,
    tiling: Mapping[str, Any] | None = None,
) -> Predicted:
    """Predicts on images, draws the predictions, and writes them to the folder `output`.

    Only the present batches are in memory. What is done is kept in `output/.unfinished` until all is: the same call
    goes on with a run that was stopped, and its files are those of a run that was not. Several processes, as torchrun
    or SLURM start them, share the images; the last of them puts the results together.

    Earlier files of the same names are replaced. By format:

    * `coco`: of a model of instances `predictions.json`, a COCO results file of boxes and masks of all scores. Image
      ids are those of `annotations` or, without these, 1, 2, … in the order of the images. Rows also hold a
      `file_name`, by which `evaluate` matches images. Of a panoptic model, `predictions.json` in COCO's panoptic
      format, and PNG files in the folder `predictions`. Of a semantic model, label maps in the folder
      `predicted_labels`, whose pixel values are the ids of the data set.
    * `yolo`, `labelme`, `labelstudio`: labels to be corrected, see `vitdet.deploy.labelling`.
    * `csv`: `predictions.csv`, with the columns of `Prediction.to_table`.
    * `crops`: the part of the image inside of each box, in `crops/CLASS`.

    Args:
        checkpoint: checkpoint of a run, name of a published model, or a detector.
        images: image files, folders (searched recursively), globs or URLs; `-` is standard input.
        output: folder for drawings and results.
        formats: names of the formats of the results.
        drawings: whether the predictions are drawn on the images.
        threshold: lowest score, in [0, 1], of the predictions that are drawn, counted and written, but for `coco`; or a
            list of such scores, indexed by label; by default the model's thresholds.
        device: the device to run on. By default CUDA if it is available, otherwise the CPU; of several processes on a
            machine, each takes a GPU of its own.
        batch_size: number of images in a batch.
        annotations: COCO annotation file that provides the image ids. Images that it does not contain are left out.
        tiling: arguments of `TiledDetector`, such as `{"tile": 640}`, if large images are to be seen in tiles.

    Returns:
        The numbers of images that could and could not be read, of all processes and of earlier parts of this run. If
        none could be read, nothing is written. Zeros where another process puts the results together.

    Raises:
        FileNotFoundError: there is no such checkpoint, or an element of `images` matches no file.
        CheckpointError: the checkpoint can't be used.
        UserError: an argument is out of its range, the device does not exist, the output can't be written or has an
            unfinished run of something else, or `annotations` describes other images.
    """
    if threshold is not None:
        check_threshold(threshold)
    check_batch_size(batch_size)
    for name in formats:
        check("format", name, name in FORMATS, f"one of {', '.join(FORMATS)}")
    if not formats and not drawings:
        raise UserError("nothing would be written: give a format, or leave the drawings on")
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    ranks = Ranks.find()
    device = _device(checkpoint, device, ranks)
    run = _find(images, Path(output), annotations, console)
    detector = checkpoint if isinstance(checkpoint, Detector) else load(checkpoint, device=device)
    detector = detector if tiling is None else TiledDetector(detector, **tiling)
    threshold = detector.thresholds if threshold is None else threshold
    check_threshold(threshold, classes=len(detector.classes))
    if run.known is not None:
        run.known.check_classes(detector.category_ids, detector.classes, console)
    name = type(checkpoint).__name__ if isinstance(checkpoint, Detector) else Path(checkpoint).stem
    model = Model(name, detector.classes, detector.category_ids, detector.kind)
    writing = Writing(run, make(formats, FORMATS, run.output, model), drawings, threshold)
    about = {
        "vitdet": vitdet.__version__,
        "model": _state(checkpoint),
        "images": f"{len(run.paths)}, {_digest(run.paths)}",
        "threshold": np.asarray(threshold, float).tolist(),
        "formats": sorted(set(formats)),
        "drawings": drawings,
        "batch_size": batch_size,
        "tiling": tiling and dict(tiling),
        "annotations": None if annotations is None else _state(annotations),
    }
    return _predict(detector, writing, about, batch_size, ranks, console)


def _find(images: Any, output: Path, annotations: str | Path | None, console: Console) -> Run:
    paths, ignored = find_images(images, leave_out=output)
    if ignored:
        console.print(f"left out: {describe(ignored)}")
    known = None if annotations is None else KnownImages(annotations, paths)
    if known is not None:
        paths = known.paths
        for line in known.lines:
            console.print(_printable(line))
    # the names alone: a path takes ten times the memory
    paths = list(map(str, paths))
    there = places(paths)
    drawn = pictures(there)
    check_apart(paths, drawn, output)
    _make_folder(output, console)
    return Run(paths, output, known, there, drawn, stems(drawn))


def _device(checkpoint: Any, device: str | torch.device | None, ranks: Ranks) -> str | torch.device | None:
    """The device to load a model on: as given, or the GPU of this process."""
    if isinstance(checkpoint, Detector) or any(suits(str(checkpoint)) for suits in LOADERS.values()):
        return device
    if device is None and ranks.world > 1 and torch.cuda.is_available():
        device = f"cuda:{ranks.local % torch.cuda.device_count()}"
    return pick_device(device)


def _state(model: Any) -> Any:
    """What tells a model, or a file, from another one."""
    if isinstance(model, Detector):
        plain = {key: value for key, value in vars(model).items() if isinstance(value, (bool, int, float, str, list))}
        return [type(model).__name__, plain]
    if os.path.isdir(model):
        # an exported or shared model: what is in it may be written anew
        return [_state(path) for path in sorted(Path(model).iterdir()) if path.is_file()]
    if not os.path.isfile(model):
        return str(model)
    found = os.stat(model)
    return [str(model), found.st_size, found.st_mtime_ns]


def _digest(paths: Sequence[str | Path]) -> str:
    return hashlib.sha256("\n".join(map(str, paths)).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _predict(
    detector: Detector,
    writing: Writing,
    about: Mapping[str, Any],
    batch_size: int,
    ranks: Ranks,
    console: Console,
) -> Predicted:
    run, start = writing.run, time.perf_counter()
    total = -(-len(run.paths) // batch_size)
    with to_disk(run.output):
        journal = Journal(run.output, about, ranks)
    try:
        ranks.wait(journal.folder)
        share = range(ranks.rank, total, ranks.world)
        mine = [batch for batch in share if batch not in journal.done]
        if len(share) > len(mine):
            done = f"{len(share) - len(mine)} of {len(share)} batches were predicted before"
            console.print(f"going on with the unfinished run in {run.output}: {done}")
        for batch, record, lines in records(detector, writing, mine, batch_size):
            with to_disk(run.output):
                journal.add(batch, record)
            for line in lines:
                console.print(_printable(line))
    finally:
        journal.close()
    finish = Finish(writing, total)
    with to_disk(run.output):
        last = journal.finish(total, finish)
    if last:
        return _say(writing, finish.counts, time.perf_counter() - start, console)
    part = f"process {ranks.rank} of {ranks.world}" if ranks.world > 1 else "this process"
    console.print(f"{part} is done; the last one puts the results together in {run.output}")
    return Predicted(0, 0)


def _say(writing: Writing, counts: Counter[str], seconds: float, console: Console) -> Predicted:
    done = Predicted(counts["read"], counts["unreadable"])
    if not done.read:
        console.print(
            f"nothing was predicted or written: {done.unreadable} of {done.unreadable} files could not be read"
        )
        return done
    for text, count in counts.items():
        if text.startswith(EMPTY):
            console.print(f"{count} {text}")
    left_out = f", {done.unreadable} could not be read" if done.unreadable else ""
    least = describe_threshold(writing.threshold)
    objects = (
        f", {counts['objects']} objects of score {least} or more" if counts["objects"] or not counts["maps"] else ""
    )
    written = ["drawings"] if writing.drawings else []
    written += [form.describe(counts) for form in writing.formats]
    listed = " and ".join(filter(None, [", ".join(written[:-1]), written[-1]]))
    console.print(f"{done.read} images in {seconds:.1f} s{objects}{left_out}; {listed} are in {writing.run.output}")
    return done


def _make_folder(output: Path, console: Console) -> None:
    if output.exists() and not output.is_dir():
        raise UserError(f"output {output} is a file; give a folder")
    with to_disk(output):
        output.mkdir(parents=True, exist_ok=True)
        # before the model is loaded; what can't be known now, such as a disk that is full, is said later
        if not os.access(output, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(output))
    if not (output / FOLDER).exists() and any((output / name).exists() for name in ("predictions.json", LABELS)):
        console.print(f"{output} holds earlier results: those of the same name are replaced, others stay")


def _printable(text: Any) -> str:
    """Replaces characters that can't be printed, as in file names with bytes that are not valid UTF-8."""
    return str(text).encode("utf-8", "replace").decode("utf-8")
