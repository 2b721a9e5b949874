"""Operators that PyTorch's exporter does not know, as they are written in ONNX."""

from typing import Any

import torch
from torch.onnx.symbolic_helper import parse_args  # pyright: ignore[reportPrivateImportUsage]

# float32 in ONNX
FLOAT = 1


def register(opset: int) -> None:
    """Tells the exporter of the operators below; from then on they are known in this process."""
    tell: Any = getattr(torch.onnx, "register_custom_op_symbolic")  # noqa: B009
    tell("vitdet::kept", _kept, opset)
    tell("aten::rms_norm", _rms_norm, opset)


def _kept(g: Any, boxes: Any, scores: Any, iou: Any) -> Any:
    most = g.op("Constant", value_t=torch.tensor([2**31 - 1]))
    return g.op("NonMaxSuppression", boxes, scores, most, g.op("Cast", iou, to_i=FLOAT))


@parse_args("v", "is", "v", "f")
def _rms_norm(g: Any, x: Any, shape: list[int], weight: Any, eps: float | None) -> Any:
    axes = g.op("Constant", value_t=torch.arange(-len(shape), 0))
    square = g.op("ReduceMean", g.op("Mul", x, x), axes, keepdims_i=1)
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    root = g.op("Sqrt", g.op("Add", square, g.op("Constant", value_t=torch.tensor(eps))))
    return g.op("Mul", g.op("Div", x, root), weight)
