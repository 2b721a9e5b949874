"""Drawing training samples as the model sees them: augmented, resized, with the boxes, masks and classes of the target.

H×W stands for the size of a sample in pixels, T for the number of its objects.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vitdet.boxes import cxcywh_to_xyxy
from vitdet.draw import draw
from vitdet.structures import Target

# the height of the line below a picture, in pixels
LINE = 16


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
        side: the longest side of the picture in pixels; by default that of the sample.
    """
    channels = (torch.tensor(value).view(3, 1, 1) for value in (mean, std))
    shift, scale = channels
    # (3, H, W) -> (H, W, 3)
    pixels = ((image.detach().float().cpu() * scale + shift).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    height, width = pixels.shape[:2]
    factor = min(1.0, (side or max(height, width)) / max(height, width))
    h, w = (max(1, round(length * factor)) for length in (height, width))
    pixels = cv2.resize(pixels, (w, h), interpolation=cv2.INTER_AREA)
    boxes = cxcywh_to_xyxy(target.boxes_cxcywh.detach().float().cpu()) * torch.tensor([w, h, w, h])
    labels: list[int] = target.labels.tolist()
    masks = None if target.masks is None or not labels else _smaller(target.masks.detach(), h, w).cpu().numpy()
    texts = [names[label] if label < len(names) else str(label) for label in labels]
    return draw(Image.fromarray(pixels), boxes.tolist(), texts, labels, masks=masks, outline=outline)


def _smaller(masks: Tensor, height: int, width: int) -> Tensor:
    """Masks `(T, H, W)` at another size: each pixel gets the value at its centre."""
    rows, columns = (
        ((torch.arange(new, device=masks.device) + 0.5) * old / new).long()
        for new, old in zip((height, width), masks.shape[1:])
    )
    return masks[:, rows][:, :, columns].bool()


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
    pen, font, top = ImageDraw.Draw(canvas), ImageFont.load_default(11), 0
    for row, height in zip(rows, heights):
        for place, i in enumerate(row):
            canvas.paste(pictures[i], (place * cell + 2, top + 2))
            text = captions[i]
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
