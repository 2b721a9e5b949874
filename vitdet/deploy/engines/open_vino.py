"""OpenVINO's own files, and ONNX files, on OpenVINO."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from vitdet.deploy.engines.base import EngineError, check_threads, file_of, library, reading
from vitdet.deploy.engines.description import KEY

# the entry `precision` of the metadata of a model that is to run in the fastest type of 16 bits
HALF = "half"
# a shape that has come so often is compiled for itself, which takes a second or two; at most so many shapes are
OFTEN, MOST = 4, 4


class Compiled:
    """A model that OpenVINO has compiled.

    Args:
        model: the compiled model.
        metadata: what its file holds under `vitdet`.
        name: the version and the device.
    """

    def __init__(self, model: Any, metadata: str | None, name: str) -> None:
        self._model, self.metadata = model, metadata
        self.name = f"{name}, {_precision(model)})"
        self.inputs = {
            port.get_any_name(): (
                np.dtype(port.get_element_type().to_dtype()),
                [side.get_length() if side.is_static else str(side) for side in port.get_partial_shape()],
            )
            for port in model.inputs
        }
        self._outputs = [port.get_any_name() for port in model.outputs]
        # a compiled model has one place for inputs and outputs, and refuses a second caller
        self._turn = Lock()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with self._turn:
            model = self._for({name: array.shape for name, array in inputs.items()})
            found = model(dict(inputs))
            return {name: np.array(found[port]) for name, port in zip(self._outputs, model.outputs)}

    def _for(self, shapes: dict[str, tuple[int, ...]]) -> Any:
        """The compiled model for inputs of these shapes."""
        return self._model


class OpenVino(Compiled):
    """A model on OpenVINO: its own format, `model.xml` with `model.bin` beside it, or an ONNX file.

    Models that were exported with `--half` run in the type that the device is fastest in, bf16 or f16, others in f32:
    left to itself, OpenVINO computes in bf16 on CPUs that can, whatever the type of the file. Shapes that come again
    and again are compiled for themselves, which is faster.

    Args:
        path: the file, or a folder with a single `.xml` file.
        device: one of OpenVINO's devices, such as `cpu`, `gpu`, `npu` or `auto`; by default the CPU.
        threads: the number of threads; by default OpenVINO's choice, one for each core.

    Raises:
        FileNotFoundError: there is no such file.
        EngineError: OpenVINO is not installed, can't read the file, or does not have the device.
    """

    def __init__(self, path: str | Path, *, device: str | None = None, threads: int | None = None) -> None:
        check_threads(threads)
        path = file_of(_file_in(path))
        if path.suffix == ".xml":
            file_of(path.with_suffix(".bin"))
        openvino = library("openvino", for_what=f"reading {path}")
        core, version = openvino.Core(), openvino.__version__.split("-")[0]
        where, there = (device or "cpu").upper(), core.available_devices
        if re.split("[.:]", where)[0] not in {"AUTO", *(name.partition(".")[0] for name in there)}:
            raise EngineError(f"OpenVINO has no device {device!r} here; choose from {', '.join(there).lower()}")
        with reading(path, f"OpenVINO {version}"):
            model = core.read_model(path)
            metadata = read_metadata(model)
            options: dict[str, Any] = {} if _is_half(metadata) else {"INFERENCE_PRECISION_HINT": "f32"}
            if threads is not None:
                options["INFERENCE_NUM_THREADS"] = threads
            super().__init__(core.compile_model(model, where, options), metadata, f"OpenVINO {version} ({where}")
        self._seen: Counter[tuple[tuple[int, ...], ...]] = Counter()
        self._fixed: dict[tuple[tuple[int, ...], ...], Any] = {}
        self._compile = lambda shapes: core.compile_model(_reshaped(core.read_model(path), shapes), where, options)

    def _for(self, shapes: dict[str, tuple[int, ...]]) -> Any:
        key = tuple(shapes.values())
        self._seen[key] += 1
        if self._seen[key] == OFTEN and len(self._fixed) < MOST:
            self._fixed[key] = self._compile(shapes)
        return self._fixed.get(key, self._model)


def _precision(model: Any) -> str:
    """The type that a compiled model computes in; `auto` says it only of the devices that it has chosen."""
    key = "INFERENCE_PRECISION_HINT"
    if key in model.get_property("SUPPORTED_PROPERTIES"):
        return model.get_property(key).to_string()
    chosen = model.get_property("DEVICE_PROPERTIES")
    return ", ".join(f"{name} {said[key].to_string()}" for name, said in chosen.items() if key in said)


def _reshaped(model: Any, shapes: dict[str, tuple[int, ...]]) -> Any:
    model.reshape({name: list(shape) for name, shape in shapes.items()})
    return model


def _file_in(path: str | Path) -> Path:
    """The `.xml` file of a folder; a file itself."""
    folder = Path(path)
    if not folder.is_dir():
        return folder
    files = sorted(folder.glob("*.xml"))
    if len(files) != 1:
        raise EngineError(f"{folder} has {len(files)} .xml files; give the one of the model")
    return files[0]


def read_metadata(model: Any) -> str | None:
    """What the file holds under `vitdet`; OpenVINO keeps the metadata of an ONNX file under `framework`."""
    for keys in ([KEY], ["framework", KEY]):
        if model.has_rt_info(keys):
            return str(model.get_rt_info(keys).astype(str))
    return None


def _is_half(metadata: str | None) -> bool:
    try:
        entries = json.loads(metadata or "{}")
    except ValueError:
        return False
    return isinstance(entries, dict) and entries.get("precision") == HALF
