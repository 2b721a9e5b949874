"""From the outputs of an exported graph to predictions, with the functions that PyTorch's model uses.

B images, D detections, Q queries, K classes, H×W the original image in pixels, h×w a map
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vitdet.heads.masks.inference import MaskRules, class_scores, instances, panoptic, semantic
from vitdet.heads.masks.pixels import full_size
from vitdet.heads.masks.tiles import cut, put_together
from vitdet.structures import Prediction, equal_grids

# the number of masks that are brought to full size at a time
CHUNK = 16
Run = Callable[[Tensor], Mapping[str, Tensor]]


def infer(
    run: Run, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]], metadata: Mapping[str, Any]
) -> list[Prediction]:
    """Predicts on images of any sizes, as `Head.infer` does; those of equal size are run together.

    Args:
        run: gives the outputs of the graph by name, for images `(B, 3, H, W)` of equal size.
        images: normalised images `(3, H, W)`.
        sizes: `(H, W)` in pixels of the originals.
        metadata: the entry `vitdet` of the exported file.
    """
    tile = metadata["decode"].get("tile")
    if tile is None:
        found = _in_order(
            images, lambda some, members: finish(run(some), some.shape[-2:], [sizes[i] for i in members], metadata)
        )
        return list(found)
    tiles, places = cut(images, tile)
    scores = _in_order(tiles, lambda some, _: list(_pixel_scores(run(some), some.shape[-2:], metadata)))
    whole = put_together(scores, places, [_pair(image.shape[-2:]) for image in images])
    return [semantic(image, _pair(size)) for image, size in zip(whole, sizes)]


def finish(
    outputs: Mapping[str, Tensor],
    input_size: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    metadata: Mapping[str, Any],
) -> list[Prediction]:
    """A prediction of all scores for each image, in pixels of the original, without class names.

    Args:
        outputs: what the graph returned, by name.
        input_size: `(H, W)` of the images that it was given.
        sizes: `(H, W)` of the originals.
        metadata: the entry `vitdet` of the exported file.
    """
    rules = metadata["decode"]
    if rules["head"] == "detections":
        return [_detections(outputs, i, input_size, _pair(size), rules) for i, size in enumerate(sizes)]
    if rules["head"] == "pixels":
        return [
            semantic(full_size(logits.float(), _pair(size), _extent(logits, input_size, rules)), _pair(size))
            for logits, size in zip(outputs["logits"], sizes)
        ]
    found = zip(outputs["scores"].float(), outputs["masks"].float(), sizes)
    return [_queries(scores, masks, input_size, _pair(size), rules) for scores, masks, size in found]


def _pair(size: Sequence[int]) -> tuple[int, int]:
    return int(size[0]), int(size[1])


def _in_order(images: Sequence[Tensor], work: Callable[[Tensor, list[int]], list[Any]]) -> list[Any]:
    """What `work` returns for each image, if it is given those of equal size as one tensor, and their numbers."""
    done: list[Any] = [None] * len(images)
    for members in equal_grids([(image.shape[-2], image.shape[-1]) for image in images]):
        for i, item in zip(members, work(torch.stack([images[i] for i in members]), members)):
            done[i] = item
    return done


def _extent(maps: Tensor, input_size: Sequence[int], rules: Mapping[str, Any]) -> tuple[float, float]:
    """The fractions of the height and width of maps `(…, h, w)` that the image covers; the rest is padding."""
    height, width = (side / (cells * rules["stride"]) for side, cells in zip(input_size, maps.shape[-2:]))
    return height, width


def _detections(
    outputs: Mapping[str, Tensor],
    i: int,
    input_size: Sequence[int],
    size: tuple[int, int],
    rules: Mapping[str, Any],
) -> Prediction:
    boxes = outputs["boxes"][i].float()
    scale = boxes.new_tensor([size[1] / input_size[1], size[0] / input_size[0]] * 2)
    found = Prediction(boxes * scale, outputs["scores"][i].float(), outputs["labels"][i].long(), size=size)
    if "masks" in outputs:
        logits = outputs["masks"][i].float()
        extent = _extent(logits, input_size, rules)
        found.masks = torch.cat([full_size(part, size, extent) > 0 for part in logits.split(CHUNK)])
    return found


def _enlarged(masks: Tensor, size: tuple[int, int], extent: tuple[float, float], zoom: float | None, rows: Tensor):
    return full_size(masks[rows], size, extent, zoom=zoom)


def _masks(masks: Tensor, input_size: Sequence[int], size: tuple[int, int], rules: Mapping[str, Any]):
    """The function from numbers of queries to the logits of their masks at `size`, which the rules of heads take."""
    zoom = rules["stride"] if rules["rules"]["two_step"] else None
    return partial(_enlarged, masks, size, _extent(masks, input_size, rules), zoom)


def _queries(
    scores: Tensor, masks: Tensor, input_size: Sequence[int], size: tuple[int, int], rules: Mapping[str, Any]
) -> Prediction:
    logits, chosen = _masks(masks, input_size, size, rules), MaskRules(**rules["rules"])
    if rules["task"] == "instances":
        return instances(scores, logits, size, chosen.max_detections)
    if rules["task"] == "semantic":
        return semantic(class_scores(scores, logits, size), size)
    return panoptic(scores, logits, size, torch.tensor(rules["things"]), chosen)


def _pixel_scores(
    outputs: Mapping[str, Tensor], input_size: Sequence[int], metadata: Mapping[str, Any]
) -> Iterator[Tensor]:
    """The scores `(K, H, W)` of the classes at every pixel of each tile."""
    rules, size = metadata["decode"], (int(input_size[0]), int(input_size[1]))
    if rules["head"] == "pixels":
        for logits in outputs["logits"].float():
            yield full_size(logits, size, _extent(logits, size, rules))
        return
    for scores, masks in zip(outputs["scores"].float(), outputs["masks"].float()):
        yield class_scores(scores, _masks(masks, size, size, rules), size)
