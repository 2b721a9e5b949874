"""Runs a model over many images, and writes what it finds.

A run is a list of batches. Each process takes its share of them; threads read the images of the next batches, the model
sees a batch, and other threads write what was found. What is done is in a journal, so that another run can go on.
"""

import contextlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitdet.deploy.ahead import ahead, cores
from vitdet.deploy.formats import Format, Found, Stream
from vitdet.deploy.journal import Journal
from vitdet.deploy.known import KnownImages
from vitdet.deploy.predict import Detector, Read
from vitdet.errors import UserError
from vitdet.images import ImageError
from vitdet.structures import Prediction
from vitdet.thresholds import Threshold

# the batches that the model has seen and that wait to be written
BEHIND = 3


@dataclass
class Run:
    """The images of a run.

    Attributes:
        paths: the images, as they were given.
        output: the folder of the results.
        known: the images of an annotation file, if there is one.
        places, pictures, stems: see the functions of these names.
    """

    paths: Sequence[str | Path]
    output: Path
    known: KnownImages | None
    places: list[str]
    pictures: list[str]
    stems: list[str]


def records(
    detector: Detector, writing: "Writing", batches: Sequence[int], batch_size: int
) -> Iterator[tuple[int, dict[str, Any], list[str]]]:
    """Predicts on the images of some batches.

    Args:
        detector: the model.
        writing: writes the files of an image.
        batches: the numbers of the batches.
        batch_size: the number of images in a batch.

    Returns:
        The number, the record for the journal and the lines of each batch, once the files of its images are written.

    Raises:
        UserError: a file can't be written, or an image is not as its annotations say.
    """
    run = writing.run

    def read(i: int) -> Read | ImageError:
        try:
            image = detector.read(run.paths[i])
        except ImageError as error:
            return error
        if run.known is not None:
            run.known.check_size(i, image.array.shape[:2])
        return image

    members = {batch: range(batch * batch_size, min((batch + 1) * batch_size, len(run.paths))) for batch in batches}
    order = (i for some in members.values() for i in some)
    reads = ahead(read, order, count=2 * batch_size, size=lambda one: 0 if isinstance(one, ImageError) else one.size())
    behind: deque[tuple[int, list[Future]]] = deque()
    pool = ThreadPoolExecutor(min(8, cores()), thread_name_prefix="vitdet-writes")
    with pool, contextlib.closing(reads):
        for batch, some in members.items():
            images = [next(reads) for _ in some]
            seen = [image for image in images if isinstance(image, Read)]
            found = iter(detector.find(seen) if seen else ())
            writes = [
                pool.submit(writing.image, i, image, next(found) if isinstance(image, Read) else None)
                for i, image in zip(some, images)
            ]
            behind.append((batch, writes))
            if len(behind) >= BEHIND:
                yield _record(*behind.popleft())
        while behind:
            yield _record(*behind.popleft())


def _record(batch: int, writes: Iterable[Future]) -> tuple[int, dict[str, Any], list[str]]:
    counts: Counter[str] = Counter()
    texts: dict[str, list[str]] = {}
    lines = []
    for write in writes:
        own, some, line = write.result()
        counts += own
        lines.append(line)
        for stream, text in some.items():
            texts.setdefault(stream, []).append(text)
    return batch, {"counts": counts, "texts": texts}, lines


class Writing:
    """Writes the files of images.

    Args:
        run: The images.
        formats: The formats of the results.
        drawings: Whether the predictions are drawn on the images.
        threshold: The lowest score of what is drawn and counted.
    """

    def __init__(self, run: Run, formats: Sequence[Format], drawings: bool, threshold: Threshold) -> None:
        self.run, self.formats, self.drawings, self.threshold = run, formats, drawings, threshold

    def image(
        self, i: int, image: Read | ImageError, prediction: Prediction | None
    ) -> tuple[Counter[str], dict[str, str], str]:
        """Writes the files of an image; returns counts, texts for the files about all images, and a line."""
        run = self.run
        if prediction is None or not isinstance(image, Read):
            return Counter(unreadable=1), {}, f"left out: {image}"
        prediction.image_id = i + 1 if run.known is None else run.known.ids[i]
        prediction.path = str(run.paths[i])
        shown = prediction.above(self.threshold)
        found = Found(i, prediction.path, run.places[i], run.pictures[i], run.stems[i], image.array, prediction, shown)
        counts, texts = Counter(read=1, objects=len(shown)), {}
        with to_disk(run.output):
            for form in self.formats:
                written = form.write(found)
                counts += written.counts
                texts |= {stream: text for stream, text in written.texts.items() if text}
            if self.drawings:
                shown.save(run.output / run.pictures[i], image=image.array)
        return counts, texts, f"{run.paths[i]}: {shown.describe()}"


class Finish:
    """Puts the files about all images together, from a journal."""

    def __init__(self, writing: Writing, batches: int) -> None:
        self.writing, self.batches = writing, batches
        self.counts: Counter[str] = Counter()

    def __call__(self, journal: Journal) -> list[Path]:
        for record in journal.records(self.batches):
            self.counts += Counter(record["counts"])
        if not self.counts["read"]:
            return []
        made = []
        for form in self.writing.formats:
            for name, pieces in form.files.items():
                path = journal.folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                    for piece in pieces:
                        file.writelines([piece] if isinstance(piece, str) else self._texts(journal, piece))
                form.path(name)
                made.append(path)
        return made

    def _texts(self, journal: Journal, stream: Stream) -> Iterator[str]:
        between = ""
        for record in journal.records(self.batches):
            for text in record["texts"].get(stream.name, ()):
                yield between + text
                between = stream.between


@contextlib.contextmanager
def to_disk(output: Path) -> Iterator[None]:
    """Turns an `OSError` of the statements inside into a `UserError`.

    Raises:
        UserError: a file can't be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or output} can't be written: {error.strerror or error}; free some space, "
            "or give another output folder; what is done stays, and the same command goes on with it"
        ) from error
