"""A package of AOTInductor gives what PyTorch gives, through `vitdet.load` and without vitdet."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import vitdet
from vitdet.deploy.engines.compiling import to_package

# as on the page; nothing but torch is imported
WITHOUT = """
import sys; sys.modules["vitdet"] = None
import torch
run = torch._inductor.aoti_load_package('best.pt2'); print(run(torch.zeros(2, 3, 64, 96)))
"""


# the compiler takes a minute
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_package_runs_with_and_without_vitdet(checkpoint, tmp_path):
    model = vitdet.load(checkpoint)
    package = vitdet.load(to_package(model, tmp_path / "best.pt2"))
    assert "AOTInductor" in package.runs_on and package.classes == model.classes
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((48, 96), (30, 30), (48, 96))]
    for one, other in zip(model.predict(images, threshold=0.0), package.predict(images, threshold=0.0)):
        torch.testing.assert_close(one.boxes_xyxy, other.boxes_xyxy, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)
    done = subprocess.run([sys.executable, "-c", WITHOUT], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
    assert all(name in done.stdout for name in ("boxes", "scores", "labels"))
