"""Writes a model as an ONNX file."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.jit import TracerWarning  # pyright: ignore[reportPrivateImportUsage]

from vitdet.deploy.export import symbols
from vitdet.deploy.export.graph import Graph, decoding
from vitdet.deploy.predict import Detector, load
from vitdet.errors import UserError
from vitdet.heads.detr.head import DETRHead
from vitdet.heads.masks.base import QueryMaskHead
from vitdet.heads.semantic import SemanticHead

KEY, FORMAT = "vitdet", 1
# the newest operators that TensorRT 10 knows; `Gelu` is one since 20
OPSET = 20
# an example whose sides are no multiples of a patch, and differ
EXAMPLE = (100, 140)


def export_onnx(
    model: str | Path | Detector,
    output: str | Path | None = None,
    *,
    checkpoint: str | Path | None = None,
    size: tuple[int, int] | None = None,
    preprocessing: bool = False,
) -> Path:
    """Writes a model as an ONNX file, whose inputs, outputs and metadata `vitdet.deploy.export.graph` describes.

    Args:
        model: a checkpoint, the name of a published model, or a detector.
        output: the file; by default that of the checkpoint, or the name of the model, with the suffix `.onnx`.
        checkpoint: a file with the weights of the published model.
        size: height and width of the images in pixels, if these are to be fixed. By default both are free.
        preprocessing: whether the graph takes RGB images `(B, H, W, 3)` uint8, and normalises them itself.

    Returns:
        The path of the file.

    Raises:
        UserError: the model can't be exported, or a library of the extra `export` is not installed.
    """
    onnx = library("onnx")
    detector = model if isinstance(model, Detector) else load(model, checkpoint=checkpoint, device="cpu")
    path = Path(output or f"{Path('model' if isinstance(model, Detector) else str(model)).stem}.onnx")
    transform = detector.transform
    pixels = (transform.mean, transform.std) if preprocessing else None
    graph = Graph(detector.backbone, detector.head, size=size, preprocessing=pixels).eval()
    height, width = size or EXAMPLE
    image = torch.zeros(2, 3, height, width)
    if preprocessing:
        image = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    trace(graph, image, path, free=size is None)
    proto = onnx.load(path)
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(describe(detector, preprocessing=preprocessing))
    onnx.save(proto, path)
    return path


def describe(detector: Detector, *, preprocessing: bool = False) -> dict[str, Any]:
    """The entry `vitdet` of the metadata."""
    from vitdet import __version__

    return {
        "format": FORMAT,
        "version": __version__,
        "kind": detector.head.predicts,
        "classes": detector.classes,
        "category_ids": detector.category_ids,
        "eval_transform": detector.transform.config,
        "preprocessing": preprocessing,
        "thresholds": detector.thresholds,
        "decode": decoding(detector.head),
        # plain values, as in a checkpoint
        **({} if detector.data is None else {"data": detector.data}),
    }


def output_names(head: Any) -> list[str]:
    if isinstance(head, SemanticHead):
        return ["logits"]
    if isinstance(head, QueryMaskHead):
        return ["scores", "masks"]
    masks = isinstance(head, DETRHead) and head.masks is not None
    return ["boxes", "scores", "labels", *(["masks"] if masks else [])]


def trace(graph: Graph, images: Tensor, path: Path, *, free: bool) -> None:
    """Writes a graph by tracing it on an example; batch, height and width are `free`, or only the batch.

    Tracing takes seconds where `torch.export` takes minutes, and no size is bound to that of the example.

    Raises:
        UserError: a part of the model branches on the sizes of its input.
    """
    names = output_names(graph.head.head)
    batch, sides = {0: "B"}, {1: "H", 2: "W"} if images.dtype == torch.uint8 else {2: "H", 3: "W"}
    axes = {"images": batch | (sides if free else {}), **dict.fromkeys(names, batch)}
    for name in ("masks", "logits"):
        if name in names and free:
            axes[name] = batch | {2: "h", 3: "w"}
    with _exporting(), torch.no_grad():
        torch.onnx.export(
            graph,
            (images,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=names,
            dynamic_axes=axes,
        )


@contextmanager
def _exporting() -> Iterator[None]:
    """Without fused operators that exporters do not know, and with an error where a size would become a constant."""
    symbols.register(OPSET)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", "Converting a tensor to a Python", TracerWarning)
            warnings.filterwarnings("error", "Using len to get tensor shape", TracerWarning)
            yield
    except TracerWarning as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"a part of the model branches on the sizes of its input ({reason}); give a size") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def library(name: str) -> Any:
    """Imports a library of the extra `export`.

    Raises:
        UserError: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"vitdet export needs {name}: pip install 'vitdet[export]'") from error
