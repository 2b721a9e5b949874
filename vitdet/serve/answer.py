"""What is answered: the objects of a prediction as JSON, or drawn on the image.

T objects, K classes; H×W is the size of the original image in pixels, h×w that at which masks were made.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from vitdet.masks import encode, outlines, resize_mask
from vitdet.structures import Prediction

# masks of larger images are made, and pictures drawn, at this many pixels: a mask of each query would fill the memory
WORK_PIXELS = 2**21


def work_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size `(h, w)` at which masks are made: that of the image, or the same shape with `WORK_PIXELS`.

    Example:
        >>> work_size((100, 200)), work_size((4000, 4000))
        ((100, 200), (1448, 1448))
    """
    scale = min(1.0, math.sqrt(WORK_PIXELS / max(1, size[0] * size[1])))
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def objects(prediction: Prediction, size: tuple[int, int], masks: str) -> list[dict[str, Any]]:
    """The objects of a prediction, best score first; of a semantic map its classes, largest area first.

    Args:
        prediction: what was found, in pixels of its own size `(h, w)`.
        size: `(H, W)` of the original image; boxes and masks are scaled to it.
        masks: `rle`, `polygons` or `none`.
    """
    if prediction.semantic is not None:
        return _areas(prediction, prediction.semantic.cpu().numpy(), size, masks)
    scale = [size[1] / prediction.size[1], size[0] / prediction.size[0]] * 2
    boxes = np.round(prediction.boxes_xyxy.double().cpu().numpy() * scale, 2).tolist()
    scores, labels = prediction.scores.double().cpu().tolist(), prediction.labels.cpu().tolist()
    found = []
    for t, (box, score, label) in enumerate(zip(boxes, scores, labels)):
        found.append({**_class(prediction, label), "score": round(score, 4), "box": box})
        mask = None if masks == "none" else _mask_of(prediction, t)
        if mask is not None:
            found[-1]["mask"] = _told(mask, size, masks)
    return found


def picture(prediction: Prediction, image: np.ndarray, kind: str) -> bytes:
    """The image `(h, w, 3)` with what was found, as a JPEG or PNG file.

    Args:
        prediction: what was found, in pixels of the image.
        kind: `jpeg` or `png`.
    """
    file = io.BytesIO()
    prediction.plot(Image.fromarray(image)).save(file, kind.upper(), quality=90)
    return file.getvalue()


def scaled(prediction: Prediction, size: tuple[int, int]) -> Prediction:
    """A prediction without masks or maps, in pixels of an image of another size `(h, w)`."""
    factor = prediction.boxes_xyxy.new_tensor([size[1] / prediction.size[1], size[0] / prediction.size[0]] * 2)
    return replace(prediction, boxes_xyxy=prediction.boxes_xyxy * factor, size=size)


def _class(prediction: Prediction, label: int) -> dict[str, Any]:
    category = prediction.category_ids[label] if len(prediction.category_ids) else label
    return {"name": prediction.name_of(label), "label": label, "category_id": category}


def _mask_of(prediction: Prediction, t: int) -> np.ndarray | None:
    if prediction.panoptic is not None:
        return (prediction.panoptic == t + 1).cpu().numpy()
    return None if prediction.masks is None else prediction.masks[t].cpu().numpy()


def _areas(prediction: Prediction, classes: np.ndarray, size: tuple[int, int], masks: str) -> list[dict[str, Any]]:
    found = []
    labels, counts = np.unique(classes, return_counts=True)
    for label, count in sorted(zip(labels.tolist(), counts.tolist()), key=lambda pair: -pair[1]):
        found.append({**_class(prediction, label), "area": round(count / classes.size, 4)})
        if masks != "none":
            found[-1]["mask"] = _told(classes == label, size, masks)
    return found


def _told(mask: np.ndarray, size: tuple[int, int], masks: str) -> dict[str, Any]:
    """A mask `(h, w)` as run lengths of COCO, or as polygons, in pixels of the original."""
    if masks == "polygons":
        return {"size": list(size), "polygons": polygons(mask, size)}
    whole = mask if mask.shape == size else resize_mask(mask.astype(np.uint8), *size)
    return {"size": list(size), "counts": encode(whole[None])[0].decode()}


def polygons(mask: np.ndarray, size: Sequence[int]) -> list[list[float]]:
    """The outlines `[x1, y1, x2, y2, …]` of a mask `(h, w)`, scaled to `(H, W)`; see `outlines` on holes.

    Example:
        >>> polygons(np.ones((2, 3), bool), (4, 6))
        [[0.0, 0.0, 0.0, 4.0, 6.0, 4.0, 6.0, 0.0]]
    """
    scale = np.array([size[1] / mask.shape[1], size[0] / mask.shape[0]])
    return [np.round(line * scale, 1).ravel().tolist() for line in outlines(mask, tolerance=0.5)]
