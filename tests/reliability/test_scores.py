"""AP of boxes and masks is that of pycocotools, on one process and on several, which have any number of images."""

import json
import multiprocessing
import socket
import sys

import numpy as np
import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from chaos import ROOT, rounds

from vitdet.data.sampler import EvalBatchSampler
from vitdet.metrics import CocoMetric

sys.path.append(str(ROOT / "tests" / "metrics"))
import coco_oracle as boxes
import test_masks_against_pycocotools as masks

TWELVE = boxes.TWELVE
SIZES, WORLDS = (1, 2, 3, 7, 20, 21), (1, 2, 3, 4)


def case_of(kind: str, rng, count: int | None = None):
    """The ground truth, the detections as predictions, and pycocotools' twelve numbers."""
    if kind == "boxes":
        truth, found = boxes.make_case(rng, count=count)
        return truth, boxes.predictions(truth, found), boxes.pycocotools(truth, found)[2]
    images = (3, 8, 1) if count is None else tuple((7 * np.arange(count) + 3).tolist())
    truth, found = masks.make_case(rng, images)
    return truth, list(masks.predictions(truth, found)), masks.pycocotools(truth, found)


def metric_of(kind: str, truth) -> CocoMetric:
    return CocoMetric(truth, iou_type="bbox" if kind == "boxes" else "segm")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_scores_are_those_of_pycocotools(kind):
    """In the long form of 10,000 cases of each kind; other seeds than those of tests/metrics."""
    rng, aps = np.random.default_rng(15), []
    for _ in range(rounds(150, 10_000)):
        truth, predictions, wanted = case_of(kind, rng)
        metric = metric_of(kind, truth)
        metric.update(predictions)
        scores = metric.compute()
        np.testing.assert_allclose([scores[name] for name in TWELVE], wanted, rtol=0, atol=1e-10)
        aps.append(scores["AP"])
    # cases that are all 0, or all -1, would prove little
    assert np.mean([0 < ap < 1 for ap in aps]) > 0.3


def process(rank, world, port, folder, seeds):
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    results = []
    for kind, size, seed in [(kind, size, seed) for kind in ("boxes", "masks") for size in SIZES for seed in seeds]:
        truth, predictions, wanted = case_of(kind, np.random.default_rng([seed, size]), size)
        metric = metric_of(kind, truth)
        # as the data share them out: with fewer images than ranks, some have the same
        for batch in EvalBatchSampler([1] * size, batch_size=3, rank=rank, world_size=world):
            metric.update([predictions[draw.index] for draw in batch])
        scores = metric.compute()
        results.append([[scores[name] for name in TWELVE], [float(value) for value in wanted]])
    (folder / f"{world}-{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_ranks_score_as_pycocotools(world, tmp_path):
    """Every rank has the numbers of pycocotools, on 1, 2, 3, 7, 20 and 21 images."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.set_forkserver_preload(["vitdet.metrics"])
    seeds = range(rounds(1, 40))
    mp.start_processes(process, (world, port, tmp_path, seeds), nprocs=world, start_method="forkserver")
    found = [json.loads((tmp_path / f"{world}-{rank}.json").read_text()) for rank in range(world)]
    for results in found:
        assert len(results) == 2 * len(SIZES) * len(seeds)
        for scores, wanted in results:
            np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-10)
    # the scores of several images say something
    assert any(0 < scores[0] < 1 for scores, _ in found[0])
