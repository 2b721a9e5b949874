"""`vitdet predict` on a video: an annotated video, and a line of JSON for each frame."""

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vitdet.deploy.ahead import batched
from vitdet.deploy.encoding import Encoder
from vitdet.deploy.frames import Frame, Frames
from vitdet.deploy.predict import Detector, check_batch_size
from vitdet.deploy.tracking import Tracker
from vitdet.deploy.writing import to_disk
from vitdet.draw import class_colour, draw
from vitdet.errors import UserError
from vitdet.masks import encode
from vitdet.structures import Prediction
from vitdet.thresholds import Threshold, check_threshold, describe_threshold

# where the output is no terminal, progress is said every so many seconds
PAUSE = 10.0


class VideoDone(NamedTuple):
    """What `predict_video` did.

    Attributes:
        frames: the number of frames that were predicted.
        objects: the number of detections in all of them.
        tracks: the number of objects that were tracked; 0 without tracking.
        damaged: the number of frames or packets that could not be decoded, or only in part.
        skipped: the number of frames of a camera that were passed over, because the model was busy.
    """

    frames: int
    objects: int
    tracks: int
    damaged: int
    skipped: int


def predict_video(
    detector: Detector,
    source: str | Path,
    *,
    output: str | Path = "predictions",
    name: str | None = None,
    drawings: bool = True,
    threshold: Threshold | None = None,
    every: int = 1,
    track: str | None = None,
    batch_size: int = 8,
) -> VideoDone:
    """Predicts on the frames of a video file, a camera or a stream, in constant memory.

    It writes `NAME.jsonl`, a line for each frame as soon as it is known, and `NAME.mp4`, on which the detections are
    drawn, with the sound of the original. An interruption leaves both as far as they are: the video can be played. A
    line is like `{"frame": 0, "time": 0.0, "size": [H, W], "detections": […]}`, with the time in seconds. A detection
    is a row of COCO's results format in pixels of the upright frame, with the class's `name` and, if objects are
    tracked, its number in `track`.

    Args:
        detector: the detector.
        source: a video file, an address such as `rtsp://…`, `pipe:0` for standard input, or a camera, by its number or
            device.
        output: folder for the results.
        name: name of the results without a suffix; by default that of the source.
        drawings: whether the video is written.
        threshold: lowest score, in [0, 1], of the detections, or a list of such scores, indexed by label; by default
            the model's thresholds.
        every: of so many frames, one is predicted and written.
        track: a tracker that numbers the objects, see `Tracker`; `None` for none.
        batch_size: number of frames in a batch. Those of a camera are predicted one by one.

    Raises:
        UserError: the source can't be opened, the output can't be written, or an argument is out of its range.
        MissingLibraryError: PyAV or, for tracking, trackers is not installed.
    """
    threshold = detector.thresholds if threshold is None else threshold
    check_threshold(threshold, classes=len(detector.classes))
    check_batch_size(batch_size)
    if track is not None and detector.kind == "semantic":
        raise UserError("a semantic model finds no objects, so there is nothing to track; predict without track")
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    frames = Frames(source, detector, every=every, count=2 * batch_size)
    with contextlib.closing(frames):
        rate = frames.rate / every
        tracker = None if track is None else Tracker(threshold, rate=rate, name=track)
        with to_disk(Path(output)):
            video = _Writing(frames, Path(output), name or stem(source), drawings)
        start = time.perf_counter()
        try:
            with contextlib.closing(video), _progress(frames, console) as advance:
                for batch in batched(frames, 1 if frames.live else batch_size):
                    _predict(detector, batch, threshold, tracker, video)
                    advance(frames.seen)
        finally:
            tracks = 0 if tracker is None else tracker.count
            done = VideoDone(video.frames, video.objects, tracks, frames.damaged, frames.skipped)
            _say(done, frames, video, threshold, time.perf_counter() - start, console)
    return done


def _predict(
    detector: Detector, batch: Sequence[Frame], threshold: Threshold, tracker: Tracker | None, video: "_Writing"
) -> None:
    reads = [frame.read for frame in batch if frame.read is not None]
    found = iter(detector.find(reads) if reads else ())
    for frame in batch:
        if frame.read is None:
            video.finish(frame)
            continue
        prediction = next(found)
        if tracker is None:
            video.add(frame, prediction.above(threshold), None, None)
        else:
            kept, ids = tracker.update(prediction, frame.time)
            video.add(frame, kept, ids, tracker)


class _Writing:
    """The results of a video: JSON lines and, with `drawings`, a video."""

    def __init__(self, frames: Frames, output: Path, name: str, drawings: bool) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self.source, self.path, self.drawings = frames, output / f"{name}.mp4", drawings
        if os.path.realpath(self.path) == os.path.realpath(frames.source):
            raise UserError(f"the video {self.path} would overwrite its original; give another output folder")
        self.rows: TextIO = self.path.with_suffix(".jsonl").open("w", encoding="utf-8")
        self.encoder: Encoder | None = None
        self.frames = self.objects = 0
        self.lines: list[str] = []

    def add(self, frame: Frame, found: Prediction, ids: Sequence[int | None] | None, tracker: Tracker | None) -> None:
        with to_disk(self.path):
            self.rows.write(json.dumps(_row(frame, found, ids), ensure_ascii=False) + "\n")
            # whoever follows the file sees the frame at once
            self.rows.flush()
            self.frames, self.objects = self.frames + 1, self.objects + len(found)
            if self.drawings and frame.read is not None:
                if self.encoder is None:
                    here = self.source
                    options = {"rate": here.rate, "sound": here.sound, "start": here.start or 0}
                    self.encoder = Encoder(self.path, found.size, **options)
                self.encoder.write(_drawn(frame.read.array, found, ids, tracker), frame.time, frame.sound)

    def finish(self, frame: Frame) -> None:
        """Copies the sound after the last frame."""
        if self.encoder is not None:
            self.encoder.copy(frame.sound)

    def close(self) -> None:
        self.rows.close()
        if self.encoder is not None:
            with to_disk(self.path):
                self.encoder.close()
            self.lines += self.encoder.lines


