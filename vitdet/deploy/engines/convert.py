"""Converts an exported ONNX file for OpenVINO, in 32 or 16 bits, or with whole numbers of 8 bits."""

import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.deploy.engines.base import EngineError, file_of, first_line, library, reading
from vitdet.deploy.engines.description import KEY
from vitdet.deploy.engines.open_vino import HALF, Compiled, read_metadata

# the number of images from which the ranges of values are estimated for 8 bits
CALIBRATION = 300
LINEAR = ("MatMul", "Gemm")


def to_openvino(source: str | Path, output: str | Path, *, half: bool = False) -> Path:
    """Writes an ONNX file as `output`, an `.xml` file, and a `.bin` file beside it.

    Args:
        source: the ONNX file.
        output: the `.xml` file.
        half: whether weights are stored in 16 bits, and the model runs in the fastest type of 16 bits of its device.

    Raises:
        EngineError: OpenVINO is not installed, or can't convert the file.
    """
    openvino, model, metadata = _read(source)
    return _write(openvino, model, output, metadata, half=half)


def to_int8(
    source: str | Path,
    output: str | Path,
    images: Iterable[np.ndarray],
    *,
    items: Iterable[Any] = (),
    score: Callable[[Compiled, Iterable[Any]], float] | None = None,
    loss: float = 0.01,
) -> Path:
    """Writes an ONNX file for OpenVINO, with matrix products and convolutions in whole numbers of 8 bits, by NNCF.

    Args:
        source: the ONNX file.
        output: the `.xml` file.
        images: what the graph takes, an image at a time, from which the ranges of values are estimated.
        items: what `score` takes, such as batches of a validation set, which must be possible to go through repeatedly.
        score: gives the main score of a model on some of the items. If it is given, layers are taken back to 32 bits
            until no more than `loss` is lost.
        loss: the largest loss of the score, in [0, 1].

    Raises:
        EngineError: OpenVINO or NNCF is not installed, or can't convert the file.
    """
    openvino, model, metadata = _read(source)
    # NNCF would send what it is used for to its makers
    os.environ["NNCF_CI"] = "1"
    nncf = library("nncf", for_what="int8")
    # not `nncf.set_log_level`, which also changes the handlers of others
    logging.getLogger("nncf").setLevel(logging.ERROR)
    options = {"model_type": nncf.ModelType.TRANSFORMER, "preset": nncf.QuantizationPreset.MIXED}
    calibration = nncf.Dataset(images)
    with reading(Path(source), f"NNCF {nncf.__version__}"):
        if score is None:
            model = nncf.quantize(model, calibration, subset_size=CALIBRATION, **options)
        else:

            def judge(compiled: Any, some: Iterable[Any]) -> tuple[float, None]:
                return score(Compiled(compiled, json.dumps(metadata), "OpenVINO (CPU"), some), None

            model = nncf.quantize_with_accuracy_control(
                model,
                calibration,
                nncf.Dataset(items),
                judge,
                max_drop=loss,
                subset_size=CALIBRATION,
                **options,
            )
    return _write(openvino, model, output, metadata)


def to_int8_onnx(source: str | Path, output: str | Path) -> Path:
    """Writes an ONNX file for onnxruntime, with the weights of matrix products in whole numbers of 8 bits.

    The range of the other factor is found as the model runs, so no images are needed.

    Args:
        source: the ONNX file.
        output: the new ONNX file.

    Raises:
        EngineError: onnxruntime is not installed, or can't convert the file.
    """
    source = file_of(source)
    runtime = library("onnxruntime", for_what="int8")
    quantization, onnx = (library(name, for_what="int8") for name in ("onnxruntime.quantization", "onnx"))
    # it advises to run what the export has done already
    logging.getLogger().addFilter(_no_advice)
    try:
        with reading(source, f"onnxruntime {runtime.__version__}"):
            quantization.quantize_dynamic(
                str(source),
                str(output),
                op_types_to_quantize=list(LINEAR),
                per_channel=True,
                nodes_to_exclude=_not_linear(onnx.load(source)),
            )
            onnx.save(_without_twins(onnx.load(output)), output)
    finally:
        logging.getLogger().removeFilter(_no_advice)
    return Path(output)


def to_half_onnx(source: str | Path, output: str | Path) -> Path:
    """Writes an ONNX file whose weights and products are in 16 bits, for GPUs; its inputs and outputs are in 32 bits.

    Args:
        source: the ONNX file.
        output: the new ONNX file.

    Raises:
        EngineError: onnxruntime is not installed, or can't convert the file.
    """
    source, onnx = file_of(source), library("onnx", for_what="half")
    convert = library("onnxruntime.transformers.float16", for_what="half").convert_float_to_float16
    with reading(source, "onnxruntime"):
        onnx.save(convert(onnx.load(source), keep_io_types=True), output)
    return Path(output)


def _not_linear(model: Any) -> list[str]:
    """Products with constants that are no matrices, such as for the size of position embeddings: onnxruntime has no
    ranges for each of their channels."""
    sizes = {weight.name: len(weight.dims) for weight in model.graph.initializer}
    return [node.name for node in model.graph.node if any(sizes.get(name, 2) > 2 for name in node.input)]


def _without_twins(model: Any) -> Any:
    """The model with each value computed once: onnxruntime transposes a weight anew for each layer that shares it."""
    nodes = {tuple(node.output): node for node in model.graph.node}
    weights = {weight.name: weight for weight in model.graph.initializer}
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes.values())
    model.graph.initializer.extend(weights.values())
    return model


def _no_advice(record: logging.LogRecord) -> bool:
    return "pre-processing before quantization" not in record.getMessage()


def _read(source: str | Path) -> tuple[Any, Any, dict[str, Any]]:
    """OpenVINO, the model of a file, and its metadata."""
    source = file_of(source)
    openvino = library("openvino", for_what="the format openvino")
    with reading(source, f"OpenVINO {openvino.__version__.split('-')[0]}"):
        # not `openvino.convert_model`, which sends what it is used for to its makers
        model = openvino.Core().read_model(source)
    return openvino, model, json.loads(read_metadata(model) or "{}")


def _write(openvino: Any, model: Any, output: str | Path, metadata: dict[str, Any], *, half: bool = False) -> Path:
    metadata |= {"precision": HALF} if half else {}
    model.set_rt_info(json.dumps(metadata), KEY)
    try:
        openvino.save_model(model, str(output), compress_to_fp16=half)
    except RuntimeError as error:
        raise EngineError(f"{output} can't be written: {first_line(error)}; give another --output") from error
    return Path(output)
