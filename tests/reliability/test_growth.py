"""A long run keeps its memory and its files: neither grows with the steps or the images, but for what is to be kept."""

import json
import math

import numpy as np
import pytest
from chaos import finish, rounds, start

TRAIN = """
import gc, os, sys, json
import lightning as L, torch
from vitdet import Backbone, DETRHead, ShapesData, Task, Trainer

folder, steps, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
seconds = float(sys.argv[4])

class Measure(L.Callback):
    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step % 3 == 0:
            held = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            tensors = sum(isinstance(value, torch.Tensor) for value in gc.get_objects())
            row = [trainer.global_step, held, len(os.listdir("/proc/self/fd")), tensors]
            print(json.dumps(row), file=out, flush=True)

if __name__ == "__main__":
    out = open(folder + "/measured", "w")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = ShapesData(root=folder + "/shapes", train_images=12, val_images=4, size=64, batch_size=4,
                      num_workers=workers)
    backbone = Backbone("vit_tiny_patch16_224", model_args={"embed_dim": 32, "num_heads": 2}, depth=1, out_channels=32)
    head = {"dim": 32, "num_queries": 20, "num_layers": 1, "decoder": {"num_heads": 4, "ffn_dim": 32}}
    task = Task(backbone, lambda c, s, k: DETRHead(c, s, k, **head), classes=data.classes, lr=1e-4)
    bound = {"max_time": {"seconds": seconds}} if seconds else {"max_steps": steps}
    trainer = Trainer(root=folder + "/runs", accelerator="cpu", pictures=0, progress=False, max_epochs=-1,
                      check_val_every_n_epoch=10, callbacks=[Measure()], **bound)
    trainer.fit(task, data)
"""


def slope(steps, values) -> float:
    """Of a line through the values, in their units a step."""
    return float(np.polyfit(np.asarray(steps, float), np.asarray(values, float), 1)[0])


def train(tmp_path, *, steps: int, workers: int = 0, seconds: float = 0.0) -> np.ndarray:
    """What was measured after the first third, which fills caches: step, bytes, descriptors, tensors."""
    (tmp_path / "train.py").write_text(TRAIN)
    words = [tmp_path, steps, workers, seconds]
    code, output = finish(start(words, program=(str(tmp_path / "train.py"),)), 600 + steps + 2 * seconds)
    assert code == 0, output[-3000:]
    rows = np.array([json.loads(line) for line in (tmp_path / "measured").read_text().splitlines()])
    return rows[len(rows) // 3 :]


def check(rows: np.ndarray, *, most: float) -> None:
    """Neither descriptors nor tensors are more at the end, and the memory grows by at most so many bytes a step."""
    steps, held, files, tensors = rows.T
    grown = slope(steps, held)
    print(f"{len(rows)} measurements to step {steps[-1]}: {grown:.0f} bytes a step, {held[-1] / 1e6:.0f} MB at the end")
    print(f"descriptors {files.min()} to {files.max()}, tensors {tensors.min()} to {tensors.max()}")
    middle = len(rows) // 2
    assert files[middle:].max() <= files[:middle].max()
    assert tensors[middle:].max() <= tensors[:middle].max()
    assert grown < most


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_training_does_not_grow(workers, tmp_path):
    """With validations and checkpoints. The long form is 10,000 steps; a short run allows for what the heap splits."""
    steps = rounds(300, 10_000)
    check(train(tmp_path, steps=steps, workers=workers), most=rounds(50_000, 500))


@pytest.mark.skipif(not rounds(0, 1), reason="the long form: an hour")
@pytest.mark.timeout(2 * 3600)
def test_an_hour_does_not_grow(tmp_path):
    check(train(tmp_path, steps=0, seconds=3600), most=500)


MASKS = """
import json, os, sys
import torch
from vitdet.metrics import CocoMetric
from vitdet.structures import Prediction

count, each = int(sys.argv[1]), int(sys.argv[2])
images = [{"id": i, "height": 480, "width": 640} for i in range(count)]
metric = CocoMetric({"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": []}, iou_type="segm")
generator = torch.Generator().manual_seed(0)
y, x = torch.meshgrid(torch.arange(480.0), torch.arange(640.0), indexing="ij")
# discs: their run lengths are as long as those of objects
places = torch.rand(each, 3, generator=generator) * torch.tensor([480, 640, 80.0])
masks = torch.stack([(y - a) ** 2 + (x - b) ** 2 < (20 + r) ** 2 for a, b, r in places])
box = torch.tensor([[0.0, 0.0, 9.0, 9.0]]).expand(each, 4)
for i in range(count):
    scores, labels = torch.rand(each, generator=generator), torch.zeros(each).long()
    found = masks.roll(i % 97, 2).clone()
    metric.update([Prediction(box, scores, labels, size=(480, 640), image_id=i, masks=found)])
    if i % 5 == 0:
        held = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        kept = len(metric._masks) + 8 * len(metric._rows) + 8 * len(metric._mask_sizes)
        print(json.dumps([i, held, kept]), flush=True)
if len(sys.argv) > 3:
    metric.compute()
"""


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
def test_validation_of_masks_keeps_no_more_than_run_lengths(tmp_path):
    """The long form is 5,000 images of 100 masks, as of COCO, and scores them in the end."""
    (tmp_path / "masks.py").write_text(MASKS)
    count, each = rounds(120, 5000), rounds(30, 100)
    words = [count, each, *(["score"] if rounds(0, 1) else [])]
    code, output = finish(start(words, program=(str(tmp_path / "masks.py"),)), 120 + 2 * count)
    assert code == 0, output[-3000:]
    rows = np.array([json.loads(line) for line in output.splitlines() if line.startswith("[")])
    images, held, kept = rows[len(rows) // 3 :].T
    grown, wanted = slope(images, held), slope(images, kept)
    print(f"{count} images of {each} masks: {grown:.0f} bytes an image, of which {wanted:.0f} are run lengths")
    # what grows is enlarged by an eighth at a time, and the heap may split; the masks themselves are 30 times as large
    assert grown < 1.5 * wanted + 40_000
    assert math.prod((480, 640, each)) > 20 * (1.5 * wanted + 40_000)
