"""Compiles a model to a package of AOTInductor, which PyTorch runs without vitdet.

B images of equal size H×W
"""

import json
import shutil
from pathlib import Path

import torch

from vitdet.deploy.engines.base import EngineError, first_line
from vitdet.deploy.engines.description import KEY
from vitdet.deploy.export.graph import Graph
from vitdet.deploy.export.write import EXAMPLE, describe
from vitdet.deploy.predict import Detector

# what PyTorch calls to compile, in the order in which it looks for one
COMPILERS = ("g++", "clang++", "c++", "cl")


def to_package(detector: Detector, output: str | Path) -> Path:
    """Writes a model as a package of machine code for this kind of machine.

    Args:
        detector: the model.
        output: the `.pt2` file.

    Raises:
        EngineError: there is no C++ compiler, or the model can't be compiled.
    """
    if not any(map(shutil.which, COMPILERS)):
        raise EngineError(
            "the format pt2 needs a C++ compiler, and there is none; install one (apt install g++), or export onnx"
        )
    graph = Graph(detector.backbone, detector.head).eval()
    images = torch.zeros(2, 3, *EXAMPLE, device=detector.device)
    free = torch.export.Dim.DYNAMIC
    metadata = {"aot_inductor.metadata": {KEY: json.dumps(describe(detector))}}
    try:
        with torch.no_grad():
            program = torch.export.export(graph, (images,), dynamic_shapes=({0: free, 2: free, 3: free},))
            torch._inductor.aoti_compile_and_package(program, package_path=str(output), inductor_configs=metadata)
    # the compiler raises types of its own, and plain RuntimeErrors
    except Exception as error:
        raise EngineError(f"the model can't be compiled: {first_line(error)}; export onnx instead") from error
    return Path(output)
