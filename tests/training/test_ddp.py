"""Two processes on the CPU: the same scores as one, and nobody waits for a gradient that never comes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import json, sys
import torch
sys.path.insert(0, {here!r})
from small_model import BACKBONE, HEAD
from vitdet import Backbone, CocoData, DETRHead, ShapesData, Split, Task, Trainer

def count_seen(metric):
    with metric.sync_context(dist_sync_fn=metric.dist_sync_fn):
        return len(metric.images)

if __name__ == "__main__":
    verb, devices, root, out, counts = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], json.loads(sys.argv[5])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    options = dict(size=64, batch_size=2, seed=0)
    if verb == "empty":
        split = Split(root + "/train", root + "/empty.json")
        data = CocoData(train=split, val=split, **options)
    else:
        datas = [ShapesData(root=root, train_images=14, val_images=count, **options) for count in counts]
        data = datas[0]
    task = Task(Backbone("vit_tiny_patch16_224", **BACKBONE), lambda c, s, k: DETRHead(c, s, k, dense_aux=True, **HEAD),
                classes=data.classes, category_ids=data.category_ids)
    strategy = "ddp" if devices > 1 else "auto"  # "ddp" means find_unused_parameters=False
    trainer = Trainer(root=out, accelerator="cpu", devices=devices, strategy=strategy, max_epochs=1, pictures=0,
                      progress=False, num_sanity_val_steps=0)
    if verb == "validate":
        scores, seen = [], []
        for data in datas:
            scores.append(trainer.validate(task, data, verbose=False)[0])
            seen.append(count_seen(task.metric("val")))
    else:
        trainer.fit(task, data)
        scores = {{k: float(v) for k, v in trainer.callback_metrics.items()}}
        with open(out + f"/rank{{trainer.global_rank}}", "w") as file:
            file.write(str(trainer.run_folder))
        seen = count_seen(task.metric("val"))
    if trainer.is_global_zero:
        json.dump({{"scores": scores, "seen": seen, "step": trainer.global_step}}, open(out + "/result.json", "w"))
"""


def _run(tmp_path, verb, devices, root, counts, *, launcher=()):
    out = tmp_path / f"{verb}{devices}"
    out.mkdir()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parent)))
    command = [sys.executable, *launcher, str(script), verb, str(devices), root, str(out), json.dumps(counts)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "result.json").read_text())


def test_two_processes_score_as_one_and_see_every_image_once(tmp_path):
    """Also where there is one image only, which both then have."""
    root = str(tmp_path / "shapes")
    one, two = (_run(tmp_path, "validate", devices, root, [5, 1]) for devices in (1, 2))
    assert one["seen"] == two["seen"] == [5, 1]
    for alone, shared in zip(one["scores"], two["scores"], strict=True):
        assert alone.keys() == shared.keys() and "val/AP" in alone
        for name, value in alone.items():
            assert shared[name] == pytest.approx(value, abs=1e-6)


def test_training_with_images_without_objects_does_not_hang(tmp_path):
    """Half of the images are empty: in some steps one process has none but those."""
    from vitdet.data.shapes import make_shapes

    root = make_shapes(tmp_path / "shapes", train=8, val=2)
    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 3]
    (root / "empty.json").write_text(json.dumps(content))
    result = _run(tmp_path, "empty", 2, str(root), [])
    assert result["step"] == 2 and result["seen"] == 8
    assert all(torch.isfinite(torch.tensor(v)) for v in result["scores"].values())
    _share_one_folder(tmp_path / "empty2")


def test_torchrun_takes_one_folder_too(tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    _run(tmp_path, "fit", 2, str(tmp_path / "shapes"), [5], launcher=launcher)
    _share_one_folder(tmp_path / "fit2")


def _share_one_folder(out):
    (folder,) = (out / "default").iterdir()
    assert (out / "rank0").read_text() == (out / "rank1").read_text() == str(folder)
    assert {"best.ckpt", "last.ckpt", "metrics.csv"} <= {path.name for path in folder.iterdir()}
    assert len(list(folder.glob("events.out.*"))) == 1
