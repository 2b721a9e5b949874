"""Drawing samples as the model sees them, with the boxes, masks and classes of the target, and of what was found.

H×W stands for the size of a sample in pixels, T for the number of its objects.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vitdet.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from vitdet.draw import draw, draw_classes
from vitdet.masks import VOID
from vitdet.plates import font_of
from vitdet.structures import Prediction, Target

# the height of the line below a picture, in pixels
LINE = 16
# small samples are enlarged at most so many times, so that names can be read
ENLARGED = 4.0


def draw_sample(
    image: Tensor,
    target: Target,
    *,
    names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    outline: bool = True,
    side: int | None = None,
) -> Image.Image:
    """A training sample with its objects.

    Args:
        image: `(3, H, W)`, normalised.
        target: its objects.
        names: the class names, by label.
        mean, std: what the image was normalised with.
        outline: whether boxes are drawn, too.
        side: the longest side of the picture in pixels, up to four times that of the sample; by default the same.
    """
    pixels = _pixels(image, mean, std, side)
    h, w = pixels.shape[:2]
    boxes = cxcywh_to_xyxy(target.boxes_cxcywh.detach().float().cpu()) * torch.tensor([w, h, w, h])
    labels: list[int] = target.labels.tolist()
    masks = None if target.masks is None or not labels else _smaller(target.masks.detach(), h, w).bool().cpu().numpy()
    texts = [names[label] if label < len(names) else str(label) for label in labels]
    return draw(Image.fromarray(pixels), boxes.tolist(), texts, labels, masks=masks, outline=outline)


def with_labels(source: Any, target: Target) -> Target:
    """A target with all labels of its image, also masks, which targets for evaluation lack.

    Args:
        source: what reads the images of the split.
        target: the target, of which the size and the id of the image are kept.
    """
    for part in getattr(source, "sources", [source]):
        part.with_masks = True
    sample = source.sample(int(np.flatnonzero(source.index.image_ids == target.image_id)[0]))
    whole = tuple(slice(0, side) for side in target.orig_size)
    masks = sample.masks(range(len(sample.labels)), whole, target.size)
    boxes = xyxy_to_cxcywh(torch.from_numpy(np.asarray(sample.boxes, np.float32)))
    labels = torch.from_numpy(sample.labels)
    return replace(target, boxes_cxcywh=boxes, labels=labels, masks=torch.from_numpy(masks.astype(bool)))


def draw_found(
    image: Tensor,
    prediction: Prediction,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    side: int | None = None,
) -> Image.Image:
    """The same sample with what was found in it.

    Args:
        image: `(3, H, W)`, normalised.
        prediction: what was found, in pixels of the original, whatever its size.
        mean, std: what the image was normalised with.
        side: see `draw_sample`.
    """
    pixels = _pixels(image, mean, std, side)
    h, w = pixels.shape[:2]
    if prediction.semantic is not None:
        classes = _smaller(prediction.semantic[None], h, w)[0].cpu().numpy()
        return draw_classes(Image.fromarray(pixels), classes, prediction.name_of, void=VOID)
    scale = torch.tensor([w / prediction.size[1], h / prediction.size[0]] * 2)
    boxes, labels = prediction.boxes_xyxy.cpu().float() * scale, prediction.labels.tolist()
    masks = None if prediction.masks is None or not labels else _smaller(prediction.masks, h, w).bool().cpu().numpy()
    texts = [f"{prediction.name_of(label)} {score:.2f}" for label, score in zip(labels, prediction.scores.tolist())]
    outline = prediction.panoptic is None
    return draw(Image.fromarray(pixels), boxes.tolist(), texts, labels, masks=masks, outline=outline)


def _pixels(image: Tensor, mean: Sequence[float], std: Sequence[float], side: int | None) -> np.ndarray:
    """A normalised image `(3, H, W)` as RGB `(h, w, 3)` uint8, with that longest side."""
    shift, scale = (torch.tensor(value).view(3, 1, 1) for value in (mean, std))
    # (3, H, W) -> (H, W, 3)
    pixels = ((image.detach().float().cpu() * scale + shift).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    height, width = pixels.shape[:2]
    factor = min(ENLARGED, (side or max(height, width)) / max(height, width))
    h, w = (max(1, round(length * factor)) for length in (height, width))
    return cv2.resize(pixels, (w, h), interpolation=cv2.INTER_AREA if factor <= 1 else cv2.INTER_CUBIC)


def _smaller(masks: Tensor, height: int, width: int) -> Tensor:
    """Masks or maps `(T, H, W)` at another size: each pixel gets the value at its centre."""
    rows, columns = (
        ((torch.arange(new, device=masks.device) + 0.5) * old / new).long()
        for new, old in zip((height, width), masks.shape[1:])
    )
    return masks[:, rows][:, :, columns]


def caption(target: Target, file_name: str = "") -> str:
    """What a picture of a sample says about it: the id of the image, its size as the model sees it, and its objects."""
    (height, width), count = target.size, len(target.labels)
    name = f" {file_name}" if file_name else ""
    return f"image {target.image_id}{name}, {width}×{height}, {count} object{'s' if count != 1 else ''}"


def sheet(pictures: Sequence[Image.Image], captions: Sequence[str], *, columns: int = 4) -> Image.Image:
    """All pictures of a batch on one, in rows, each with a line of text below it.

    Args:
        pictures: the pictures.
        captions: a text for each.
        columns: how many are in a row.
    """
    columns = max(1, min(columns, len(pictures)))
    rows = [range(start, min(start + columns, len(pictures))) for start in range(0, len(pictures), columns)]
    cell = max((picture.width for picture in pictures), default=1) + 4
    heights = [max(pictures[i].height for i in row) + LINE + 4 for row in rows]
    canvas = Image.new("RGB", (cell * columns, max(1, sum(heights))), (24, 24, 24))
    pen, top = ImageDraw.Draw(canvas), 0
    for row, height in zip(rows, heights):
        for place, i in enumerate(row):
            canvas.paste(pictures[i], (place * cell + 2, top + 2))
            # the font that comes with Pillow has no such sign
            text = captions[i].replace("×", "x")
            font = font_of(11, text)
            while len(text) > 1 and font.getlength(text) > cell - 4:
                text = text[:-2] + "…"
            pen.text((place * cell + 2, top + 2 + pictures[i].height), text, fill=(230, 230, 230), font=font)
        top += height
    return canvas


def is_target(value: object) -> bool:
    """Whether a value is a `Target`, as batches of vitdet's data have; those of the user's may have others."""
    return isinstance(value, Target)


def file_names(index: Any) -> dict[int, str]:
    """The file name of each image of an index, by its id."""
    return dict(zip(index.image_ids.tolist(), index.file_names))
