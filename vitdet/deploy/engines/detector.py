"""An exported model as a `Detector`.

B images of equal size H×W
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vitdet.data.transforms import EvalTransform
from vitdet.deploy.engines.base import Engine, EngineError, first_line
from vitdet.deploy.engines.description import Description
from vitdet.deploy.engines.onnx_runtime import OnnxRuntime
from vitdet.deploy.engines.open_vino import OpenVino
from vitdet.deploy.engines.package import Package
from vitdet.deploy.export.finish import infer
from vitdet.deploy.predict import Detector
from vitdet.errors import UserError
from vitdet.structures import Prediction
from vitdet.thresholds import THRESHOLD, check_threshold

EngineName = Literal["onnxruntime", "openvino"]
ENGINES = {"onnxruntime": OnnxRuntime, "openvino": OpenVino, "pt2": Package}


class EngineDetector(Detector):
    """An exported model, which predicts as the `Detector` that it was exported from, on another engine.

    Images of a batch that have other sizes are run one size after the other. Boxes and masks are brought to the size of
    the original by the same code as PyTorch's.

    Args:
        path: A file of `vitdet export`: `model.onnx`, `model.xml` with `model.bin` beside it, or `model.pt2`.
        device: A device of the engine: `cpu`, `cuda`, `cuda:1`; for OpenVINO also `gpu`, `npu` or `auto`. By default
            the best that onnxruntime has, and the CPU for others.
        engine: `onnxruntime` or `openvino`, both of which read ONNX files. By default onnxruntime.
        threads: Number of threads; by default one for each core.

    Raises:
        FileNotFoundError: there is no such file.
        EngineError: the file is damaged or was not written by vitdet, or the engine is not installed or has no such
            device.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str | torch.device | None = None,
        engine: EngineName | None = None,
        threads: int | None = None,
    ) -> None:
        self._use(open_engine(path, device=device, engine=engine, threads=threads), path)
        self._choice = {"device": device, "engine": engine, "threads": threads}

    def __reduce__(self) -> tuple[Any, ...]:
        # engines can't be copied or sent to another process: there, the file is opened again
        if self._choice is None:
            raise EngineError(f"a detector of the open graph {self.path} can't be copied; load the file instead")
        return _again, (type(self), self.path.absolute(), self._choice, self.thresholds)

    @classmethod
    def of(cls, engine: Engine, path: str | Path) -> "EngineDetector":
        """The detector of a graph that is open already; `path` is named in messages."""
        detector = cls.__new__(cls)
        detector._use(engine, path)
        return detector

    def _use(self, engine: Engine, path: str | Path) -> None:
        self.engine = engine
        self._choice: dict[str, Any] | None = None
        self.description = said = Description.read(self.engine.metadata, path)
        # where its inputs and outputs are; the engine has its own device
        self.device = torch.device("cpu")
        self.path, self.transform, self.data = Path(path), said.transform, said.entries.get("data")
        self.classes, self.category_ids = said.classes, said.category_ids
        self.thresholds = [THRESHOLD] * len(self.classes) if said.thresholds is None else said.thresholds
        check_threshold(self.thresholds, classes=len(self.classes))

    @property
    def kind(self) -> str:
        return self.description.kind

    @property
    def predicts(self) -> str:
        return self.description.predicts

    @property
    def runs_on(self) -> str:
        return self.engine.name

    def infer(self, x: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        try:
            return infer(self.run, x, sizes, self.description.entries)
        except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            if isinstance(error, (UserError, torch.OutOfMemoryError)):
                raise
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise EngineError(
                f"{self.path}: the outputs of the graph are not what its metadata say ({reason}); export it again"
            ) from error

    def run(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs of the graph for normalised images `(B, 3, H, W)`.

        Raises:
            EngineError: the engine can't run images of this size or number.
        """
        (name, (dtype, shape)), *_ = self.engine.inputs.items()
        if self.description.preprocessing:
            images = to_pixels(images, self.transform)
        try:
            outputs = self.engine.run({name: np.ascontiguousarray(images.numpy().astype(dtype, copy=False))})
        except Exception as error:
            raise EngineError(
                f"{self.path}: {self.engine.name} can't run a batch of {tuple(images.shape)}, the graph takes "
                f"{tuple(shape)}: {first_line(error)}"
            ) from error
        tensors = {key: torch.from_numpy(np.asarray(value)) for key, value in outputs.items()}
        return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def _again(cls: Any, path: Path, choice: dict[str, Any], thresholds: list[float]) -> EngineDetector:
    detector = cls(path, **choice)
    detector.thresholds = thresholds
    return detector


def to_pixels(images: Tensor, transform: EvalTransform) -> Tensor:
    """Normalised images `(B, 3, H, W)` as the RGB values `(B, H, W, 3)` uint8 that they were."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (transform.mean, transform.std))
    return ((images * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1)


def open_engine(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    engine: EngineName | None = None,
    threads: int | None = None,
) -> Engine:
    """Opens a file on the engine that reads it, see `EngineDetector`.

    Raises:
        EngineError: the engine does not read such files.
    """
    suffix = Path(path).suffix
    able = {".onnx": ["onnxruntime", "openvino"], ".pt2": ["pt2"]}.get(suffix, ["openvino"])
    if engine is not None and engine not in able:
        raise EngineError(f"engine is {engine!r}, but {path} is read by {' or '.join(able)}; leave it out")
    return ENGINES[engine or able[0]](path, device=None if device is None else str(device), threads=threads)


def load(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    engine: EngineName | None = None,
    threads: int | None = None,
    **others: object,
) -> EngineDetector:
    """Loads an exported model, see `EngineDetector`.

    Raises:
        UserError: an option is not one of exported models.
    """
    if others:
        raise UserError(f"{min(others)} is no option of exported models; choose from device, engine, threads")
    return EngineDetector(path, device=device, engine=engine, threads=threads)
