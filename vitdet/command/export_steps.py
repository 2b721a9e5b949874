"""The steps of `vitdet export`: the score of the model, the file, the score of the file in its engine, and its name."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.checkpoint import Checkpoint
from vitdet.command.data_only import read_data
from vitdet.data import ImageData
from vitdet.deploy.engines import EngineDetector, EngineError, convert, judge
from vitdet.deploy.engines.open_vino import Compiled
from vitdet.deploy.export import export_onnx
from vitdet.deploy.inputs import find_images
from vitdet.deploy.predict import load
from vitdet.deploy.score import Scores, prepare, score, score_batches
from vitdet.errors import UserError
from vitdet.images import load_image

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}
# the share of predictions that must agree where no labelled images are known, in 32 bits
AGREE = 0.9


class Export:
    """An export.

    Args:
        options: the options of the command line.
        words: those that it does not know, keys and values of the data.
    """

    def __init__(self, options: argparse.Namespace, words: list[str]) -> None:
        self.options, self.words = options, words
        self.output = self._output()
        self.unchecked = judge.unchecked(self.output)
        self.detector = load(options.model, checkpoint=options.checkpoint, device="cpu")
        self.saved = None if options.checkpoint or not Path(options.model).is_file() else Checkpoint.read(options.model).data
        self.data = self._data() if options.check or options.int8 == "" else None

    def run(self) -> None:
        """Writes the file, and gives it its name once it has been judged.

        Raises:
            UserError: it has lost too much.
        """
        before = self._before()
        self._write(before)
        if not self.options.check:
            print("not scored in its engine: --no-check")
        else:
            exported = EngineDetector(self.unchecked, threads=self.options.threads)
            self._judge(exported, before)
        for path in files(self.unchecked):
            path.replace(self.output.with_suffix(path.suffix))
        sizes = sum(path.stat().st_size for path in files(self.output))
        print(f"{self.output}, {sizes / 1e6:.1f} MB; next: vitdet predict {self.output} IMAGE")

    # ---- before

    def _output(self) -> Path:
        suffix = SUFFIXES[self.options.format]
        given = self.options.output
        output = Path(given) if given else Path(f"{Path(self.options.model).stem}{suffix}")
        if output.suffix != suffix:
            raise UserError(f"--output is {output}; files of the format {self.options.format} end with {suffix}")
        output.parent.mkdir(parents=True, exist_ok=True)
        return output

    def _data(self) -> ImageData | None:
        """The labelled images for the score: those that are given, or the model's own, if they are known."""
        words, config = list(self.words), None
        if len(words) > 1 and words[0] == "--data" and Path(words[1]).suffix in (".yaml", ".yml", ".ckpt"):
            config, words = words[1], words[2:]
        if not words and config is None and not self.saved:
            return None
        return read_data("export", words, config=config, saved=self.saved, name=self.options.model)

    def _before(self) -> Scores | None:
        if self.data is None or not self.options.check:
            return None
        print(self.data.describe().splitlines()[-2 if "test" in self.data.splits else -2])
        return score(self.detector, self.data, images=self.options.images)

    # ---- the file

    def _write(self, before: Scores | None) -> None:
        options, path = self.options, self.unchecked
        if options.format == "pt2":
            from vitdet.deploy.engines.compile import to_package

            to_package(self.detector, path)
            return
        graph = path if options.format == "onnx" and options.int8 is None else path.with_suffix(".float.onnx")
        export_onnx(self.detector, graph, preprocessing=options.preprocessing)
        try:
            self._convert(graph, before)
        finally:
            if graph != path:
                graph.unlink(missing_ok=True)

    def _convert(self, graph: Path, before: Scores | None) -> None:
        options, path = self.options, self.unchecked
        if options.format == "openvino" and options.int8 is None:
            convert.to_openvino(graph, path, half=options.half)
        elif options.format == "openvino":
            items, judged = self._accuracy(graph) if before is not None else ((), None)
            convert.to_int8(graph, path, Images(self._calibration()), items=items, score=judged)
        elif options.int8 is not None:
            convert.to_int8_onnx(graph, path)
        elif options.half:
            convert.to_half_onnx(graph, path)
