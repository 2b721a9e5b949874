"""Mean IoU, panoptic quality and mask AP on three processes are those on one, with an image that two of them had."""

import json
import multiprocessing
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vitdet.masks import encode
from vitdet.metrics import CocoMetric, PanopticMetric, SemanticMetric
from vitdet.metrics.thresholds import choose
from vitdet.structures import Prediction

SIZE, NAMES = (12, 16), ["a", "b", "c"]


def truth_of(i):
    return np.random.default_rng(i).integers(0, 3, (3, 4)).astype(np.uint8).repeat(4, 0).repeat(4, 1)


def segments_of(i):
    labels = np.unique(truth_of(i))
    return truth_of(i).astype(np.int64) + 1, labels.astype(np.int64) + 1, labels, np.zeros(len(labels), bool)


def annotations():
    rows = []
    for i in range(5):
        for label in np.unique(truth_of(i)):
            mask = truth_of(i) == label
            rle = {"size": list(SIZE), "counts": encode(mask[None])[0].decode()}
            row = {
                "image_id": i,
                "category_id": int(label),
                "bbox": [0, 0, 16, 12],
                "area": int(mask.sum()),
                "iscrowd": 0,
            }
            rows.append({"id": len(rows) + 1, "segmentation": rle, **row})
    images = [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(5)]
    return {"images": images, "categories": [{"id": k, "name": n} for k, n in enumerate(NAMES)], "annotations": rows}


def prediction(i):
    """The truth, shifted by two pixels, in all forms at once."""
    found = torch.from_numpy(np.roll(truth_of(i), 2, 1))
    labels = found.unique().long()
    ids = torch.zeros(SIZE, dtype=torch.int32)
    for t, label in enumerate(labels):
        ids[found == label] = t + 1
    boxes = torch.tensor([[0.0, 0.0, 16.0, 12.0]]).expand(len(labels), 4)
    masks = found == labels[:, None, None]
    scores = torch.linspace(0.9, 0.5, len(labels))
    return Prediction(boxes, scores, labels, size=SIZE, image_id=i, masks=masks, semantic=found, panoptic=ids)


def make(kind):
    if kind == "semantic":
        return SemanticMetric(truth_of, NAMES, total=5)
    if kind == "panoptic":
        return PanopticMetric(segments_of, NAMES, [True, False, False], [0, 1, 2], total=5)
    return CocoMetric(annotations(), iou_type="segm")


def process(rank, port, shares, folder):
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(shares))
    results = {}
    for kind in ("semantic", "panoptic", "masks"):
        metric = make(kind)
        metric.update([prediction(i) for i in shares[rank]])
        results[kind] = metric.compute()
        if kind == "masks":
            results["thresholds"] = choose(metric.matches)["values"]
        if kind == "panoptic":
            metric.save(folder / "panoptic.json")
    (folder / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def test_processes_score_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.set_forkserver_preload(["vitdet.metrics"])
    shares = [[0, 1, 2], [2, 3, 4], []]  # image 2 twice; the third process has nothing
    mp.start_processes(process, (port, shares, tmp_path), nprocs=3, start_method="forkserver")
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert results[0] == results[1] == results[2]
    thresholds = results[0].pop("thresholds")
    for kind, scores in results[0].items():
        alone = make(kind)
        alone.update([prediction(i) for i in range(5)])
        wanted = alone.compute()
        assert scores == pytest.approx(wanted, abs=1e-12) and 0 < next(iter(wanted.values())) < 1
    # the last of these is that of masks
    assert thresholds == choose(alone.matches)["values"]
    saved = json.loads((tmp_path / "panoptic.json").read_text())["annotations"]
    assert [row["image_id"] for row in saved] == [0, 1, 2, 3, 4]
    assert all((tmp_path / "panoptic" / row["file_name"]).is_file() for row in saved)
