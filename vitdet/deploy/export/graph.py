"""The model as one dense graph: images of equal size in, decoded outputs out. Batch, height and width are dynamic.

B images, H×W their size in pixels, D detections, Q queries, K classes, h×w a map of a stride that the metadata names

Inputs
    images   `(B, 3, H, W)` float32, normalised by mean and std; with pre-processing inside, `(B, H, W, 3)` uint8 RGB

Outputs, by the kind of head (`decode` in the metadata)
    detections (DETRHead, PlainDETRHead, DEIMHead), best score first
        boxes    `(B, D, 4)` float32, corners x1, y1, x2, y2 in pixels of the input image, inside of it
        scores   `(B, D)` float32 in [0, 1]
        labels   `(B, D)` int64, classes 0..K-1
        masks    `(B, D, h, w)` float32, the logits of the masks, if the head has masks
    queries (MaskDecoderHead, EoMTHead)
        scores   `(B, Q, K)` float32 in [0, 1], of each class and query
        masks    `(B, Q, h, w)` float32, the logits of the queries' masks
    pixels (SemanticHead)
        logits   `(B, K, h, w)` float32

`finish` of `vitdet.deploy.export.finish` turns these outputs into the predictions that PyTorch's model makes: it brings
masks and maps to the size of the original image, and combines queries to instances, a semantic map or segments, with
the functions of `vitdet.heads.masks`.

Metadata: a JSON object under the key `vitdet`
    format          1
    version         the version of vitdet that wrote the graph
    kind            `boxes`, `masks`, `semantic` or `panoptic`: what is predicted and scored
    classes         names, indexed by label
    category_ids    the data set's ids of the classes, indexed by label
    eval_transform  the arguments of `EvalTransform`
    preprocessing   whether the graph takes uint8 RGB images, and normalises them itself
    thresholds      K scores, see `Detector.thresholds`
    decode          what `finish` needs: `head` (`detections`, `queries` or `pixels`), `stride` of masks and maps in
                    pixels, and, for queries and pixels, `task`, `things`, `rules` and `tile`
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from vitdet.deploy.export.detection import DeformableGraph, PlainGraph
from vitdet.deploy.export.dynamic import Size
from vitdet.deploy.export.masks import EoMTGraph, MaskDecoderGraph, SemanticGraph
from vitdet.deploy.export.simplify import simplified
from vitdet.deploy.export.trunk import DenseBackbone
from vitdet.errors import UserError
from vitdet.heads.deim.head import DEIMHead
from vitdet.heads.detr.head import DETRHead
from vitdet.heads.detr.plain import PlainDETRHead
from vitdet.heads.masks.branches import MASK_STRIDE, RefinedMasks
from vitdet.heads.masks.decoder import MaskDecoderHead
from vitdet.heads.masks.eomt import EoMTHead
from vitdet.heads.semantic import SemanticHead

GRAPHS: dict[type[nn.Module], Any] = {
    DETRHead: DeformableGraph,
    DEIMHead: DeformableGraph,
    PlainDETRHead: PlainGraph,
    MaskDecoderHead: MaskDecoderGraph,
    EoMTHead: EoMTGraph,
    SemanticHead: SemanticGraph,
}


class Graph(nn.Module):
    """A trained model as a module that can be exported.

    Args:
        backbone, head: the model.
        size: height and width of the images, if they are to be fixed; else the graph takes any.
        preprocessing: mean and standard deviation of each channel, if images are uint8 `(B, H, W, 3)`.

    Raises:
        UserError: the head is of a class that can't be exported.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        size: tuple[int, int] | None = None,
        preprocessing: tuple[list[float], list[float]] | None = None,
    ) -> None:
        super().__init__()
        if type(head) not in GRAPHS:
            known = ", ".join(cls.__name__ for cls in GRAPHS)
            raise UserError(f"a {type(head).__name__} can't be exported; wanted one of {known}")
        copied: Any = simplified(backbone)
        self.backbone, self.head = DenseBackbone(copied), GRAPHS[type(head)](simplified(head))
        self.size, self.preprocessing = size, preprocessing

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if self.preprocessing is not None:
            mean, std = (torch.tensor(values) * 255 for values in self.preprocessing)
            images = ((images.float() - mean) / std).permute(0, 3, 1, 2)
        size: tuple[Size, Size] = self.size or (images.shape[2], images.shape[3])
        maps, rest = self.backbone(images, size)
        return self.head(maps, rest, size)


def decoding(head: Any) -> dict[str, Any]:
    """The entry `decode` of the metadata, see above."""
    if isinstance(head, DETRHead):
        masks = head.masks
        stride = None if masks is None else MASK_STRIDE if isinstance(masks, RefinedMasks) else masks.pixels.stride
        return {"head": "detections", "stride": stride}
    if isinstance(head, (DEIMHead, PlainDETRHead)):
        return {"head": "detections", "stride": None}
    if isinstance(head, SemanticHead):
        return {"head": "pixels", "stride": head.strides[0], "task": head.task, "tile": head.tile}
    stride = head.pixel_stride if isinstance(head, EoMTHead) else head.pixels.stride
    rules = {"rules": dataclasses.asdict(head.rules), "things": head.things.tolist()}
    return {"head": "queries", "stride": stride, "task": head.task, "tile": head.tile, **rules}
