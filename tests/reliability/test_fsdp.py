"""Weights that are shared out over two processes learn as on one, and their checkpoints are those of one."""

import numpy as np
import pytest
import torch
from chaos import rounds
from forked import run, steps_of

from vitdet import ShapesData, Task, Trainer

# 32 channels in 2 blocks, in which the most weights lie
MODEL = {"backbone": {"depth": 2}}
FSDP = {"ranks": 2, **MODEL, "data": {"batch_size": 4}}


def fsdp(name, **trainer):
    return {"name": name, "strategy": "fsdp", "max_epochs": 2, **trainer}


def last(folder, name):
    return torch.load(folder / "runs" / name / "version_0" / "last.ckpt", weights_only=True)


def assert_close(one, other, rtol, atol):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_close(one[key], other[key], rtol, atol)
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


@pytest.fixture(scope="module", params=["muon", *["adamw"] * rounds(0, 1)])
def trained(request, tmp_path_factory):
    """One process; two with their weights shared out; those stopped and resumed; each resumed by the other."""
    folder = tmp_path_factory.mktemp("fsdp")
    task = {"task": {"optimizer": request.param}}
    one = {"ranks": 1, **MODEL, **task, "data": {"batch_size": 8}}
    two = {**FSDP, **task}
    alone, stopped = {"strategy": "auto", "max_epochs": 2}, {"resume": True}
    runs = [
        {**one, "trainer": {"name": "one", **alone}},
        {**two, "trainer": fsdp("two")},
        {**two, "trainer": fsdp("again"), "stop": 3},
        {**two, "trainer": fsdp("again"), **stopped},
        {**one, "trainer": {"name": "there", **alone}, "stop": 3},
        {**two, "data": {"batch_size": 8}, "trainer": fsdp("there"), **stopped},
        {**two, "data": {"batch_size": 8}, "trainer": fsdp("back"), "stop": 3},
        {**one, "trainer": {"name": "back", **alone}, **stopped},
    ][: rounds(6, 8)]
    parts, said = run(folder, runs)
    return folder, parts, said


def test_a_process_holds_half_of_the_weights(trained):
    _, (one, two, *_), _ = trained
    held = [part["held"] for part in two]
    assert sum(held) >= one[0]["held"] and max(held) < 0.6 * one[0]["held"]


def test_it_learns_as_on_one_device(trained):
    folder, (one, two, *_), _ = trained
    assert steps_of(one) == steps_of(two)
    np.testing.assert_allclose(two[0]["norms"], one[0]["norms"], rtol=2e-3)
    alone, shared = last(folder, "one"), last(folder, "two")
    assert alone["global_step"] == shared["global_step"] == 10
    for part in ("state_dict", "ema_state_dict"):
        assert_close(alone[part], shared[part], rtol=1e-2, atol=1e-3)
    assert two[0]["scores"]["val/AP"] == pytest.approx(one[0]["scores"]["val/AP"], abs=0.02)


def test_resuming_is_exact(trained):
    folder, *_ = trained
    straight, resumed = last(folder, "two"), last(folder, "again")
    for part in ("state_dict", "ema_state_dict", "lr_schedulers"):
        assert_close(straight[part], resumed[part], rtol=0, atol=0)
    states = [file["optimizer_states"][0] for file in (straight, resumed)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert_close(states[0]["state"], states[1]["state"], rtol=0, atol=0)


@pytest.mark.parametrize(("name", "number"), [("there", 4), ("back", 6)][: rounds(1, 2)])
def test_one_device_and_two_go_on_with_each_others_checkpoints(trained, name, number):
    folder, parts, said = trained
    halves = [parts[number][0], parts[number + 1][0]]
    joined = halves[0]["norms"][:3] + halves[1]["norms"]
    if name == "there":
        np.testing.assert_allclose(joined, parts[0][0]["norms"], rtol=2e-3)
        assert "a global batch keeps its 8 images: 2 processes, 4 images each; before, 1 process, 8 images each" in said
    assert last(folder, name)["global_step"] == {"there": 10, "back": 4}[name]


def test_the_best_checkpoint_scores_the_same_on_one_device(trained, tmp_path):
    folder, (_, two, *_), _ = trained
    best = folder / "runs" / "two" / "version_0" / "best.ckpt"
    task = Task.load_from_checkpoint(best)
    data = ShapesData(root=folder / "shapes", train_images=40, val_images=2, size=64, batch_size=4)
    trainer = Trainer(root=tmp_path, accelerator="cpu", progress=False, logger=False)
    (scores,) = trainer.validate(task, data, verbose=False)
    saved = torch.load(best, weights_only=True)["callbacks"]["BestCheckpoint"]["best_model_score"]
    assert scores["val/AP"] == pytest.approx(float(saved), abs=1e-5)


@pytest.mark.parametrize("strategy", ["fsdp", *["ddp"] * rounds(0, 1)])
def test_bf16_resumes_exactly(strategy, tmp_path):
    def trainer(name):
        return {"name": name, "strategy": strategy, "max_epochs": 2, "precision": "bf16-mixed"}

    runs = [
        {**FSDP, "trainer": trainer("straight")},
        {**FSDP, "trainer": trainer("stopped"), "stop": 3},
        {**FSDP, "trainer": trainer("stopped"), "resume": True},
    ]
    (straight, first, rest), _ = run(tmp_path, runs)
    assert np.isfinite(straight[0]["norms"]).all() and len(straight[0]["norms"]) == 10
    assert straight[0]["norms"] == first[0]["norms"] + rest[0]["norms"]
    assert_close(last(tmp_path, "straight")["state_dict"], last(tmp_path, "stopped")["state_dict"], rtol=0, atol=0)
