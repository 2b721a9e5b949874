"""Which weights learn how fast, and how that changes over a training."""

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vitdet import Backbone, DETRHead
from vitdet.training.optim import parameter_groups
from vitdet.training.schedule import Schedule

SHAPES = ("cosine", "linear", "constant", "wsd")
HEAD = {"dim": 32, "num_queries": 20, "num_layers": 1, "decoder": {"num_heads": 4, "ffn_dim": 32}}


def _parts(**options):
    backbone = Backbone(
        "vit_tiny_patch16_224", model_args={"embed_dim": 32, "num_heads": 2}, depth=3, out_channels=32, **options
    )
    return backbone, DETRHead(backbone.out_channels, backbone.strides, 3, **HEAD)


def _by_name(backbone, head, groups):
    group_of = {id(p): group for group in groups for p in group["params"]}
    named = [*backbone.named_parameters(prefix="backbone"), *head.named_parameters(prefix="head")]
    return {name: group_of[id(p)] for name, p in named if id(p) in group_of}


def test_every_trained_weight_is_in_one_group():
    backbone, head = _parts(freeze=1)
    for matrices in (False, True):
        groups = parameter_groups(backbone, head, lr=1.0, weight_decay=0.1, layer_decay=0.5, matrices=matrices)
        ids = [id(p) for group in groups for p in group["params"]]
        wanted = [id(p) for part in (backbone, head) for p in part.parameters() if p.requires_grad]
        assert len(ids) == len(set(ids)) and set(ids) == set(wanted)


def test_layer_decay_and_weight_decay():
    backbone, head = _parts()
    groups = parameter_groups(backbone, head, lr=1e-3, weight_decay=0.1, layer_decay=0.5, backbone_lr=0.2)
    group = _by_name(backbone, head, groups)
    # from the top: neck and norm, blocks 2, 1, 0, embeddings
    for name, halvings in [
        ("trunk.norm.weight", 0),
        ("trunk.blocks.2.mlp.fc1.weight", 1),
        ("trunk.blocks.0.mlp.fc1.weight", 3),
        ("trunk.patch_embed.proj.weight", 4),
        ("trunk.pos_embed", 4),
    ]:
        assert group[f"backbone.{name}"]["lr"] == pytest.approx(1e-3 * 0.2 * 0.5**halvings), name
    assert {g["lr"] for name, g in group.items() if name.startswith("head.")} == {1e-3}
    decayed = {name for name, g in group.items() if g["weight_decay"] == 0.1}
    assert {"backbone.trunk.blocks.0.attn.qkv.weight", "backbone.trunk.patch_embed.proj.weight"} <= decayed
    assert not {"backbone.trunk.pos_embed", "backbone.trunk.cls_token", "backbone.trunk.norm.weight"} & decayed
    assert not [name for name in decayed if name.endswith("bias")]


def test_the_vit_may_learn_slower_than_its_neck():
    backbone, head = _parts()
    groups = parameter_groups(backbone, head, lr=1e-3, weight_decay=0.1, layer_decay=0.5, trunk_lr=0.1)
    group = _by_name(backbone, head, groups)
    found = {name: group[f"backbone.{name}"]["lr"] for name, _ in backbone.named_parameters()}
    assert {rate for name, rate in found.items() if name.startswith("neck.")} == {1e-3}
    assert found["trunk.blocks.2.mlp.fc1.weight"] == pytest.approx(1e-3 * 0.1 * 0.5)
    assert found["trunk.pos_embed"] == pytest.approx(1e-3 * 0.1 * 0.5**4)
    assert found["trunk.norm.weight"] == found["trunk.norm.bias"] == pytest.approx(1e-3 * 0.1)  # the ViT's, at its rate


def test_muon_takes_neither_embeddings_nor_the_layer_to_the_classes():
    backbone, head = _parts()
    groups = parameter_groups(backbone, head, lr=1.0, weight_decay=0.1, matrices=True)
    taken = {id(p) for group in groups if group["matrices"] for p in group["params"]}
    assert id(backbone.trunk.blocks[0].attn.qkv.weight) in taken
    assert not {id(p) for part in (backbone, head) for p in part.parameters() if p.ndim < 2} & taken
    embeddings = {id(m.weight) for m in head.modules() if isinstance(m, nn.Embedding)}
    to_classes = {id(m.weight) for m in head.modules() if isinstance(m, nn.Linear) and m.out_features == 3}
    assert to_classes and not (embeddings | to_classes) & taken


@given(st.sampled_from(SHAPES), st.floats(0, 0.5), st.floats(0, 1), st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_the_rate_rises_then_falls_and_never_leaps(shape, warmup, final, points):
    early, late = sorted(points)
    a, b = (Schedule(shape=shape, warmup=warmup, final=final).factor(p) for p in (early, late))
    assert min(0.01, final) <= min(a, b) and max(a, b) <= 1 + 1e-9
    if late < warmup:
        assert a <= b + 1e-9
    if early >= warmup:
        assert a >= b - 1e-9
        assert a - b <= 5 * (late - early) + 1e-6  # wsd is the steepest: it falls within a fifth


@pytest.mark.parametrize("shape", SHAPES)
def test_the_ends(shape):
    schedule = Schedule(shape=shape, warmup=0.1, final=0.05)
    assert schedule.factor(0.0) == pytest.approx(0.01)
    assert schedule.factor(0.1) == pytest.approx(1.0)
    assert schedule.factor(1.0) == pytest.approx(1.0 if shape == "constant" else 0.05)


def test_cosine_is_torchs():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.1)
    for step in range(21):
        ours = Schedule(shape="cosine", warmup=0.0, final=0.1).factor(step / 20)
        assert ours == pytest.approx(oracle.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        oracle.step()


def _rates(trainer, task, data):
    rates = []

    class Record(L.Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer.callbacks.append(Record())
    trainer.fit(task, data)
    return rates


@pytest.mark.parametrize("limit", [{"max_epochs": 4}, {"max_epochs": 100, "max_steps": 12}], ids=["epochs", "steps"])
def test_the_schedule_follows_what_ends_the_training(tiny, limit):
    """Three batches an epoch, twelve in all."""
    settings = {"schedule": {"shape": "linear", "warmup": 0.0, "final": 0.0}, "lr": 1e-3}
    task, data, trainer = tiny(task=settings, **limit)
    assert _rates(trainer, task, data) == pytest.approx([1e-3 * (1 - step / 12) for step in range(12)])


def test_the_schedule_follows_the_clock(tiny):
    settings = {"schedule": {"shape": "linear", "warmup": 0.0, "final": 0.0}, "lr": 1e-3}
    task, data, trainer = tiny(
        task=settings, max_epochs=-1, max_time={"seconds": 2}, check_val_every_n_epoch=1000, num_sanity_val_steps=0
    )
    rates = _rates(trainer, task, data)
    assert rates[0] == 1e-3 and rates[-1] < 0.2e-3 and rates == sorted(rates, reverse=True)
    assert "val/AP" in trainer.callback_metrics  # the last step is followed by a validation
