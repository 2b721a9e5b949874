"""How well the trackers of `vitdet predict --track` keep the numbers of objects, on motion whose tracks are known.

    python benchmarks/tracking.py [--seeds 2] [--frames 300]

Objects move along curves, cross, and leave. What a detector would find of them is made from the truth: boxes jitter, a
tenth is missed, scores sink where an object is hidden by another, and there are false alarms. HOTA, MOTA, IDF1 and
identity switches are those of trackers.eval, a port of TrackEval; the time is that of the tracker alone.
"""

import argparse
import time

import numpy as np
import torch
from trackers.eval import box_iou, compute_clear_metrics, compute_hota_metrics, compute_identity_metrics

from vitdet.deploy.tracking import TRACKERS, Tracker
from vitdet.structures import Prediction

SIZE = (480, 640)
# the number of objects, the factor of their speed, and of how many frames one is seen
SCENES = {"calm": (8, 1.0, 1), "crowded": (25, 1.0, 1), "fast": (12, 3.0, 1), "every third frame": (12, 1.0, 3)}
THRESHOLD = 0.3


def motion(rng: np.random.Generator, count: int, speed: float, frames: int) -> np.ndarray:
    """Boxes `(frames, count, 4)` of objects that swing through the picture and beyond its borders."""
    t = np.arange(frames)[:, None, None] / 25
    middle, reach = rng.uniform(0.2, 0.8, (count, 2)), rng.uniform(0.15, 0.6, (count, 2))
    pace, phase = rng.uniform(0.15, 0.6, (count, 2)) * speed, rng.uniform(0, 2 * np.pi, (count, 2))
    centres = (middle + reach * np.sin(pace * t + phase)) * SIZE[::-1]
    half = rng.uniform(12, 35, (count, 2))
    return np.concatenate([centres - half, centres + half], -1)


def detect(rng: np.random.Generator, boxes: np.ndarray) -> Prediction:
    """What a detector finds of `boxes` `(T, 4)`, of which the later ones are in front."""
    iou = box_iou(boxes, boxes)
    hidden = np.triu(iou, 1).max(1, initial=0)
    scores = np.clip(rng.normal(0.6, 0.12, len(boxes)) - 0.9 * hidden, 0.02, 0.99)
    kept = rng.random(len(boxes)) > 0.1 + 0.8 * (hidden > 0.7)
    size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    found = (boxes + rng.normal(0, 0.04, boxes.shape) * size)[kept]
    wrong = rng.poisson(2)
    corner = rng.uniform(0, 0.9, (wrong, 2)) * SIZE[::-1]
    found = np.concatenate([found, np.concatenate([corner, corner + rng.uniform(20, 70, (wrong, 2))], 1)])
    scores = np.concatenate([scores[kept], rng.uniform(0.02, 0.45, wrong)])
    order = np.argsort(-scores)
    boxes = torch.from_numpy(found[order].astype(np.float32))
    return Prediction(boxes, torch.from_numpy(scores[order]), torch.zeros(len(order), dtype=torch.long), SIZE)


def run(name: str, seed: int, scene: tuple[int, float, int], frames: int) -> tuple[np.ndarray, float]:
    """HOTA, MOTA, IDF1 and switches of a tracker in a scene, and its milliseconds for a frame."""
    count, speed, every = scene
    rng = np.random.default_rng((seed, count))
    truth = motion(rng, count, speed, frames)[::every]
    tracker = Tracker(THRESHOLD, rate=25 / every, name=name)
    real, given, overlaps, seconds = [], [], [], 0.0
    for i, boxes in enumerate(truth):
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centre > 0) & (centre < SIZE[::-1])).all(1)
        found = detect(rng, boxes[inside])
        start = time.perf_counter()
        kept, ids = tracker.update(found, i * every / 25)
        seconds += time.perf_counter() - start
        # a detection without a number is in no track
        numbered = [k for k, number in enumerate(ids) if number]
        real.append(np.flatnonzero(inside))
        given.append(np.array([ids[k] for k in numbered], int))
        overlaps.append(box_iou(boxes[inside], kept.boxes_xyxy.numpy()[numbered].reshape(-1, 4)))
    # the metrics of identity want numbers without gaps
    numbers = {number: k for k, number in enumerate(sorted({n for ids in given for n in ids.tolist()}))}
    given = [np.array([numbers[n] for n in ids.tolist()], int) for ids in given]
    clear = compute_clear_metrics(real, given, overlaps)
    hota, identity = compute_hota_metrics(real, given, overlaps), compute_identity_metrics(real, given, overlaps)
    scores = [100 * hota["HOTA"], 100 * clear["MOTA"], 100 * identity["IDF1"], clear["IDSW"]]
    return np.array(scores, float), 1000 * seconds / len(truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--frames", type=int, default=300)
    options = parser.parse_args()
    print(f"{'scene':20} {'tracker':10}   HOTA   MOTA   IDF1  switches  ms/frame   (each seed)")
    for title, scene in SCENES.items():
        for name in TRACKERS:
            runs = [run(name, seed, scene, options.frames) for seed in range(options.seeds)]
            hota, mota, idf1, switches = np.mean([scores for scores, _ in runs], 0)
            each = ", ".join(f"{scores[0]:.1f}" for scores, _ in runs)
            ms = np.mean([ms for _, ms in runs])
            print(f"{title:20} {name:10} {hota:6.1f} {mota:6.1f} {idf1:6.1f} {switches:9.1f} {ms:9.2f}   HOTA {each}")


if __name__ == "__main__":
    main()
