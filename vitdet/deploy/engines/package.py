"""Packages of AOTInductor, `model.pt2`, on PyTorch alone.

A package holds machine code, which runs as soon as it is loaded: load only packages that you trust.
"""

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch

from vitdet.deploy.engines.base import EngineError, check_threads, file_of, reading
from vitdet.deploy.engines.description import KEY


class Package:
    """A package of AOTInductor, which was compiled for a kind of device.

    Args:
        path: the file.
        device: the device; only the kind for which the package was compiled is possible.
        threads: the number of threads of PyTorch, in this whole process.

    Raises:
        FileNotFoundError: there is no such file.
        EngineError: the file is damaged, or was compiled for another device.
    """

    def __init__(self, path: str | Path, *, device: str | None = None, threads: int | None = None) -> None:
        check_threads(threads)
        path, version = file_of(path), f"torch {torch.__version__}"
        with reading(path, version):
            # not at the top: it is part of the compiler, whose import takes seconds
            from torch._inductor import aoti_load_package

            self._model = aoti_load_package(str(path), run_single_threaded=True)
            said = self._model.get_metadata()
        compiled_for = said.get("AOTI_DEVICE_KEY", "cpu")
        if device is not None and torch.device(device).type != compiled_for:
            raise EngineError(f"{path} was compiled for {compiled_for}, not for {device}: export it on such a machine")
        if threads is not None:
            torch.set_num_threads(threads)
        # it was loaded for one caller at a time
        self._turn = Lock()
        self._device = torch.device(device or compiled_for)
        self.name, self.metadata = f"AOTInductor, {version} ({compiled_for})", said.get(KEY)
        self.inputs: dict[str, tuple[np.dtype, list[Any]]] = {
            "images": (np.dtype("float32"), ["batch", 3, "height", "width"])
        }

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with self._turn:
            outputs = self._model(*(torch.from_numpy(array).to(self._device) for array in inputs.values()))
            return {name: value.cpu().numpy() for name, value in outputs.items()}
