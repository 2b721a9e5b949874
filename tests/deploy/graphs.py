"""A graph that holds what the contract of exported models says, written by hand: boxes from the mean of an image."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES, CATEGORY_IDS = ["cat", "dog", 'é "bird"'], [3, 7, 90]
METADATA = {
    "format": 1,
    "version": "0.1.0",
    "kind": "boxes",
    "classes": CLASSES,
    "category_ids": CATEGORY_IDS,
    "eval_transform": {"size": {"long_side": 64}, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
    "preprocessing": False,
    "thresholds": [0.1, 0.2, 0.3],
    "decode": {"head": "detections", "stride": 8},
}
DETECTIONS = 5


def write_graph(path, *, metadata=METADATA, opset=17):
    """Writes the graph; a fixed batch or size is none of its properties."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(3, DETECTIONS * 4)).astype(np.float32),
        "v": rng.normal(size=(3, DETECTIONS)).astype(np.float32),
        "boxes_shape": np.array([-1, DETECTIONS, 4]),
        "sides": np.array([3, 2, 3, 2]),
        "three": np.array(3),
    }
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["corners"]),
        helper.make_node("Sigmoid", ["corners"], ["fractions"]),
        helper.make_node("Reshape", ["fractions", "boxes_shape"], ["boxes_of_one"]),
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Gather", ["shape", "sides"], ["size"]),
        helper.make_node("Cast", ["size"], ["scale"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["boxes_of_one", "scale"], ["boxes"]),
        helper.make_node("MatMul", ["mean", "v"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Cast", ["logits"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Mod", ["whole", "three"], ["labels"]),
    ]
    B, D = "batch", DETECTIONS
    graph = helper.make_graph(
        nodes,
        "by_hand",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [B, 3, "height", "width"])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [B, D, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [B, D]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, [B, D]),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    if metadata is not None:
        helper.set_model_props(model, {"vitdet": metadata if isinstance(metadata, str) else json.dumps(metadata)})
    onnx.save(model, path)
    return path


def by_hand(images):
    """What the graph computes, in NumPy: boxes `(B, D, 4)`, scores `(B, D)` and labels `(B, D)`."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(3, DETECTIONS * 4)).astype(np.float32)
    v = rng.normal(size=(3, DETECTIONS)).astype(np.float32)
    mean = images.mean((2, 3))
    height, width = images.shape[2:]
    logits = mean @ v
    boxes = (1 / (1 + np.exp(-(mean @ w)))).reshape(-1, DETECTIONS, 4) * [width, height, width, height]
    return boxes, 1 / (1 + np.exp(-logits)), np.trunc(logits).astype(np.int64) % 3
