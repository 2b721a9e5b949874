"""Scoring a COCO results file against an annotation file.

D detections
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from vitdet.data.index import CocoIndex
from vitdet.metrics.average_precision import GroundTruth, average_precision
from vitdet.metrics.coco import protocol


def evaluate(predictions: str | Path, annotations: str | Path, *, max_dets: int = 100) -> tuple[dict[str, float], str]:
    """The COCO numbers of a results file over all images of the annotation file, and the protocol line.

    A results file is a JSON list of `{"image_id", "category_id", "bbox": [left, top, width, height], "score"}`, in pixels and in the data set's
    own ids. As in pycocotools, detections of a category that the annotation file does not have are left out; here they are counted.

    Raises:
        FileNotFoundError: one of the files does not exist.
        ValueError: the results are not such a list, name an image that the annotation file does not have, or only unknown categories.
    """
    truth = GroundTruth.of(CocoIndex.open(annotations))
    rows, notes = _rows(_read(Path(predictions)), truth, str(predictions))
    numbers = average_precision(truth, rows, max_dets=max_dets)
    return numbers, protocol(truth, max_dets=max_dets, images=len(truth.image_ids), notes=notes)


def _read(path: Path) -> list[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"results file {path} does not exist")
    try:
        items = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(items, list):
        keys = f" with the keys {list(items)[:5]}" if isinstance(items, dict) else ""
        raise ValueError(f"{path}: wanted a list of detections, got a {type(items).__name__}{keys}")
    return items


def _rows(items: list[Any], truth: GroundTruth, source: str) -> tuple[np.ndarray, Counter[str]]:
    """Detections `(D, 7)`: image, left, top, width, height, score, class."""
    position_of = {number: i for i, number in enumerate(truth.image_ids.tolist())}
    label_of = {number: k for k, number in enumerate(truth.category_ids)}
    rows, unknown = [], Counter()
    for n, item in enumerate(items):
        fault = _fault(item)
        if not fault and item["image_id"] not in position_of:
            fault = f"image_id {item['image_id']!r} is not in the annotation file"
        if fault:
            raise ValueError(f"{source}: detection {n}: {fault}")
        label = label_of.get(item["category_id"])
        if label is None:
            unknown[item["category_id"]] += 1
        else:
            rows.append((position_of[item["image_id"]], *item["bbox"], item["score"], label))
    if unknown and not rows:
        raise ValueError(
            f"{source}: no detection has a category of the annotation file; "
            f"got {sorted(unknown)[:5]}, wanted some of {truth.category_ids[:10]}"
        )
    notes = Counter({f"detections left out: unknown category ids {sorted(unknown)[:5]}": unknown.total()})
    return np.array(rows, dtype=np.float64).reshape(-1, 7), +notes


def _fault(item: Any) -> str:
    """What is wrong with one detection, or nothing."""
    if not isinstance(item, dict):
        return f'wanted an object with "image_id", "category_id", "bbox" and "score", got {str(item)[:40]}'
    missing = [key for key in ("image_id", "category_id", "bbox", "score") if key not in item]
    if missing:
        return f"has no {missing[0]!r}"
    for key in ("image_id", "category_id"):
        if not isinstance(item[key], int):
            return f"{key} must be an integer, got {item[key]!r}"
    if not (isinstance(item["bbox"], list) and len(item["bbox"]) == 4 and all(map(_is_finite, item["bbox"]))):
        return f"bbox must be four finite numbers, left, top, width, height; got {item['bbox']!r}"
    return "" if _is_finite(item["score"]) else f"score must be a finite number, got {item['score']!r}"


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
