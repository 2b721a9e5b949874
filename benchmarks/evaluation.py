"""Whether scores are those of the references, and what scoring costs beside hotcoco alone.

    python benchmarks/evaluation.py parity [--cases N]
    python benchmarks/evaluation.py speed [--before FOLDER]

`parity` runs the cases of `tests/metrics` and prints the largest difference of each kind: boxes and masks against
pycocotools, panoptic quality against its definition and against hotcoco's own evaluator, confusion of pixels against a
count in numpy, and drawn images against a data set in which they are repeated. `speed` scores 5,000 images × 100
detections of 80 classes, in turns (A B A B), by `vitdet evaluate` of this checkout, by that of another, and by hotcoco
alone; it prints CPU seconds and peak memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "metrics"))

BARE = """
import sys, hotcoco
truth = hotcoco.COCO(sys.argv[2])
hotcoco.COCOeval(truth, truth.load_res(sys.argv[1]), "bbox").run()
"""


def boxes(rng, count, *, max_dets=100, **options):
    """The largest difference of precision, recall and the twelve scores to pycocotools, of `count` cases."""
    from coco_oracle import TWELVE, make_case, predictions, pycocotools

    from vitdet.metrics import CocoMetric
    from vitdet.metrics.average_precision import curves, max_dets_levels

    worst, levels = 0.0, max_dets_levels(max_dets)
    for _ in range(count):
        truth, detections = make_case(rng, **options)
        precision, recall, stats = pycocotools(truth, detections, max_dets=levels)
        metric = CocoMetric(truth, max_dets=max_dets)
        metric.update(predictions(truth, detections))
        rows = metric.found()[0]
        ours = curves(metric.truth, rows, images=np.arange(len(metric.truth)), levels=levels)
        gaps = [np.abs(mine - theirs).max() for mine, theirs in zip(ours, (precision, recall))]
        if max_dets == 100:
            scores = metric.compute()
            gaps.append(np.abs([scores[name] for name in TWELVE] - stats).max())
        worst = max(worst, *gaps)
    return worst


def masks(rng, count):
    from test_masks_against_pycocotools import TWELVE, make_case, predictions, pycocotools

    from vitdet.metrics import CocoMetric

    worst = 0.0
    for _ in range(count):
        truth, found = make_case(rng)
        metric = CocoMetric(truth, iou_type="segm")
        metric.update(list(predictions(truth, found)))
        scores = metric.compute()
        worst = max(worst, np.abs([scores[name] for name in TWELVE] - pycocotools(truth, found)).max())
    return worst


def subsets(rng, count):
    from coco_oracle import TWELVE, make_case, predictions, pycocotools

    from vitdet.metrics import CocoMetric

    worst = 0.0
    for _ in range(count):
        truth, detections = make_case(rng)
        images = [image["id"] for image in truth["images"]][:1]
        mine = [found for found in detections if found[0] in images]
        metric = CocoMetric(truth, seen_only=True)
        metric.update(predictions(truth, mine, images=images))
        scores, wanted = metric.compute(), pycocotools(truth, mine, images=images)[2]
        worst = max(worst, np.abs([scores[name] for name in TWELVE] - wanted).max())
    return worst


def panoptic(rng, count):
    from test_panoptic import by_definition, random_segments

    from vitdet.metrics.panoptic import count as counted

    worst = 0.0
    for _ in range(count):
        truth = random_segments(rng, crowds=True)
        found = random_segments(rng, crowds=False, base=truth if rng.random() < 0.8 else None)
        worst = max(worst, np.abs(counted(truth, found, 4) - by_definition(truth, found, 4)).max())
    return worst


def panoptic_of_hotcoco(rng, count, *, crowds):
    """The same against hotcoco's evaluator, which reads PNGs; `crowds` allows several crowds of a class in an image."""
    import contextlib
    import io

    import hotcoco.panoptic
    from test_panoptic import random_segments

    from vitdet.masks import id_png
    from vitdet.metrics.panoptic import count as counted

    worst = 0.0
    classes = [{"id": k, "name": str(k), "isthing": 1} for k in range(4)]
    for _ in range(count):
        pair = [random_segments(rng, crowds=True)]
        pair.append(random_segments(rng, crowds=False, base=pair[0]))
        for one in pair:
            there = np.isin(one.numbers, one.ids)
            one.numbers, one.labels, one.crowd = one.numbers[there], one.labels[there], one.crowd[there]
        if not crowds:
            crowd_labels = pair[0].labels[pair[0].crowd]
            pair[0].crowd &= np.array([(crowd_labels == k).sum() == 1 for k in pair[0].labels], bool)
        with tempfile.TemporaryDirectory() as folder:
            for name, one in zip(("truth", "found"), pair):
                Path(folder, name).mkdir()
                Path(folder, name, "0.png").write_bytes(id_png(one.ids))
                rows = zip(one.numbers.tolist(), one.labels.tolist(), one.crowd.astype(int).tolist())
                info = [
                    {"id": n, "category_id": k, "iscrowd": c, "area": int((one.ids == n).sum()), "bbox": [0, 0, 1, 1]}
                    for n, k, c in rows
                ]
                image = {"id": 0, "height": 12, "width": 15, "file_name": "0.jpg"}
                item = {"image_id": 0, "file_name": "0.png", "segments_info": info}
                content = {"images": [image], "categories": classes, "annotations": [item]}
                Path(folder, f"{name}.json").write_text(json.dumps(content))
            places = [f"{folder}/{name}" for name in ("truth.json", "found.json", "truth", "found")]
            with contextlib.redirect_stdout(io.StringIO()):
                result = hotcoco.panoptic.pq_compute(*places)["per_class"]
        theirs = np.array([[result[k][key] for k in range(4)] for key in ("iou", "tp", "fp", "fn")])
        worst = max(worst, np.abs(counted(*pair, 4) - theirs).max())
    return worst


