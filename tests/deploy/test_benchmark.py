"""What the benchmark counts, counted by hand; what it times, timed against a known delay."""

import time
from functools import partial

import pytest
import torch
from torch import nn

from vitdet.data import CocoData, ShapesData, ShapesPanopticData
from vitdet.deploy.benchmark import (
    PHASES,
    benchmark,
    describe_tokens,
    flops,
    latency,
    peak_memory,
    train_split,
)
from vitdet.errors import UserError
from vitdet.heads import DETRHead, Head, MaskDecoderHead
from vitdet.structures import Prediction, Target
from vitdet.training import Task


class Slow(Head):
    """One linear layer; each phase sleeps as long as it is told to."""

    def __init__(self, delays=None):
        super().__init__(in_channels=[8], strides=[2], num_classes=1)
        self.layer = nn.Linear(8, 8, bias=False)
        self.delays, self.loss_weights = delays or {}, {"mean": 1.0}

    def forward(self, features, targets=None):
        time.sleep(self.delays.get("forward", 0))
        return self.layer(features)

    def loss(self, outputs, targets):
        time.sleep(self.delays.get("loss", 0))
        return {"mean": outputs.mean()}

    def predict(self, outputs, sizes):
        empty = torch.zeros(0)
        return [Prediction(empty.view(0, 4), empty, empty.long(), size) for size in sizes]


class Flat(nn.Module):
    patch_size = 2

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 8, bias=False)

    def forward(self, images):
        return self.layer(torch.cat([image.flatten(1).T for image in images]))  # (3, H, W) -> (H*W, 3)


def batch(*sizes):
    return [torch.ones(3, *size) for size in sizes], [
        Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), size, size) for size in sizes
    ]


def test_flops_are_two_for_each_multiply_add():
    assert flops(Flat(), Slow(), [torch.zeros(3, 4, 5)]) == 2 * 20 * (3 * 8 + 8 * 8)


def test_attention_is_counted(model):
    backbone, _ = model
    n = {side: (side // 16) ** 2 + 1 for side in (64, 128)}  # patches and a class token
    one, four = (flops(backbone, nn.Identity(), [torch.zeros(3, side, side)]) for side in n)
    quadratic = 4 * 2 * 32  # QK and AV of 2 blocks of width 32, two for each multiply-add
    linear = 2 * 2 * (3 + 1 + 4 + 4) * 32 * 32  # QKV, projection, MLP
    # patches, neck and the like grow exactly fourfold
    assert four - 4 * one == quadratic * (n[128] ** 2 - 4 * n[64] ** 2) + linear * (n[128] - 4 * n[64])


def test_padding_and_tokens_by_hand():
    rows = describe_tokens([batch((16, 16), (20, 32)), batch((16, 64))], 16)
    # 1 + 4 + 4 tokens; pixels fill 1 + 2.5 + 4 of them; padded to the largest: 2 * 4 + 4
    assert rows["tokens"].startswith("3 an image")
    assert rows["padding"].startswith(f"{1 - 7.5 / 9:.1%} of") and f"{1 - 7.5 / 12:.1%} if" in rows["padding"]


def test_latency_is_the_time_of_a_batch():
    images = batch(*[(4, 4)] * 3)[0]
    p50, p95 = latency(Flat(), Slow({"forward": 0.02}), images, batch_size=2, repeats=5)
    assert 0.02 <= p50 <= p95 < 0.2


def test_each_phase_gets_its_own_time():
    def slow_batches():
        time.sleep(0.03)
        yield batch((4, 4))

    class Slowly:
        def __iter__(self):
            return slow_batches()

    backbone, head = Flat(), Slow({"forward": 0.02, "loss": 0.04})
    before = head.layer.weight.clone()
    optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=1.0)
    split, tokens = train_split(backbone, head, Slowly(), optimizer, steps=3)
    assert tuple(split) == PHASES and tokens == 4
    for phase, least in {"data": 0.03, "forward": 0.02, "loss": 0.04, "backward": 0, "optimiser": 0}.items():
        assert least <= split[phase] < least + 0.1
    assert head.training and (head.layer.weight != before).any()
    with pytest.raises(ValueError, match="no batch"):
        train_split(backbone, head, [], optimizer, steps=1)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_optimiser_is_the_tasks_own_and_has_every_weight_once(model, optimizer):
    task = Task(*model, classes=["a", "b", "c"], optimizer=optimizer, lr=3e-3, weight_decay=0.07)
    made = task.make_optimizer()
    assert optimizer in type(made).__name__.lower()
    held = [id(parameter) for group in made.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(p) for p in task.parameters() if p.requires_grad)
    assert max(group["lr"] for group in made.param_groups) == pytest.approx(3e-3)


def test_peak_memory_notices_a_large_tensor():
    before = peak_memory(torch.device("cpu"))
    torch.ones(before // 4 + 2**24).sum()  # four bytes each: more than the process ever had
    assert peak_memory(torch.device("cpu")) > before


@pytest.mark.parametrize(
    ("kind", "head"),
    [(ShapesData, DETRHead), (ShapesData, partial(DETRHead, masks=True)), (ShapesPanopticData, MaskDecoderHead)],
    ids=["boxes", "instances", "panoptic"],
)
def test_a_task_and_its_data_make_a_table(kind, head, model, tmp_path, capsys):
    data = kind(root=str(tmp_path), train_images=6, val_images=3, size=64, batch_size=2)
    task = Task(model[0], partial(head, dim=32), classes=data.classes)
    rows = benchmark(task, data, steps=1, repeats=2, device="cpu")
    printed = capsys.readouterr().out
    for name in ("parameters", "arithmetic", "padding", "prediction, batch 8", "  optimiser", "peak memory"):
        assert name in rows and name.strip() in printed
    shares = [float(rows[f"  {phase}"].split(", ")[1].rstrip("%")) for phase in PHASES]
    assert sum(shares) == pytest.approx(100, abs=3)


@pytest.mark.parametrize("split", ["val", "test"])
def test_data_without_training_data(model, tmp_path, split):
    shapes = ShapesData(root=str(tmp_path), train_images=6, val_images=3, size=64)
    files = shapes.splits["val"]
    data = CocoData(**{split: files}, size=64)
    rows = benchmark(Task(model[0], partial(DETRHead, dim=32), classes=data.classes), data, repeats=2, device="cpu")
    assert "prediction, batch 8" in rows and "training step" not in rows


def test_what_cannot_be_measured(model, tmp_path):
    data = ShapesPanopticData(root=str(tmp_path), train_images=6, val_images=3, size=64)
    task = Task(model[0], partial(DETRHead, dim=32), classes=data.classes)
    for options, message in (
        ({"device": "cuda:77"}, "there is no device 'cuda:77' here"),
        ({"steps": 0}, "steps is 0; wanted a whole number from 1"),
        ({"repeats": 1}, "repeats is 1; wanted a whole number from 2"),
        (
            {},
            "DETRHead learns from data of instances, and this is panoptic: choose CocoData, or for this data "
            "model.head",
        ),
    ):
        with pytest.raises(UserError, match=message):
            benchmark(task, data, **options)
