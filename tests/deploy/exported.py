"""Exported graphs beside the models that they are made from, on the same images in both engines."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from torch import Tensor, nn

from vitdet import Backbone
from vitdet.data.transforms import EvalTransform
from vitdet.deploy.export import export_onnx, infer
from vitdet.deploy.predict import Detector

CLASSES = list("abcde")
# batch, height and width: one side is no multiple of a patch, one image is upright
SIZES = [(2, 64, 96), (1, 71, 52), (2, 33, 80)]


def detector(backbone: Backbone, head: nn.Module) -> Detector:
    """A model away from initial values at which mistakes do not show: zero biases, unit norms, equal boxes."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in [*backbone.parameters(), *head.parameters()]:
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.ndim == 1 else 0.05))
    transform = EvalTransform(mean=backbone.mean, std=backbone.std)
    return Detector(backbone, head, classes=CLASSES, category_ids=list(range(5)), transform=transform, device="cpu")


@dataclass
class Exported:
    """An exported graph, run by onnxruntime, and by OpenVINO if `openvino` is set."""

    path: Path
    engines: dict

    @classmethod
    def of(cls, model: Detector, path: Path, *, both: bool = True, **options) -> "Exported":
        export_onnx(model, path, **options)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.log_severity_level = 1, 3
        session = onnxruntime.InferenceSession(path, settings)
        names = [output.name for output in session.get_outputs()]
        engines = {"onnxruntime": lambda x: dict(zip(names, session.run(None, {"images": x.numpy()})))}
        if both:
            core = openvino.Core()
            compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
            engines["OpenVINO"] = lambda x: dict(zip(names, map(np.array, compiled(x.numpy()).values())))
        return cls(path, engines)

    @property
    def metadata(self) -> dict:
        return json.loads(next(p.value for p in onnx.load(self.path).metadata_props if p.key == "vitdet"))

    def outputs(self, x: Tensor) -> dict[str, dict[str, Tensor]]:
        """The outputs by name, of each engine by its name."""
        return {
            engine: {name: torch.from_numpy(value) for name, value in run(x).items()}
            for engine, run in self.engines.items()
        }

    def predictions(self, images, sizes) -> dict[str, list]:
        """The predictions of each engine by its name."""
        metadata = self.metadata
        return {
            engine: infer(lambda x, engine=engine: self.outputs(x)[engine], images, sizes, metadata)
            for engine in self.engines
        }


@torch.inference_mode()
def wanted(model: Detector, x: Tensor) -> dict[str, Tensor]:
    """What the graph should return, from the outputs of the model in PyTorch."""
    size, outputs = tuple(x.shape[2:]), model.head(model.backbone(x))
    if hasattr(outputs, "sizes") and not hasattr(outputs, "embeddings"):
        return {"logits": torch.stack(outputs.logits.maps())}
    if hasattr(outputs, "embeddings"):
        maps = torch.stack(outputs.pixels[-1].maps())
        masks = torch.einsum("bqc,bchw->bqhw", outputs.embeddings[-1], maps)
        return {"scores": outputs.logits[-1].softmax(-1)[..., :-1], "masks": masks}
    found = model.head.predict(outputs, [size] * len(x))
    parts = {"boxes": "boxes_xyxy", "scores": "scores", "labels": "labels"}
    return {name: torch.stack([getattr(one, key) for one in found]) for name, key in parts.items()}


def check_equal(model: Detector, exported: Exported, sizes=SIZES) -> None:
    """The graph's outputs are those of the model to 1e-4, relative to the image for boxes and to the map for logits."""
    for batch, height, width in sizes:
        torch.manual_seed(height)
        x = torch.randn(batch, 3, height, width)
        expected = wanted(model, x)
        for engine, outputs in exported.outputs(x).items():
            for name, value in expected.items():
                scale = max(height, width) if name == "boxes" else max(1.0, value.abs().max().item())
                message = f"{engine}: {name} of {batch} × {width}×{height}"
                torch.testing.assert_close(
                    outputs[name], value, rtol=0, atol=1e-4 * scale, msg=lambda text, m=message: f"{m}: {text}"
                )