def pixels(rng, count):
    from vitdet.metrics.semantic import confusion

    worst = 0
    for _ in range(count):
        k = int(rng.integers(1, 9))
        truth, found = rng.integers(0, k + 2, (20, 30)).astype(np.uint8), rng.integers(0, k, (20, 30)).astype(np.uint8)
        truth[rng.random(truth.shape) < 0.1] = 255
        counted = truth < k
        wanted = np.bincount(truth[counted].astype(int) * k + found[counted], minlength=k * k).reshape(k, k)
        worst = max(worst, np.abs(confusion(truth, found, k) - wanted).max())
    return worst


def drawn(rng, count):
    from test_bootstrap import larger_case, read, repeated

    from vitdet.metrics.bootstrap import draws, flags, resampled

    worst = 0.0
    for seed in range(count):
        truth, rows = read(*larger_case(rng))
        images = np.arange(len(truth))
        weights = draws(images, len(truth), count=1, seed=seed)
        aps = [resampled(one, weights)[0] for one in flags(truth, rows, images=images, areas=[""]).values()]
        mine = np.nanmean(aps) if np.isfinite(aps).any() else -1.0
        worst = max(worst, abs(mine - repeated(truth, rows, weights[0])["AP"]))
    return worst


KINDS = [
    ("boxes: crowds, ties, areas on the limits, empty images, sparse and zero ids", boxes, 2000, {}),
    ("boxes without an area, or of a negative one", boxes, 1000, {"sides": np.array([0, 0, -4, 8, 16, 32])}),
    ("boxes, up to 120 of an image, maxDets 100", boxes, 200, {"crowded": True}),
    ("the same, maxDets 20", boxes, 200, {"crowded": True, "max_dets": 20}),
    ("the same, maxDets 300", boxes, 200, {"crowded": True, "max_dets": 300}),
    ("boxes, a part of the images", subsets, 1000, {}),
    ("masks: crowds, empty masks", masks, 2000, {}),
    ("panoptic: counts against the definition", panoptic, 1500, {}),
    ("panoptic: counts against hotcoco's evaluator", panoptic_of_hotcoco, 300, {"crowds": False}),
    ("the same, several crowds of a class in an image", panoptic_of_hotcoco, 300, {"crowds": True}),
    ("semantic: confusion of pixels, void and values of no class", pixels, 2000, {}),
    ("AP of drawn images, against repeated ones", drawn, 100, {}),
]


