"""Trainings of a tiny model on several processes, one after the other, as a script: `forked.py FOLDER < runs.json`.

The processes are forked from one that has imported everything, so that 8 of them start in a second. Each run is a
mapping: `ranks`, `stop` (the number of steps after which it is told to stop, as by Ctrl-C; none for the end), and what
changes in `data` and `trainer`. A run with `resume` goes on from the last checkpoint of the run before. Each process
writes what its batches were to `FOLDER/RUN_RANK.json`.
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import lightning as L
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from small_model import BACKBONE, HEAD

from vitdet import Backbone, DETRHead, ShapesData, Task, Trainer


class Watch(L.Callback):
    """Notes the samples of each batch, by image and content, and the norm of the gradient of each step."""

    def __init__(self, stop: int | None) -> None:
        self.stop, self.samples, self.norms = stop, [], []

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch: Any, batch_idx: int) -> None:
        for image, target in zip(*batch):
            content = image.numpy().tobytes() + target.boxes_cxcywh.numpy().tobytes()
            self.samples.append([trainer.global_step, target.image_id, hashlib.sha1(content).hexdigest()])
        if trainer.global_step + 1 == self.stop and trainer.is_global_zero:
            os.kill(os.getpid(), signal.SIGINT)

    def on_before_optimizer_step(self, trainer: L.Trainer, task: L.LightningModule, optimizer: Any) -> None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in task.parameters() if p.grad is not None])
        self.norms.append(float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm))


def train(folder: Path, number: int, run: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    L.seed_everything(0, verbose=False)
    options = {"root": folder / "shapes", "train_images": 40, "val_images": 2, "size": 64, "batch_size": 8, "seed": 0}
    data = ShapesData(**{**options, **run.get("data", {})})
    head = {**HEAD, "denoising": 0, **run.get("head", {})}
    task = Task(
        Backbone("vit_tiny_patch16_224", **{**BACKBONE, **run.get("backbone", {})}),
        lambda c, s, k: DETRHead(c, s, k, **head),
        **{"classes": data.classes, "lr": 1e-3, **run.get("task", {})},
    )
    watch = Watch(run.get("stop"))
    several = run["ranks"] > 1
    usual = {"max_epochs": 3, "pictures": 0, "progress": False, "logger": False, "num_sanity_val_steps": 0}
    usual |= {"strategy": "ddp" if several else "auto", "version": 0}
    trainer = Trainer(
        root=folder / "runs",
        accelerator="cpu",
        devices=run["ranks"],
        callbacks=[watch],
        **{**usual, **run.get("trainer", {})},
    )
    last = folder / "runs" / run.get("trainer", {}).get("name", "default") / "version_0" / "last.ckpt"
    try:
        trainer.fit(task, data, ckpt_path=last if run.get("resume") else None)
    finally:
        scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
        # of weights that are shared out, this process holds a part
        weights = [p.to_local() if hasattr(p, "to_local") else p for p in task.parameters()]
        found = {"samples": watch.samples, "norms": watch.norms, "step": trainer.global_step, "scores": scores}
        found["held"] = sum(weight.numel() for weight in weights)
        (folder / f"{number}_{trainer.global_rank}.json").write_text(json.dumps(found))


def start(folder: Path, number: int, run: dict[str, Any]) -> list[int]:
    """Forks the processes of a run, and returns their statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(run["ranks"]):
        child = os.fork()
        if not child:
            if run["ranks"] > 1:
                os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            status = 1
            try:
                train(folder, number, run)
                status = 0
            except SystemExit:
                status = 2
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def run(folder: Path, runs: list[dict[str, Any]]) -> tuple[list[list[dict[str, Any]]], str]:
    """What the processes of each run wrote, and what they said."""
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        input=json.dumps(runs),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    parts = [
        [json.loads((folder / f"{number}_{rank}.json").read_text()) for rank in range(one["ranks"])]
        for number, one in enumerate(runs)
    ]
    return parts, done.stdout + done.stderr


def steps_of(parts: list[dict[str, Any]]) -> dict[int, list[Any]]:
    """The samples of each step, by image and content, over the processes of one run."""
    steps: dict[int, list[Any]] = {}
    for part in parts:
        for step, *sample in part["samples"]:
            steps.setdefault(step, []).append(sample)
    return {step: sorted(samples) for step, samples in steps.items()}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    for number, run in enumerate(json.load(sys.stdin)):
        begin = time.monotonic()
        statuses = start(place, number, run)
        print(f"run {number}: {statuses}, {time.monotonic() - begin:.1f} s", flush=True)
