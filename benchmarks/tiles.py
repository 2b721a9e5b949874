"""AP and speed on large images with small objects: untiled, in tiles, and in the slices of SAHI, by one detector.

    python benchmarks/tiles.py CHECKPOINT [--images DIR --annotations JSON] [--tile 192] [--count 4] [--seeds 2]

The large images are drawn from the built-in shapes or, with a data set, put together from its images in rows. SAHI
(`pip install sahi`) sees the same tile size and overlap through a thin adapter. Detections of score 0.05 or more count,
since the merging of SAHI takes minutes with all of them. AP is COCO's over IoU 0.5 to 0.95, with 1,500 detections an
image.
"""

import argparse
import contextlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import vitdet
from vitdet.data.shapes_scene import draw_scene
from vitdet.deploy.tiles import TiledDetector
from vitdet.images import load_image
from vitdet.masks import bounds

# an image, and the boxes and labels of its objects
Large = tuple[np.ndarray, np.ndarray, np.ndarray]
LEAST = 0.05


def pieces_of_shapes(rng: np.random.Generator):
    while True:
        scene = draw_scene(rng)
        masks = np.stack([scene.ids == t for t in range(len(scene.labels))])
        yield scene.image, bounds(masks), np.array(scene.labels)


def pieces_of(images: Path, annotations: Path, category_ids: list[int], rng: np.random.Generator):
    content = json.loads(annotations.read_text(encoding="utf-8"))
    while True:
        image = content["images"][rng.integers(len(content["images"]))]
        own = [one for one in content["annotations"] if one["image_id"] == image["id"]]
        corners = np.array([one["bbox"] for one in own], float).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        labels = [category_ids.index(one["category_id"]) for one in own]
        yield load_image(images / image["file_name"]), corners, np.array(labels, int)


def put_together(pieces, height: int, width: int) -> Large:
    """Images in rows; what a border of the whole cuts to less than 8 pixels is no object."""
    image, boxes, labels = np.zeros((height, width, 3), np.uint8), [np.zeros((0, 4))], []
    y = 0
    while y < height:
        row, x = [], 0
        while x < width:
            row.append((x, *next(pieces)))
            x += row[-1][1].shape[1]
        high = min(height - y, *(one.shape[0] for _, one, _, _ in row))
        for x, one, corners, classes in row:
            wide = min(one.shape[1], width - x)
            image[y : y + high, x : x + wide] = one[:high, :wide]
            inside = corners.clip(0, [wide, high, wide, high])
            kept = (inside[:, 2:] - inside[:, :2]).min(1, initial=99) >= 8
            boxes.append(inside[kept] + [x, y, x, y])
            labels.extend(classes[kept])
        y += high
    return image, np.concatenate(boxes), np.array(labels)


def sahi(detector: vitdet.Detector, tile: int, batch_size: int, **options) -> Callable[[np.ndarray], tuple]:
    from sahi.models.base import DetectionModel
    from sahi.predict import get_sliced_prediction
    from sahi.prediction import ObjectPrediction

    class Adapter(DetectionModel):
        def load_model(self) -> None:
            self.set_model(detector)

        def set_model(self, model, **words) -> None:
            self.model = model

        def perform_inference(self, image) -> None:
            self.perform_batch_inference([image])

        def perform_batch_inference(self, images) -> None:
            self._original_predictions = detector.predict(list(images), threshold=LEAST, batch_size=len(images))

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list=None, full_shape_list=None
        ):
            # a list for each image, or for the only one
            given = [np.array(part, int).reshape(-1, 2).tolist() for part in (shift_amount_list, full_shape_list)]
            shifts, shapes = given
            self._object_prediction_list_per_image = [
                [
                    ObjectPrediction(
                        [*map(float, box)], label, str(label), score=score, shift_amount=shift, full_shape=shape
                    )
                    for box, label, score in zip(one.boxes_xyxy.tolist(), one.labels.tolist(), one.scores.tolist())
                ]
                for one, shift, shape in zip(self._original_predictions, shifts, shapes * len(shifts))
            ]

    model = Adapter(model_path="-", confidence_threshold=LEAST, device="cpu")
    side = dict.fromkeys(("slice_height", "slice_width"), tile)

    def predict(image: np.ndarray) -> tuple:
        done = get_sliced_prediction(image, model, **side, batch_size=batch_size, verbose=0, **options)
        rows = [(one.bbox.to_xyxy(), one.score.value, one.category.id) for one in done.object_prediction_list]
        return tuple(np.array(part) for part in zip(*rows)) if rows else (np.zeros((0, 4)), np.zeros(0), np.zeros(0))

    return predict


