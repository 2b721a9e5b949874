"""Scoring a COCO results file against an annotation file, and printing the scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pycocotools import mask as rle
from rich.console import Console
from rich.table import Table

from vitdet.annotations import CocoIndex
from vitdet.annotations.json_text import check_json, integer, is_box, is_finite, read_json
from vitdet.annotations.misread import look_for_misread
from vitdet.errors import DataError, UserError, check, clip, short
from vitdet.masks import to_rle
from vitdet.metrics.average_precision import ABSENT, coco_scores, max_dets_levels, summary
from vitdet.metrics.evaluation import as_coco, match
from vitdet.metrics.file_names import FileNames, split
from vitdet.metrics.ground_truth import GroundTruth
from vitdet.metrics.plain import is_odd, is_plain, odd_boxes, read_plain
from vitdet.metrics.protocol import protocol
from vitdet.ranges import whole

KEYS = ("image_id", "category_id", "bbox", "score")
IouType = Literal["bbox", "segm"]


def evaluate(
    predictions: str | Path, annotations: str | Path, *, iou_type: IouType | None = None, max_dets: int = 100
) -> tuple[dict[str, float], str]:
    """Score a COCO results file on all images of an annotation file.

    A results file is a JSON list of `{"image_id", "category_id", "bbox": [left, top, width, height], "score"}`, with
    boxes in pixels and the ids of the data set. For masks each item has a `segmentation`, too, and may lack the `bbox`.
    If items have a `file_name`, as those that `vitdet predict` writes, they are matched with images by it (see
    `FileNames`) and not by the `image_id`; the protocol line mentions it if the two differ.

    Args:
        predictions: the results file.
        annotations: the annotation file.
        iou_type: whether boxes (`bbox`) or masks (`segm`) are scored; by default masks if both files have some. When
            masks are scored, annotations without a mask are left out, also for the `box_AP` that is reported beside the
            AP.
        max_dets: the number of detections of an image and a class that count.

    Returns:
        The scores by name, and the protocol line, which describes how they were counted.

    Raises:
        FileNotFoundError: a file does not exist.
        UserError: the results file is not such a list, has an image or a category that the annotation file lacks, or
            contradicts itself; or an option is out of range.
    """
    ok, wanted = whole(1)
    check("max_dets", max_dets, ok(max_dets), wanted)
    check("iou_type", iou_type, iou_type in (None, *get_args(IouType)), "bbox or segm")
    if Path(predictions).is_dir():
        raise UserError(
            f"results file {predictions} is a folder; wanted a COCO results file; `vitdet test` scores label maps"
        )
    check_json(Path(predictions), "results file")
    count = is_plain(predictions) if iou_type != "segm" else 0
    if count and (found := _evaluate_plain(predictions, annotations, count, max_dets)) is not None:
        return found
    truth, rows, masks, notes = read_results(predictions, annotations, iou_type)
    kind = "box" if masks is None else "mask"
    found, _ = coco_scores(truth, rows, max_dets=max_dets, masks=masks)
    return found, protocol(truth, max_dets=max_dets, images=len(truth), kind=kind, notes=notes)


def read_results(
    predictions: str | Path, annotations: str | Path, iou_type: IouType | None = None
) -> tuple[GroundTruth, np.ndarray, list[bytes] | None, dict[str, int]]:
    """The ground truth, the detections `(D, 7)`, their run lengths if masks are scored, and notes for the protocol.

    It takes the arguments of `evaluate`, and raises as that does.
    """
    items = read_json(predictions, "results file")
    _check_kind(items, str(predictions))
    some = any(isinstance(item, dict) and item.get("segmentation") for item in items)
    index = CocoIndex.open(annotations)
    truth = GroundTruth.read(index, masks=iou_type == "segm" or (iou_type is None and some))
    chosen = iou_type
    if chosen is None:
        iou_type = "segm" if truth.rles else "bbox"
        truth = truth if truth.rles else GroundTruth.read(index)
    if iou_type == "segm":
        index.check_masks("mend or remove it; iou_type bbox scores the boxes alone")
    notes = _check_truth(truth, str(annotations)) | dict.fromkeys(look_for_misread(index), 0)
    notes |= _use_file_names(items, truth, str(predictions), str(annotations))
    if some and chosen is None and iou_type == "bbox":
        notes["masks scored, only boxes: no annotation has a mask that can be read"] = 0
    masks = _masks(items, truth, str(predictions)) if iou_type == "segm" else None
    rows = _rows(items, truth, str(predictions))
    return truth, rows, masks, notes | _oddities(rows, truth)


def _evaluate_plain(
    predictions: str | Path, annotations: str | Path, count: int, max_dets: int
) -> tuple[dict[str, float], str] | None:
    """The boxes of a plain results file of `count` items scored; none if it has a fault, or is odd."""
    index = CocoIndex.open(annotations)
    truth = GroundTruth.read(index)
    if min([*truth.category_ids, *truth.image_ids.tolist()], default=-1) < 0:
        return None
    notes = _check_truth(truth, str(annotations)) | dict.fromkeys(look_for_misread(index), 0)
    coco = as_coco(truth, own_ids=True)
    found, missed = read_plain(predictions, count, coco) or (None, 0)
    if found is None or is_odd(found, count, truth):
        return None
    notes |= _missed(missed)
    levels = max_dets_levels(max_dets)
    made = match(coco, found, images=truth.image_ids, levels=levels)
    return summary(made, truth), protocol(truth, max_dets=max_dets, images=len(truth), notes=notes)


def print_scores(scores: Mapping[str, float], protocol: str, console: Console | None = None) -> None:
    """Print a table of the scores, those of single classes last, and then the protocol line."""
    console = console or Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    table = Table("score", "value")
    classes = [name for name in scores if "/" in name]
    for group in ([name for name in scores if name not in classes], classes):
        for name in group:
            table.add_row(name, "none" if scores[name] == ABSENT else f"{scores[name]:.4f}")
        table.add_section()
    console.print(table)
    console.print(protocol)


def _check_kind(items: Any, source: str) -> None:
    if isinstance(items, list):
        return
    hint = ""
    if isinstance(items, dict):
        rows = items.get("annotations")
        panoptic = isinstance(rows, list) and rows and isinstance(rows[0], dict) and "segments_info" in rows[0]
        what = "is this a panoptic result? `vitdet test` scores those" if panoptic else "is this an annotation file?"
        hint = f" with the keys {list(items)[:5]}; {what}"
    raise DataError(f"{source}: wanted a list of detections, got a {type(items).__name__}{hint}")


def _check_truth(truth: GroundTruth, source: str) -> dict[str, int]:
    if not len(truth.image) and truth.notes:
        reasons = "; ".join(f"{count} {reason}" for reason, count in truth.notes.items())
        raise DataError(f"{source} has nothing to score against ({reasons}); wanted boxes or masks in COCO's format")
    nothing = {"annotations that count: there is nothing to find, so no score": 0}
    return nothing if truth.iscrowd.all() else {}


def _oddities(rows: np.ndarray, truth: GroundTruth) -> dict[str, int]:
    """Notes on detections `(D, 7)` that look like boxes in another format, and on images without detections."""
    if not len(rows):
        return {}
    image = rows[:, 0].astype(int)
    return odd_boxes(rows[:, 1:5], truth.sizes[image]) | _missed(len(truth) - len(np.unique(image)))


def _missed(count: int) -> dict[str, int]:
    return {"images have no detection, and count as missed": count} if count else {}


def _use_file_names(items: list[Any], truth: GroundTruth, source: str, annotations: str) -> dict[str, int]:
    """Replace the `image_id` of items that have a `file_name` by the id of the image of that name.

    Returns:
        Notes for the protocol line, with counts.

    Raises:
        UserError: items contradict each other, or have a `file_name` that matches no image of the annotation file.
    """
    if not items:
        return {"detections: the results file is empty, so nothing is found": 0}
    id_by_file = _ids_by_file(items, source)
    if not id_by_file:
        return {}
    if not any(truth.file_names):
        return {f'files matched by image_id: the images of {annotations} have no "file_name"': len(id_by_file)}
    known = FileNames(truth.file_names, annotations)
    id_of = {}
    for name, position in zip(id_by_file, known.find(list(id_by_file))):
        if position is None:
            raise DataError(
                f"{source} has detections in {clip(name)}, which is no image of {annotations}; "
                "give the annotations of these images, "
                f"or predict with --annotations {annotations}, which leaves out what that does not have"
            )
        id_of[name] = int(truth.image_ids[position])
    differ = sum(id_by_file[name] != number for name, number in id_of.items())
    for n, item in enumerate(items):
        if not isinstance(item, dict):
            # `_rows` raises the error for it
            continue
        if "file_name" in item:
            item["image_id"] = id_of[item["file_name"]]
        elif differ:
            raise DataError(
                f"{source}: detection {n} has no file_name, "
                f"and the image ids of those that have one are not those of {annotations}; "
                "give all of them a file_name, or the ids of the annotation file"
            )
    return {"images matched by file_name: the results file calls them by other ids": differ} if differ else {}


def _ids_by_file(items: list[Any], source: str) -> dict[str, Any]:
    """The `image_id` that the results file has for each `file_name` in it."""
    id_of: dict[str, Any] = {}
    file_of: dict[Any, str] = {}
    for n, item in enumerate(items):
        if not isinstance(item, dict) or "file_name" not in item:
            continue
        name, number = item["file_name"], _number(item.get("image_id"))
        if not isinstance(name, str) or not split(name):
            raise DataError(f"{source}: detection {n}: file_name must be the path of an image, got {short(name)}")
        # some tools write a name as `image_id`, or leave it out
        if isinstance(number, bool) or not isinstance(number, (int, str, type(None))):
            raise DataError(f"{source}: detection {n}: image_id must be an integer, got {short(number)}")
        if id_of.setdefault(name, number) != number:
            ids = f"image {_shown(id_of[name])} and, in detection {n}, image {_shown(number)}"
            raise DataError(f"{source}: {clip(name)} is {ids}; it has one id")
        if number is not None and file_of.setdefault(number, name) != name:
            files = f"{clip(file_of[number])} and, in detection {n}, {clip(name)}"
            raise DataError(f"{source}: image {_shown(number)} is {files}; an id has one file")
    return id_of


def _masks(items: Any, truth: GroundTruth, source: str) -> list[bytes]:
    """The compressed run lengths of each detection; a detection without a box gets the box of its mask."""
    size_of = dict(zip(truth.image_ids.tolist(), truth.sizes.tolist()))
    masks = []
    for n, item in enumerate(items):
        image_id = integer(item.get("image_id")) if isinstance(item, dict) else None
        if image_id not in size_of:
            # `_rows` raises the error for it
            continue
        try:
            mask = to_rle(item.get("segmentation"), *size_of[image_id])
        except DataError as error:
            raise DataError(f"{source}: detection {n}: {error}; iou_type bbox scores the boxes alone") from error
        if item.get("bbox") is None:
            item["bbox"] = rle.toBbox(mask).tolist()
        masks.append(mask["counts"].encode() if isinstance(mask["counts"], str) else mask["counts"])
    return masks


def _rows(items: Any, truth: GroundTruth, source: str) -> np.ndarray:
    """The detections as rows `(D, 7)`: image, left, top, width, height, score, class; D is their number."""
    position_of = {number: i for i, number in enumerate(truth.image_ids.tolist())}
    label_of = {number: k for k, number in enumerate(truth.category_ids)}
    rows = []
    for n, item in enumerate(items):
        if fault := _fault(item):
            raise DataError(f"{source}: detection {n}: {fault}")
        image, category = integer(item["image_id"]), integer(item["category_id"])
        if image not in position_of or category not in label_of:
            raise DataError(f"{source}: detection {n}: {_unknown(items, position_of, label_of)}")
        rows.append((position_of[image], *item["bbox"], item["score"], label_of[category]))
    return np.array(rows, dtype=np.float64).reshape(-1, 7)


def _unknown(items: list[Any], images: dict[int, int], categories: dict[int, int]) -> str:
    """A description of ids that the annotation file lacks, and how many there are."""
    for key, known in (("image_id", images), ("category_id", categories)):
        ids = dict.fromkeys(integer(item.get(key)) for item in items if isinstance(item, dict))
        if unknown := [number for number in ids if number is not None and number not in known]:
            hint = (
                "; give the annotations of these images, or give each detection the file_name of its image"
                if key == "image_id"
                else "; give the ids of the annotation file's categories, not labels from 0"
            )
            return (
                f"{key} {unknown[0]} is not in the annotation file, which has {list(known)[:10]} "
                f"({len(unknown)} of the {len(ids)} in the results are not){hint}"
            )
    return "an id is not in the annotation file"


def _shown(number: Any) -> str:
    return clip(str(number), 60)


def _number(value: Any) -> Any:
    """A whole number that is written as a fraction, such as 7.0, as an integer; all else as it is."""
    return integer(value) if isinstance(value, float) and integer(value) is not None else value


def _fault(item: Any) -> str:
    """A description of what is wrong with a detection; empty if it is valid."""
    if not isinstance(item, dict):
        return f"wanted an object with {', '.join(KEYS)}, got {short(item, 40)}"
    missing = [key for key in KEYS if key not in item]
    if missing:
        return f"it has no {missing[0]!r}; found {short(list(item)[:6], 90)}"
    for key in ("image_id", "category_id"):
        if integer(item[key]) is None:
            hint = "; give the annotation file's, or a file_name" if key == "image_id" else ""
            return f"{key} must be an integer, got {short(item[key])}{hint}"
    if not is_box(item["bbox"]):
        return f"bbox must be four finite numbers, left, top, width, height; got {short(item['bbox'], 80)}"
    return "" if is_finite(item["score"]) else f"score must be a finite number, got {short(item['score'], 40)}"
