"""Ctrl-C and SIGTERM, sent to a real process, leave a checkpoint from which the run goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from vitdet.cli import main

ROOT = Path(__file__).parents[2]
CONFIG = """
model:
  backbone: {name: vit_tiny_patch16_224, stem: {class_path: ConvStem, width: 8}, \
model_args: {embed_dim: 32, num_heads: 2}, depth: 1, out_channels: 32}
  head: {dim: 32, num_queries: 20, num_layers: 1, decoder: {num_heads: 4, ffn_dim: 32}}
data: {class_path: ShapesData, root: ROOT, train_images: 12, val_images: 5, size: 64, batch_size: 4}
trainer: {max_epochs: 100000, root: RUNS, accelerator: cpu, check_val_every_n_epoch: 100000, pictures: 0}
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_process_can_go_on(tmp_path, number):
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG.replace("ROOT", str(tmp_path / "shapes")).replace("RUNS", str(tmp_path / "runs")))
    last = tmp_path / "runs" / "tiny" / "version_0" / "last.ckpt"
    command = [sys.executable, str(ROOT / "tools" / "train.py"), str(config)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        deadline = time.monotonic() + 120
        while not last.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(0.3)  # somewhere in a step
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0
    assert "Traceback" not in output and str(last) in output, output[-2000:]
    stopped = torch.load(last, weights_only=True)["global_step"]
    assert stopped > 3

    steps = str(stopped + 2)
    main(["train", str(config), "--ckpt_path", "last", "--trainer.max_steps", steps])
    assert torch.load(last, weights_only=True)["global_step"] == stopped + 2