def plain(detector: vitdet.Detector) -> Callable[[np.ndarray], tuple]:
    def predict(image: np.ndarray) -> tuple:
        found = detector.predict(image, threshold=LEAST)
        return found.boxes_xyxy.numpy(), found.scores.numpy(), found.labels.numpy()

    return predict


def score(truth: list[Large], found: list[tuple]) -> tuple[float, float]:
    """AP and AP50 in percent."""
    rows, results = [], []
    for i, (_, boxes, labels) in enumerate(truth):
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist()):
            box = [x1, y1, x2 - x1, y2 - y1]
            rows.append({"id": len(rows) + 1, "image_id": i + 1, "category_id": label, "bbox": box, "iscrowd": 0})
            rows[-1]["area"] = box[2] * box[3]
        for (x1, y1, x2, y2), value, label in zip(*(part.tolist() for part in found[i])):
            box = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": i + 1, "category_id": int(label), "bbox": box, "score": value})
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        categories = [{"id": k} for k in sorted({row["category_id"] for row in rows})]
        images = [{"id": i + 1} for i in range(len(truth))]
        gt.dataset = {"images": images, "categories": categories, "annotations": rows}
        gt.createIndex()
        evaluator = COCOeval(gt, gt.loadRes(results), "bbox")
        evaluator.params.maxDets = [1, 100, 1500]
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][:, :, :, 0, 2]
    precision = np.where(precision < 0, np.nan, precision)
    return 100 * float(np.nanmean(precision)), 100 * float(np.nanmean(precision[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--tile", type=int, default=192)
    parser.add_argument("--size", type=int, nargs=2, default=(1200, 1600), help="height and width of the large images")
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    detector = vitdet.load(options.checkpoint, device="cpu")
    tiling = {"tile": options.tile, "batch_size": options.batch_size}
    ways = {
        "untiled": plain(detector),
        "vitdet, tiles": plain(TiledDetector(detector, **tiling)),
        "vitdet, tiles and whole": plain(TiledDetector(detector, **tiling, whole=True)),
    }
    # its defaults first; without force it would take NMS, since the least score is low
    for kind, metric, whole in (
        ("GREEDYNMM", "IOS", True),
        ("GREEDYNMM", "IOS", False),
        ("GREEDYNMM", "IOU", False),
        ("NMS", "IOU", False),
    ):
        merging = {"postprocess_type": kind, "postprocess_match_metric": metric, "force_postprocess_type": True}
        name = f"sahi, {kind} {metric}{' and whole' if whole else ''}"
        ways[name] = sahi(detector, **tiling, perform_standard_pred=whole, **merging)
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        ids = detector.category_ids
        pieces = pieces_of(options.images, options.annotations, ids, rng) if options.images else pieces_of_shapes(rng)
        truth = [put_together(pieces, *options.size) for _ in range(options.count)]
        for name, way in ways.items():
            start = time.perf_counter()
            found = [way(image) for image, _, _ in truth]
            rows[name].append((*score(truth, found), (time.perf_counter() - start) / len(truth)))
    print(f"{options.count} images of {options.size[1]}×{options.size[0]} a seed, tiles of {options.tile}")
    print(f"{'':32} {'AP':>16} {'AP50':>16} {'s/image':>14}")
    for name, values in rows.items():
        columns = (" / ".join(f"{value:.{digits}f}" for value in part) for part, digits in zip(zip(*values), (1, 1, 2)))
        print("{:32} {:>16} {:>16} {:>14}".format(name, *columns))


if __name__ == "__main__":
    main()
