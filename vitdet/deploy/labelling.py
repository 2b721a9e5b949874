"""Predictions as labels to be corrected: YOLO's text files, LabelMe's JSON, and tasks of Label Studio.

They hold what is above the threshold. Masks become polygons; boxes and polygons end at the border of the image.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from vitdet.deploy.formats import EMPTY, Format, Found, Model, Stream, Written, inside
from vitdet.detections import Detection
from vitdet.draw import class_colour
from vitdet.fetch import is_url
from vitdet.masks import joined, outlines

# how far a polygon may leave out corners of a mask, as a share of the side of a square of its area, and in pixels:
# fewer corners are easier to correct, and those of a small object matter
TOLERANCE, LEAST, MOST = 0.01, 0.5, 2.0
LABELME = "5.5.0"


def labels_of(found: Found, name: str, counts: Counter[str]) -> Iterator[tuple[Detection, Any, list[np.ndarray]]]:
    """Each detection, its box `(x1, y1, x2, y2)` inside the image, and the polygons `(N, 2)` of its mask, if any.

    What has no area inside the image is counted, under the name of the format.
    """
    for i, one in enumerate(found.shown):
        box = inside(one.box_xyxy, found.shown.size)
        mask = one.mask if found.shown.panoptic is None else found.shown.panoptic == i + 1
        polygons = []
        if mask is not None:
            side = float(mask.sum()) ** 0.5
            polygons = outlines(mask.numpy(), tolerance=min(max(TOLERANCE * side, LEAST), MOST))
        if box is None or (mask is not None and not polygons):
            counts[f"{EMPTY} {name}"] += 1
        else:
            yield one, box, polygons


class Yolo(Format):
    """`yolo/labels/….txt` for each image, and the names of the classes in `yolo/classes.txt`.

    A row is `class x y width height score` or, of a mask, `class x1 y1 x2 y2 …`, as fractions of the image. Rows of
    polygons have no place for a score.
    """

    def __init__(self, output: Path, model: Model) -> None:
        super().__init__(output, model)
        self.files = {"yolo/classes.txt": ["".join(f"{' '.join(name.split())}\n" for name in model.classes)]}

    def write(self, found: Found) -> Written:
        counts, rows = Counter({"yolo": 1}), []
        height, width = found.shown.size
        for one, (x1, y1, x2, y2), polygons in labels_of(found, "yolo", counts):
            if polygons:
                values = (joined(polygons) / (width, height)).ravel().tolist()
                rows.append(f"{one.label} {' '.join(f'{value:.6f}' for value in values)}\n")
            else:
                values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
                rows.append(f"{one.label} {' '.join(f'{value:.6f}' for value in values)} {one.score:.4f}\n")
        self.path(f"yolo/labels/{found.stem}.txt").write_text("".join(rows), encoding="utf-8")
        return Written(counts=counts)

    def describe(self, counts: Counter[str]) -> str:
        return f"{counts['yolo']} files of YOLO (yolo)"


class LabelMe(Format):
    """`labelme/….json` for each image, which LabelMe opens; the scores are in the key `score` of the shapes."""

    def write(self, found: Found) -> Written:
        counts, shapes = Counter({"labelme": 1}), []
        path = self.path(f"labelme/{found.stem}.json")
        for group, (one, box, polygons) in enumerate(labels_of(found, "labelme", counts), 1):
            for points in polygons or [np.array(box).reshape(2, 2)]:
                shapes.append(
                    {
                        "label": one.name,
                        "points": points.round(2).tolist(),
                        # the parts of an object have a number in common
                        "group_id": group if len(polygons) > 1 else None,
                        "description": "",
                        "shape_type": "polygon" if polygons else "rectangle",
                        "flags": {},
                        "mask": None,
                        "score": round(one.score, 4),
                    }
                )
        height, width = found.shown.size
        image = (
            found.file if is_url(found.file) else os.path.relpath(os.path.abspath(found.file), path.parent.absolute())
        )
        content = {
            "version": LABELME,
            "flags": {},
            "shapes": shapes,
            "imagePath": image.replace(os.sep, "/"),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        path.write_text(json.dumps(content, indent=2), encoding="utf-8")
        return Written(counts=counts)

    def describe(self, counts: Counter[str]) -> str:
        return f"{counts['labelme']} files of LabelMe (labelme)"


class LabelStudio(Format):
    """`labelstudio/tasks.json`, with the predictions as Label Studio's pre-annotations, and the labelling interface
    that fits them in `labelstudio/config.xml`.

    Files are those of Label Studio's local storage, relative to the folder that all images share.
    """

    def __init__(self, output: Path, model: Model) -> None:
        super().__init__(output, model)
        colours = [
            f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in map(class_colour, range(len(model.classes)))
        ]
        # Label Studio tells labels apart by their names alone
        named = dict(zip(reversed(model.classes), reversed(colours)))
        names = list(dict.fromkeys(model.classes))
        labels = [f"    <Label value={quoteattr(n)} background={quoteattr(named[n])}/>" for n in names]
        kinds = ["RectangleLabels", "PolygonLabels"]
        lines = ["<View>", '  <Image name="image" value="$image"/>']
        for kind in kinds:
            lines += [f'  <{kind} name="{kind[:-6].lower()}" toName="image">', *labels, f"  </{kind}>"]
        self.files = {
            "labelstudio/tasks.json": ["[\n", Stream("labelstudio", ",\n"), "\n]\n"],
            "labelstudio/config.xml": ["\n".join([*lines, "</View>\n"])],
        }

    def write(self, found: Found) -> Written:
        counts, results = Counter({"labelstudio": 1}), []
        height, width = found.shown.size
        for one, (x1, y1, x2, y2), polygons in labels_of(found, "labelstudio", counts):
            percent = np.array([100 / width, 100 / height])
            for points in polygons or [None]:
                if points is None:
                    left, top, right, bottom = (np.array([x1, y1, x2, y2]) * np.tile(percent, 2)).tolist()
                    kind, value = "rectangle", {"x": left, "y": top, "width": right - left, "height": bottom - top}
                    value["rotation"] = 0
                else:
                    kind, value = "polygon", {"points": (points * percent).tolist(), "closed": True}
                results.append(
                    {
                        "id": f"{found.number + 1}_{len(results) + 1}",
                        "type": f"{kind}labels",
                        "from_name": kind,
                        "to_name": "image",
                        "original_width": width,
                        "original_height": height,
                        "image_rotation": 0,
                        "value": {**value, f"{kind}labels": [one.name]},
                        "score": round(one.score, 4),
                    }
                )
        scores = [result["score"] for result in results]
        prediction = {
            "model_version": self.model.name,
            "score": round(sum(scores) / len(scores), 4) if scores else 0.0,
            "result": results,
        }
        image = found.file if is_url(found.file) else f"/data/local-files/?d={quote(found.place)}"
        return Written({"labelstudio": json.dumps({"data": {"image": image}, "predictions": [prediction]})}, counts)

    def describe(self, counts: Counter[str]) -> str:
        return f"{counts['labelstudio']} tasks of Label Studio (labelstudio)"