def _row(frame: Frame, found: Prediction, ids: Sequence[int | None] | None) -> dict[str, Any]:
    """What is known of a frame, as JSON."""
    row: dict[str, Any] = {"frame": frame.index, "time": round(frame.time, 6), "size": list(found.size)}
    if found.semantic is not None:
        return {**row, "segments": _segments(found, found.semantic.numpy())}
    detections = found.to_coco()
    for i, (detection, label) in enumerate(zip(detections, found.labels.tolist())):
        del detection["image_id"]
        detection["bbox"] = [round(side, 2) for side in detection["bbox"]]
        detection["score"] = round(detection["score"], 4)
        detection["name"] = found.name_of(label)
        if ids is not None:
            detection["track"] = ids[i]
    return {**row, "detections": detections}


def _segments(found: Prediction, classes: np.ndarray) -> list[dict[str, Any]]:
    """The region of each class of a semantic map `(H, W)`."""
    labels, areas = np.unique(classes, return_counts=True)
    codes = encode(np.stack([classes == label for label in labels]))
    return [
        {
            "category_id": found.category_of(label),
            "name": found.name_of(label),
            "area": area,
            "segmentation": {"size": list(found.size), "counts": code.decode()},
        }
        for label, area, code in zip(labels.tolist(), areas.tolist(), codes)
    ]


def _drawn(
    array: np.ndarray, found: Prediction, ids: Sequence[int | None] | None, tracker: Tracker | None
) -> Image.Image:
    """The frame with what was found; tracked objects have a colour, a number and a trail of their own."""
    if ids is None or tracker is None:
        return found.plot(array)
    canvas = Image.fromarray(array)
    pen = ImageDraw.Draw(canvas)
    width = max(1, round((canvas.width * canvas.height) ** 0.5 / 400))
    for number, trail in tracker.trails.items():
        if len(trail) > 1:
            pen.line(list(trail), fill=class_colour(number), width=width)
    labels, masks = found.labels.tolist(), None if found.masks is None else found.masks.numpy()
    texts = [f"{found.name_of(label)} {'' if n is None else n}".rstrip() for label, n in zip(labels, ids)]
    colours = [(190, 190, 190) if number is None else class_colour(number) for number in ids]
    return draw(canvas, found.boxes_xyxy.tolist(), texts, labels, colours=colours, masks=masks)


def stem(source: str | Path) -> str:
    """A name for the results of a source: that of the file, without its suffix, or of the camera or address.

    Example:
        >>> [stem(source) for source in ("clips/a.mov", "0", "rtsp://user:secret@host:554/door?x=1", "pipe:0")]
        ['a', 'camera_0', 'host_554_door', 'pipe_0']
    """
    name = str(source)
    if name.isdecimal():
        return f"camera_{name}"
    if "://" in name:
        # a password must not become the name of a file
        name = re.sub(r"^.*?://(?:[^/@]*@)?", "", name).partition("?")[0]
        return re.sub(r"\W+", "_", re.sub(r"\.\w{2,5}$", "", name)).strip("_")
    return Path(name).stem if not name.startswith("pipe:") else name.replace(":", "_")


@contextlib.contextmanager
def _progress(frames: Frames, console: Console) -> Iterator[Any]:
    """A function that is told how many frames are done: it draws a bar, or prints a line now and then."""
    begun = said = time.perf_counter()
    if not sys.stderr.isatty():

        def line(done: int) -> None:
            nonlocal said
            now = time.perf_counter()
            if now - said >= PAUSE:
                said = now
                of = f" of {frames.total}" if frames.total else ""
                left = (now - begun) * max(0, frames.total - done) / max(done, 1) if frames.total else None
                eta = "" if left is None else f", {left:.0f} s left"
                console.print(f"{frames.source}: frame {done}{of}{eta}")

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(Path(frames.source).name, total=frames.total)
        yield lambda done: bar.update(task, completed=done)


def _say(
    done: VideoDone, frames: Frames, video: _Writing, threshold: Threshold, seconds: float, console: Console
) -> None:
    speed = f"{done.frames} frames in {seconds:.1f} s ({done.frames / max(seconds, 1e-9):.1f} a second)"
    least = describe_threshold(threshold)
    found = f", {done.objects} objects of score {least} or more" if done.objects else ""
    tracks = f", {done.tracks} tracks" if done.tracks else ""
    written = f"{video.path.name} and " if video.encoder is not None else ""
    console.print(
        f"{frames.source}: {speed}{found}{tracks}; {written}{video.path.stem}.jsonl are in {video.path.parent}"
    )
    if done.damaged:
        how = "they were left out, or predicted as far as they could be decoded"
        console.print(f"{frames.source}: {done.damaged} frames or packets are damaged: {how}")
    if done.skipped:
        console.print(f"{frames.source}: {done.skipped} frames were passed over, because the model was busy")
    if frames.ended:
        console.print(f"{frames.source}: it ended early: {frames.ended}")
    for line in video.lines:
        console.print(f"{frames.source}: {line}")
    if frames.live and frames.container.streams.audio:
        console.print(f"{frames.source}: the sound is left out, as of every live source")
