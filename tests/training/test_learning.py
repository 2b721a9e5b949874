"""How weights are updated: in every precision, clipped as torch does, and with the settings of the run that goes on."""

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from vitdet import Backbone, ShapesData, ShapesPanopticData, ShapesSemanticData, Task
from vitdet.errors import UserError
from vitdet.heads import DEIMHead, DETRHead, EoMTHead, MaskDecoderHead, PlainDETRHead, SemanticHead
from vitdet.training.muon import Muon

BACKBONE = {
    "stem": {"class_path": "vitdet.ConvStem", "init_args": {"width": 8}},
    "model_args": {"embed_dim": 32, "num_heads": 2},
    "depth": 1,
    "out_channels": 32,
}
PLAIN = {**BACKBONE, "stem": None, "depth": 2, "tail": 1, "neck": None}
QUERIES = {"dim": 32, "num_queries": 10, "num_layers": 1}
LAYER = {"num_heads": 4, "ffn_dim": 32}
HEADS = {
    "deim": (DEIMHead, {**QUERIES, **LAYER}, BACKBONE, ShapesData),
    "plain": (PlainDETRHead, {**QUERIES, **LAYER}, BACKBONE, ShapesData),
    "masks": (DETRHead, {**QUERIES, "decoder": LAYER, "masks": True}, BACKBONE, ShapesData),
    "panoptic": (MaskDecoderHead, {**QUERIES, **LAYER}, BACKBONE, ShapesPanopticData),
    "eomt": (EoMTHead, {"num_queries": 10}, PLAIN, ShapesPanopticData),
    "semantic": (SemanticHead, {"dim": 32}, BACKBONE, ShapesSemanticData),
}


class Gradients(L.Callback):
    """Keeps the gradients of the first step before and after they are clipped, and counts the steps."""

    def __init__(self):
        self.before, self.after, self.steps = [], [], 0

    def on_before_optimizer_step(self, trainer, task, optimizer):
        if not self.before:
            self.before = [p.grad.clone() for p in task.parameters() if p.grad is not None]

    def on_before_zero_grad(self, trainer, task, optimizer):
        if self.before and not self.after:
            self.after = [p.grad.clone() for p in task.parameters() if p.grad is not None]

    def on_train_batch_end(self, trainer, *_):
        self.steps = trainer.global_step


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed", "bf16-true"])
def test_every_precision_trains_with_the_default_clip(tiny, precision, optimizer):
    task, data, trainer = tiny(task={"optimizer": optimizer}, max_steps=2, precision=precision, limit_val_batches=0)
    before = [p.detach().clone() for p in task.parameters()]
    trainer.fit(task, data)
    assert trainer.gradient_clip_val == 1.0 and trainer.global_step == 2
    assert all(group["fused"] for group in trainer.optimizers[0].param_groups)
    assert all(p.isfinite().all() for p in task.parameters())
    assert any(not torch.equal(p.float(), b.float()) for p, b in zip(task.parameters(), before))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_gradients_that_are_scaled_are_clipped_after_they_are_divided_again(tiny, optimizer):
    """float16 proper, which Lightning's argument gives on GPUs only."""
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    seen = Gradients()
    options = {"gradient_clip_val": 1e-3, "limit_val_batches": 0, "plugins": [plugin], "callbacks": [seen]}
    task, data, trainer = tiny(task={"optimizer": optimizer}, max_steps=2, **options)
    trainer.fit(task, data)
    assert trainer.global_step == 2 and not trainer.optimizers[0].param_groups[0]["fused"]
    norm = torch.stack([g.norm() for g in seen.after]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3) and torch.stack([g.norm() for g in seen.before]).norm() > 1


@pytest.mark.parametrize("name", HEADS)
def test_every_head_trains_in_bfloat16_with_the_default_clip(tiny, shapes_root, name):
    cls, options, backbone, kind = HEADS[name]
    _, _, trainer = tiny(max_steps=2, precision="bf16-mixed", limit_val_batches=0)
    data = kind(root=shapes_root, train_images=14, val_images=5, size=64, batch_size=4)
    own = Backbone("vit_tiny_patch16_224", **backbone)
    task = Task(own, lambda c, s, k: cls(c, s, k, **options), classes=data.classes)
    trainer.fit(task, data)
    assert trainer.global_step == 2 and all(p.isfinite().all() for p in task.parameters())


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_as_torch_does(tiny, precision, algorithm):
    seen = Gradients()
    options = {"precision": precision, "gradient_clip_algorithm": algorithm, "gradient_clip_val": 1e-3}
    task, data, trainer = tiny(max_steps=2, limit_val_batches=0, callbacks=[seen], **options)
    trainer.fit(task, data)
    oracle = [torch.nn.Parameter(torch.zeros_like(g)) for g in seen.before]
    for parameter, gradient in zip(oracle, seen.before):
        parameter.grad = gradient.clone()
    if algorithm == "norm":
        torch.nn.utils.clip_grad_norm_(oracle, 1e-3)
    else:
        torch.nn.utils.clip_grad_value_(oracle, 1e-3)
    assert any(not torch.equal(a, b) for a, b in zip(seen.before, seen.after))
    for parameter, clipped in zip(oracle, seen.after):
        torch.testing.assert_close(clipped, parameter.grad, rtol=1e-5, atol=1e-9)


def test_what_cannot_be_trained_is_refused_at_the_start(tiny):
    task, data, trainer = tiny(precision="64-true")
    with pytest.raises(UserError, match=r"64-true.*wanted 32-true"):
        trainer.fit(task, data)
    task, data, trainer = tiny(task={"compile": True})
    with pytest.raises(UserError, match=r"compile is true.*model\.compile: false"):
        trainer.fit(task, data)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("lr", value) for value in (0, -1e-3, float("nan"), float("inf"), "fast", True)),
        *(("backbone_lr", value) for value in (0, -1)),
        *(("trunk_lr", value) for value in (0, float("nan"))),
        *(("layer_decay", value) for value in (0, 1.5)),
        *(("weight_decay", value) for value in (-0.1, float("nan"))),
        *(("betas", value) for value in ((0.9, 1.0), (0.9,), 0.9, (-0.1, 0.9))),
        *(("schedule", value) for value in ("linear", 3)),
        ("optimizer", "sgd"),
    ],
)
def test_settings_out_of_range_are_refused(tiny, name, value):
    with pytest.raises(UserError, match=rf"^{name} is .*; wanted "):
        tiny(task={name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("warmup", value) for value in (-0.1, 1.0, 5)),
        *(("final", value) for value in (-0.1, 2)),
        *(("shape", value) for value in ("step", 3)),
    ],
)
def test_a_schedule_out_of_range_is_refused(tiny, name, value):
    with pytest.raises(UserError, match=rf"^{name} is .*; wanted "):
        tiny(task={"schedule": {name: value}})


def test_a_momentum_out_of_range_is_refused():
    for momentum in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="^momentum is .*; wanted "):
            Muon([torch.nn.Parameter(torch.zeros(2, 2))], momentum=momentum)
