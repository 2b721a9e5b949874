"""The steps of `vitdet export`: the score of the model, the file, the score of the file in its engine, and its name."""

import argparse
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitdet.command.data_only import read_data
from vitdet.data import ImageData
from vitdet.data.module import SplitName
from vitdet.deploy.engines import EngineDetector, EngineError, convert, judge
from vitdet.deploy.engines.detector import to_pixels
from vitdet.deploy.engines.open_vino import Compiled
from vitdet.deploy.export import export_onnx
from vitdet.deploy.inputs import find_images
from vitdet.deploy.predict import load
from vitdet.deploy.score import Scores, prepare, score, score_batches
from vitdet.errors import UserError
from vitdet.images import load_image

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}
CONFIGS = (".yaml", ".yml", ".ckpt")


class Export:
    """An export.

    Args:
        options: the options of the command line.
        words: those that it does not know, keys and values of the data.

    Raises:
        UserError: the model or the data can't be used.
    """

    def __init__(self, options: argparse.Namespace, words: list[str]) -> None:
        self.options, self.words = options, words
        self.output = self._output()
        self.unchecked = judge.unchecked(self.output)
        self.detector = load(options.model, checkpoint=options.checkpoint, device="cpu")
        if isinstance(self.detector, EngineDetector):
            raise UserError(f"{options.model} is exported already; give the checkpoint that it was made from")
        rule, size = self.detector.transform.size, options.size
        if size is not None and options.check and [rule.square] * 2 != list(size):
            raise UserError(
                f"--size is {size[0]} {size[1]}, but the model's images are resized to: {rule}; they can not "
                "all be scored at this size, so add --no-check"
            )
        self.data = self._data(words) if options.check or options.int8 == "" else None

    def run(self) -> None:
        """Writes the file, and gives it its name once it has been judged.

        Raises:
            UserError: it can't be written, or has lost too much.
        """
        before = None
        if self.options.check and self.data is not None:
            print(f"scored on {self.data.index(self.split)}")
            before = score(self.detector, self.data, split=self.split, images=self.options.images)
        self.finish(before)

    def finish(self, before: Scores | None) -> None:
        """Writes the file of a model with these scores, and judges it.

        Raises:
            UserError: it can't be written, or has lost too much.
        """
        self._write(before)
        exported = EngineDetector(self.unchecked, threads=self.options.threads)
        if not self.options.check:
            print(f"not scored, as --no-check says; it runs on {exported.runs_on}")
        elif before is None:
            self._compare(exported)
        else:
            self._judge(exported, before)
        for path in _files(self.unchecked):
            path.replace(self.output.with_suffix(path.suffix))
        size = sum(path.stat().st_size for path in _files(self.output))
        print(f"{self.output}, {size / 1e6:.1f} MB; next: vitdet predict {self.output} IMAGE")

    def _output(self) -> Path:
        suffix, given = SUFFIXES[self.options.format], self.options.output
        output = Path(given) if given else Path(f"{Path(self.options.model).stem}{suffix}")
        if output.suffix != suffix:
            raise UserError(f"--output is {output}; files of the format {self.options.format} end in {suffix}")
        if output.is_dir():
            raise UserError(f"--output {output} is a folder; give the file to be written")
        output.parent.mkdir(parents=True, exist_ok=True)
        return output

    def _data(self, words: list[str]) -> ImageData | None:
        """The labelled images that are given, or the model's own, if these are known."""
        config = None
        if len(words) > 1 and words[0] == "--data" and Path(words[1]).suffix in CONFIGS:
            config, words = words[1], words[2:]
        if not words and config is None and not self.detector.data:
            return None
        return read_data("export", words, config=config, saved=self.detector.data, name=self.options.model)

    @property
    def split(self) -> SplitName:
        """The images of the score: the validation images, or the test images of data without them."""
        return "val" if self.data is not None and "val" in self.data.splits else "test"

    # ---- the file

    def _write(self, before: Scores | None) -> None:
        options, path = self.options, self.unchecked
        if options.format == "pt2":
            from vitdet.deploy.engines.compiling import to_package

            to_package(self.detector, path)
            return
        direct = options.format == "onnx" and options.int8 is None and not options.half
        graph = path if direct else path.with_suffix(".float.onnx")
        size = None if options.size is None else tuple(options.size)
        export_onnx(self.detector, graph, size=size, preprocessing=options.preprocessing)
        if direct:
            return
        try:
            self._convert(graph, before)
        finally:
            graph.unlink(missing_ok=True)

    def _convert(self, graph: Path, before: Scores | None) -> None:
        options, path = self.options, self.unchecked
        if options.format == "onnx":
            (convert.to_half_onnx if options.half else convert.to_int8_onnx)(graph, path)
        elif options.int8 is None:
            convert.to_openvino(graph, path, half=options.half)
        elif before is None:
            convert.to_int8(graph, path, _Again(self._calibration))
        else:
            allowed = options.loss / 100 if options.loss is not None else judge.INT8_LOSS
            score_of = self._score_of(graph)
            items = _Again(self._batches)
            convert.to_int8(graph, path, _Again(self._calibration), items=items, score=score_of, loss=allowed)

    def _batches(self) -> Iterator[Any]:
        """The batches of the score."""
        assert self.data is not None
        images = self.options.images
        limit = None if images is None else -(-images // self.data.eval_batch_size)
        yield from itertools.islice(self.data.evaluation(self.split), limit)

    def _score_of(self, graph: Path) -> Any:
        """The function that scores a compiled graph on some batches."""
        data = self.data
        assert data is not None

        def score_of(compiled: Compiled, batches: Iterable[Any]) -> float:
            return score_batches(EngineDetector.of(compiled, graph), data, batches, split=self.split).main[1]

        return score_of

    def _calibration(self) -> Iterator[np.ndarray]:
        """Images as the graph takes them, one at a time: those of `--int8`, or the training images of the data."""
        given = self.options.int8
        if given and Path(given).suffix not in CONFIGS:
            paths, _ = find_images(given)
            for path in paths[: convert.CALIBRATION]:
                yield self._shaped(self.detector.transform(load_image(Path(path))).numpy()[None])
            return
        data = self._data(["--data", given]) if given else self.data
        if data is None:
            raise UserError(f"{self.options.model} does not know its data; give images: --int8 FOLDER")
        prepare(data, self.detector)
        for images, _ in data.evaluation("train" if "train" in data.splits else "val"):
            yield from (self._shaped(image.numpy()[None]) for image in images)

    def _shaped(self, image: np.ndarray) -> np.ndarray:
        return (
            to_pixels(torch.from_numpy(image), self.detector.transform).numpy() if self.options.preprocessing else image
        )

    # ---- the verdict

    def _judge(self, exported: EngineDetector, before: Scores) -> None:
        assert self.data is not None
        usual = judge.INT8_LOSS if self.options.int8 is not None else judge.LOSS
        allowed = usual if self.options.loss is None else self.options.loss / 100
        after = score(exported, self.data, split=self.split, images=self.options.images)
        verdict = judge.Verdict(before, after, allowed)
        print("\n".join(verdict.lines()))
        if not verdict.ok:
            raise EngineError(f"{verdict.fault(hint=self._hint())}; the file is kept as {self.unchecked}")

    def _compare(self, exported: EngineDetector) -> None:
        share, text = judge.compare(self.detector, exported)
        print(f"no labelled images are known (--data FOLDER gives some), so there is no score; {text}")
        if share < judge.AGREE and not self.options.half and self.options.int8 is None:
            raise EngineError(f"in 32 bits they should agree; the file is kept as {self.unchecked}")

    def _hint(self) -> str:
        if self.options.int8 is not None:
            return "leave --int8 out, try --format openvino, or accept it with --loss POINTS"
        if self.options.half:
            return "leave --half out, or accept it with --loss POINTS"
        return "this is a fault of the export or the engine: try another --format, and report it"


class _Again:
    """What `make` yields, as often as it is wanted."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __iter__(self) -> Iterator[Any]:
        return self.make()


def _files(path: Path) -> list[Path]:
    """The file, and that of the weights beside an `.xml` file."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
