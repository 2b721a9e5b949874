"""What many tests need."""

import functools
import json
import os
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitdet.data import Split
from vitdet.structures import Features, Level, Target

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)  # tiny tensors: a second thread only waits; pytest runs two processes instead

# a test file that imports one of these compares vitdet with it: it is collected where the extra `parity` is installed
PARITY = re.compile(r"^(?:from|import) (rfdetr|transformers)\b", re.MULTILINE)


@functools.cache
def parity_libraries(path: Path) -> set[str]:
    return set(PARITY.findall(path.read_text(encoding="utf-8")))


def cannot_run(path: Path) -> bool:
    return not all(find_spec(name) for name in parity_libraries(path))


def pytest_ignore_collect(collection_path, config):
    if collection_path.match("test_*.py") and cannot_run(collection_path):
        return True


def pytest_itemcollected(item):
    if parity_libraries(item.path):
        item.add_marker("parity")


def pytest_terminal_summary(terminalreporter, config):
    """Says how many tests were left out; no run passes for one with them."""
    left_out = [path for path in sorted(Path(__file__).parent.rglob("test_*.py")) if cannot_run(path)]
    tests = sum(len(re.findall(r"^def test_", path.read_text(encoding="utf-8"), re.MULTILINE)) for path in left_out)
    if tests:
        text = f"{tests} parity tests in {len(left_out)} files deselected: parity tests need pip install '.[parity]'"
        terminalreporter.write_line(text, yellow=True)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def make_features():
    """Random features of images of the given sizes, as a backbone with patch 16 would return them."""

    def make(sizes, channels=32, strides=(8, 16)):
        levels = []
        for stride in strides:
            grids = [(-(-h // 16) * 16 // stride, -(-w // 16) * 16 // stride) for h, w in sizes]
            levels.append(Level(torch.randn(sum(h * w for h, w in grids), channels), grids, stride))
        return Features(levels, list(sizes))

    return make


@pytest.fixture
def make_targets():
    """Random objects, a count for each image; their masks are their boxes."""

    def make(sizes, counts, num_classes=3):
        targets = []
        for size, count in zip(sizes, counts):
            wh = torch.rand(count, 2) * 0.4 + 0.05
            centre = wh / 2 + torch.rand(count, 2) * (1 - wh)
            labels = torch.randint(num_classes, (count,))
            y, x = ((torch.arange(n) + 0.5) / n for n in size)
            near = [(axis - centre[:, i, None]).abs() <= wh[:, i, None] / 2 for i, axis in enumerate((x, y))]
            masks = near[1][:, :, None] & near[0][:, None, :]  # (T, H, 1) and (T, 1, W)
            targets.append(Target(torch.cat([centre, wh], 1), labels, size, size, masks=masks))
        return targets

    return make


@pytest.fixture
def coco_split(tmp_path):
    """Makes images and a COCO JSON: two categories with ids 7 and 3, some images empty, one crowd, one empty box."""

    def make(count=7, name="train", sizes=((48, 64), (64, 40), (33, 50)), seed=0):
        rng = np.random.default_rng(seed)
        folder = tmp_path / name
        folder.mkdir()
        images, annotations = [], []
        for i in range(count):
            h, w = sizes[i % len(sizes)]
            Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)).save(folder / f"{i}.png")
            images.append({"id": 100 + i, "file_name": f"{i}.png", "width": w, "height": h})
            for _ in range(i % 3):
                x, y = rng.uniform(0, w / 2), rng.uniform(0, h / 2)
                box = [x, y, rng.uniform(4, w / 2), rng.uniform(4, h / 2)]
                annotations.append(
                    {"image_id": 100 + i, "category_id": int(rng.choice([3, 7])), "bbox": box, "iscrowd": 0}
                )
        annotations.append({"image_id": 100, "category_id": 3, "bbox": [0, 0, 20, 20], "iscrowd": 1})
        annotations.append({"image_id": 100, "category_id": 3, "bbox": [5, 5, 0, 9], "iscrowd": 0})
        for number, annotation in enumerate(annotations):
            annotation.update(id=2**40 + number, area=annotation["bbox"][2] * annotation["bbox"][3])
        categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        return Split(str(folder), str(path))

    return make