def parity(most: int | None) -> None:
    """Prints the table; `most` is the largest number of cases of a kind."""
    print("| cases | number | largest difference |\n|---|---|---|")
    for name, run, count, options in KINDS:
        count = min(count, most or count)
        print(f"| {name} | {count:,} | {run(np.random.default_rng(0), count, **options):.1g} |", flush=True)


def write(folder: Path) -> None:
    """A results file of 5,000 images × 100 detections, and its annotation file."""
    rng = np.random.default_rng(0)
    images = [{"id": 37 * i + 139, "file_name": f"{i:012d}.jpg", "height": 480, "width": 640} for i in range(5000)]
    objects, found = [], []
    for image in images:
        true = [(_box(rng), int(rng.integers(1, 81))) for _ in range(rng.integers(1, 14))]
        for box, label in true:
            row = {"image_id": image["id"], "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            objects.append({"id": len(objects) + 1, **row})
        for n in range(100):
            box, label = true[n % len(true)] if n < 2 * len(true) else (_box(rng), int(rng.integers(1, 81)))
            near = [float(np.float32(value)) for value in np.array(box) * (1 + 0.06 * rng.normal(size=4))]
            score = float(np.float32(rng.beta(4, 3) if n < 2 * len(true) else rng.beta(1, 8)))
            found.append({"image_id": image["id"], "category_id": label, "bbox": near, "score": score})
    classes = [{"id": k, "name": f"class {k}"} for k in range(1, 81)]
    truth = {"images": images, "categories": classes, "annotations": objects}
    for name, content in (("results", found), ("truth", truth)):
        (folder / f"{name}.json").write_text(json.dumps(content))


def _box(rng) -> list[float]:
    w, h = rng.random(2) ** 2 * 300 + 5
    return [round(float(v), 2) for v in (rng.random() * (640 - w), rng.random() * (480 - h), w, h)]


def measure(command: list[str], path: str, folder: str) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of a process; this one must stay small, as a child begins with its memory."""
    # modules are compiled once, as for a user, whatever this environment says
    own = {**os.environ, "PYTHONPATH": path, "PYTHONPYCACHEPREFIX": f"{folder}/compiled"}
    own.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=own, cwd=folder)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, command
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def speed(before: str | None, rounds: int = 5) -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "write", folder], check=True)
        files = [f"{folder}/results.json", f"{folder}/truth.json"]
        evaluate = [sys.executable, "-m", "vitdet", "evaluate", *files]
        runs = {"hotcoco alone": ([sys.executable, "-c", BARE, *files], ""), "vitdet": (evaluate, str(ROOT))}
        runs |= {"vitdet before": (evaluate, before)} if before else {}
        for command, path in runs.values():  # the index of the annotation file and compiled modules are kept
            measure(command, path, folder)
        rows = {name: [] for name in runs}
        for _ in range(rounds):
            for name, (command, path) in runs.items():
                rows[name].append(measure(command, path, folder))
    base = np.median(rows["hotcoco alone"], axis=0)
    print("| | CPU s | × hotcoco | MB | × hotcoco |\n|---|---|---|---|---|")
    for name, values in rows.items():
        (seconds, memory), (more, larger) = np.median(values, axis=0), np.median(values, axis=0) / base
        print(f"| {name} | {seconds:.2f} | {more:.2f} | {memory:.0f} | {larger:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["parity", "speed", "write"])
    parser.add_argument("folder", nargs="?", type=Path, help="where `write` puts the files that are scored for speed")
    parser.add_argument("--cases", type=int, help="at most so many cases of a kind, for parity")
    parser.add_argument("--before", help="the folder of another checkout, for speed")
    options = parser.parse_args()
    if options.what == "write":
        write(options.folder)
    else:
        parity(options.cases) if options.what == "parity" else speed(options.before)
