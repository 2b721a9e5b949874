"""ONNX files on onnxruntime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.deploy.engines.base import EngineError, check_threads, file_of, library, reading
from vitdet.deploy.engines.description import KEY

# the execution provider of each device, as the user names devices
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "MIGraphXExecutionProvider",
    "mps": "CoreMLExecutionProvider",
    "dml": "DmlExecutionProvider",
}
TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}


class OnnxRuntime:
    """An ONNX file on onnxruntime.

    Args:
        path: the file.
        device: `cpu`, `cuda`, `cuda:1`, `tensorrt`, …; by default CUDA if this onnxruntime has it, otherwise the CPU.
        threads: the number of threads of an operator; by default onnxruntime's choice, one for each core.

    Raises:
        FileNotFoundError: there is no such file.
        EngineError: onnxruntime is not installed, can't read the file, or does not have the device.
    """

    def __init__(self, path: str | Path, *, device: str | None = None, threads: int | None = None) -> None:
        check_threads(threads)
        path = file_of(path)
        runtime = library("onnxruntime", for_what=f"reading {path}")
        providers = _providers(runtime, device)
        options = runtime.SessionOptions()
        # what it logs as an error is raised, too
        options.log_severity_level = 4
        if threads is not None:
            options.intra_op_num_threads = threads
        with reading(path, f"onnxruntime {runtime.__version__}"):
            self._session = runtime.InferenceSession(str(path), options, providers=providers)
        used = self._session.get_providers()[0]
        if used != (providers[0][0] if isinstance(providers[0], tuple) else providers[0]):
            raise EngineError(f"onnxruntime can't use {device}, only {_known(runtime)}: see its log for the reason")
        self.name = f"onnxruntime {runtime.__version__} ({used.removesuffix('ExecutionProvider')})"
        self.metadata = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        self.inputs = {
            node.name: (np.dtype(TYPES.get(node.type, "float32")), list(node.shape))
            for node in self._session.get_inputs()
        }
        self._outputs = [node.name for node in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs))))


def _providers(runtime: Any, device: str | None) -> list[Any]:
    """The execution provider of the device, and the CPU for what it can't do."""
    there = runtime.get_available_providers()
    name, _, number = (device or ("cuda" if PROVIDERS["cuda"] in there else "cpu")).partition(":")
    provider = PROVIDERS.get(name)
    if provider not in there or (number and not number.isdigit()):
        raise EngineError(f"onnxruntime has no device {device!r} here; choose from {_known(runtime)}")
    first = (provider, {"device_id": number}) if number else provider
    return [first, *([] if name == "cpu" else [PROVIDERS["cpu"]])]


def _known(runtime: Any) -> str:
    there = runtime.get_available_providers()
    return ", ".join(name for name, provider in PROVIDERS.items() if provider in there)
