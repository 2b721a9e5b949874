"""A step whose loss or gradients are not finite changes nothing, is counted, and ends only a training of such steps.

Whatever is not finite, on whichever rank and at whichever step, nothing of it is saved.
"""

import itertools
import json
import random
import socket
from pathlib import Path

import chaos
import lightning as L
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from vitdet import Backbone, ShapesData, ShapesPanopticData, ShapesSemanticData, Task, Trainer
from vitdet.cli import main
from vitdet.heads import DEIMHead, DETRHead, EoMTHead, MaskDecoderHead, PlainDETRHead, SemanticHead
from vitdet.training.callbacks import DivergedError
from vitdet.training.finite import clip, is_bad, skip_if, spoil
from vitdet.training.muon import Muon

TINY = chaos.TINY["model"]["backbone"]
TAIL = {**TINY, "stem": None, "depth": 2, "tail": 1, "neck": None}
QUERIES = {"dim": 32, "num_queries": 10, "num_layers": 2}
LAYER = {"num_heads": 4, "ffn_dim": 32}
DETR = {**QUERIES, "decoder": LAYER}
HEADS = {
    "detr": (DETRHead, {**DETR, "dense_aux": True}, TINY, ShapesData),
    "detr-groups": (DETRHead, {**DETR, "groups": 2, "class_loss": "ia_bce", "denoising": 0}, TINY, ShapesData),
    "detr-distinct": (DETRHead, {**DETR, "selection": {"distinct": 0.7}}, TINY, ShapesData),
    "detr-masks": (DETRHead, {**DETR, "masks": {"points": 64}}, TINY, ShapesData),
    "deim": (DEIMHead, {**QUERIES, **LAYER}, TINY, ShapesData),
    "plain": (PlainDETRHead, {**QUERIES, **LAYER}, TINY, ShapesData),
    "mask-instances": (MaskDecoderHead, {**QUERIES, **LAYER, "num_points": 64}, TINY, ShapesData),
    "mask-panoptic": (MaskDecoderHead, {**QUERIES, **LAYER, "num_points": 64}, TINY, ShapesPanopticData),
    "mask-semantic": (MaskDecoderHead, {**QUERIES, **LAYER, "num_points": 64}, TINY, ShapesSemanticData),
    "eomt": (EoMTHead, {"num_queries": 10, "num_points": 64}, TAIL, ShapesPanopticData),
    "semantic": (SemanticHead, {"dim": 32}, TINY, ShapesSemanticData),
    "semantic-linear": (SemanticHead, {}, TINY, ShapesSemanticData),
}
VALUES = (torch.nan, torch.inf, -torch.inf)
PLACES = ("image", "loss", "gradient", "weight")
# three steps an epoch: the first, one within, the last of an epoch, and the last of the training
STEPS = (0, 1, 2, 5)


class Spoil(L.Callback):
    """Puts a value that is not finite into the batches of the steps, and sees what these steps change."""

    def __init__(self, place, value, steps, *, rank=None, micro=0):
        self.place, self.value, self.steps, self.rank, self.micro = place, value, steps, rank, micro
        self.changed, self.seen, self._count = [], 0, 0

    def _now(self, trainer):
        here = self.rank is None or self.rank == trainer.global_rank
        return here and trainer.global_step in self.steps and self._count == self.micro

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        self._count = batch_idx % trainer.accumulate_grad_batches
        self._step = trainer.global_step
        task.added = self.value if self.place == "loss" and self._now(trainer) else 0.0
        if self._now(trainer) and self.place == "image":
            batch[0][0][1, 3, 5] = self.value
        if self._now(trainer) and self.place == "weight":
            next(p for n, p in task.named_parameters() if n.startswith("head") and p.ndim > 1).data[0, 0] = self.value
        if self._count == 0:
            self._before = _state(trainer, task)

    def on_after_backward(self, trainer, task):
        if self.place == "gradient" and self._now(trainer):
            task.backbone.trunk.blocks[0].mlp.fc1.weight.grad[0, 0] = self.value

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        if trainer.global_step > self._step:
            changes = _changes(self._before, _state(trainer, task))
            if self._step in self.steps:
                self.seen += 1
                self.changed += changes
            else:
                assert self.place == "weight" or changes


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    return str(tmp_path_factory.mktemp("finite") / "shapes")


def whole(tensor):
    """All rows of a tensor, of which each rank has some if it is sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _state(trainer, task):
    """Weights and the state of the optimiser, by name."""
    state = {name: whole(p.detach()).clone() for name, p in task.named_parameters()}
    names = {p: name for name, p in task.named_parameters()}
    for p, entry in trainer.optimizers[0].state.items():
        state |= {f"{key} of {names[p]}": whole(value).clone() for key, value in entry.items()}
    return state


def _changes(before, now):
    """What differs. The state of the optimiser is made in the first step, of zeros."""
    return [k for k, v in now.items() if not (torch.equal(v, before[k]) if k in before else not v.any())]


class SpoiledTask(Task):
    """Adds a constant to the loss: its gradients stay finite. It keeps the terms of the last loss."""

    added, terms = 0.0, {}

    def _logged(self, total, losses):
        self.terms = {name: float(value.detach()) for name, value in losses.items()}
        return super()._logged(total, losses)

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + self.added


def _make(name, folder, *, spoil, data, optimizer="muon", **trainer):
    L.seed_everything(0, verbose=False)
    head, options, backbone, kind = HEADS[name]
    module = kind(**{"train_images": 12, "val_images": 3, "size": 64, "batch_size": 4, **data})
    # built from the mapping, as from a config
    own = Backbone(**backbone)
    task = SpoiledTask(own, lambda c, s, k: head(c, s, k, **options), classes=module.classes, optimizer=optimizer)
    fixed = {"accelerator": "cpu", "max_epochs": 2, "pictures": 0, "progress": False, "logger": False}
    return task, module, Trainer(**{**fixed, "root": folder / "runs", "callbacks": [spoil], **trainer})


def _all_finite(folder):
    files = list(folder.glob("*.ckpt"))
    for file in files:
        saved = torch.load(file, weights_only=True)
        tensors = [*saved["state_dict"].values(), *saved["ema_state_dict"].values()]
        tensors += [v for s in saved["optimizer_states"][0]["state"].values() for v in s.values()]
        assert all(tensor.isfinite().all() for tensor in tensors if tensor.is_floating_point()), file
    return {file.name for file in files}


def _cases():
    """Heads with what is not finite, where, when, and how the gradients are clipped and accumulated."""
    everything = list(itertools.product(PLACES[:3], VALUES, STEPS, ("muon", "adamw"), (1.0, None), (1, 2)))
    draw = random.Random(0)
    return [(name, *case) for name in HEADS for case in draw.sample(everything, chaos.rounds(1, 8))]


@pytest.mark.parametrize("case", _cases(), ids=lambda case: "-".join(map(str, case)))
def test_a_step_that_is_not_finite_changes_nothing(case, tmp_path, shapes):
    name, place, value, step, optimizer, clip, accumulate = case
    step = min(step, 3) if accumulate == 2 else step
    # with accumulation, the second step of an epoch has a single batch
    spoiler = Spoil(place, value, [step], micro=int(accumulate == 2 and step % 2 == 0))
    options = {"gradient_clip_val": clip, "accumulate_grad_batches": accumulate, "max_epochs": 2}
    task, data, trainer = _make(name, tmp_path, spoil=spoiler, optimizer=optimizer, data={"root": shapes}, **options)
    trainer.fit(task, data)
    assert spoiler.seen == 1 and not spoiler.changed
    assert trainer.global_step == (6 if accumulate == 1 else 4)
    assert {"last.ckpt", "best.ckpt"} <= _all_finite(trainer.run_folder)
    saved = torch.load(trainer.run_folder / "last.ckpt", weights_only=True)
    assert saved["callbacks"]["SkippedSteps"] == {"total": 1, "row": int(step == trainer.global_step - 1)}


@pytest.mark.parametrize("case", [("adamw", {}), ("muon", {}), ("sgd", {}), ("adamw", {"fused": False})], ids=str)
def test_optimisers_skip_a_step_as_if_it_had_not_been(case):
    """Fused ones without reading the flag; others lose their gradients."""
    name, options = case
    kinds = {"adamw": torch.optim.AdamW, "muon": Muon, "sgd": torch.optim.SGD}
    defaults = {"lr": 1e-2, "weight_decay": 0.1, **({"momentum": 0.9} if name == "sgd" else {"fused": True}), **options}

    def train(bad_steps):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.ReLU(), torch.nn.Linear(24, 16))
        matrices = [p for p in model.parameters() if p.ndim == 2]
        groups = [{"params": matrices}, {"params": [p for p in model.parameters() if p.ndim == 1]}]
        if name == "muon":
            groups[0]["matrices"] = True
        optimizer = kinds[name](groups, **defaults)
        for step in range(5 + len(bad_steps)):
            bad = step in bad_steps
            x = torch.randn(8, 16, generator=torch.Generator().manual_seed(step - sum(b < step for b in bad_steps)))
            optimizer.zero_grad()
            model(x).square().mean().backward()
            if bad:
                model[0].weight.grad[0, 0] = torch.nan
                model[2].bias.grad[:] = torch.inf
            skip_if(is_bad(clip(list(model.parameters()), 0.1)), optimizer)
            optimizer.step()
        return [*model.parameters(), *(v for s in optimizer.state.values() for v in s.values() if v is not None)]

    straight = train([])
    for bad_steps in ([0], [2, 3], [5]):
        assert all(torch.equal(a, b) for a, b in zip(straight, train(bad_steps), strict=True))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_host_reads_nothing_from_the_device(optimizer):
    """Fake tensors have no values: to read one is an error."""
    with FakeTensorMode() as mode:
        model = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.ReLU(), torch.nn.Linear(24, 16))
        groups = [{"params": [model[0].weight, model[2].weight]}, {"params": [model[0].bias, model[2].bias]}]
        made = Muon([{**groups[0], "matrices": True}, groups[1]], fused=True) if optimizer == "muon" else None
        made = made or torch.optim.AdamW(groups, fused=True)
        for _ in range(2):
            made.zero_grad()
            spoil(model(torch.randn(8, 16)).square().mean()).backward()
            bad = is_bad(clip(list(model.parameters()), 1.0))
            skip_if(bad, made)
            made.step()
        with pytest.raises(DataDependentOutputException):
            bool(bad)
        assert mode is not None and made.found_inf is bad


@pytest.mark.parametrize(
    ("place", "accumulate"),
    [(p, n) for i, p in enumerate(PLACES) for n in (1, 2) if chaos.rounds(n - 1 == i % 2, True)],
)
def test_steps_in_a_row_end_the_training_and_can_be_run_again(place, accumulate, tmp_path, shapes, capsys):
    spoiler = Spoil(place, torch.nan, range(3, 100), micro=0)
    options = {"accumulate_grad_batches": accumulate, "max_epochs": 20, "check_val_every_n_epoch": 20}
    data = {"root": shapes, "train_images": 48}
    task, module, trainer = _make("detr", tmp_path, spoil=spoiler, data=data, skip_steps=3, **options)
    with pytest.raises(DivergedError) as error:
        trainer.fit(task, module)
    # nothing has moved since
    assert spoiler.seen == 3 and trainer.global_step == 6 and (not spoiler.changed or place == "weight")
    diverged = trainer.run_folder / "diverged"
    message = str(error.value)
    assert (
        message.startswith("3 steps in a row were skipped, the last is step 6")
        and f"vitdet replay {diverged}" in message
    )
    rank = torch.load(diverged / "rank0.pt", weights_only=True)
    assert rank["step"] == 6 and len(rank["batches"]) == accumulate
    if place != "weight":
        assert "state.ckpt" in _all_finite(diverged)
    events = [json.loads(line) for line in (trainer.run_folder / "events.jsonl").read_text().splitlines()]
    assert [event["skipped"] for event in events if event["kind"] == "skipped_step"] == [4, 5, 6]
    capsys.readouterr()
    main(["replay", str(trainer.run_folder), "--device", "cpu"])
    said = capsys.readouterr().out
    spoilt = str(rank["batches"][0]["targets"][0]["image_id"])
    if place == "image":
        assert f"images with pixels that are not finite: {spoilt}" in said
        assert (
            "first module whose output is not finite: backbone." in said and "the step is not finite here, too" in said
        )
    elif place == "weight":
        assert "weights that are not finite: head." in said and "its input is finite" in said
    else:
        # the same step, with its random numbers
        terms = ", ".join(f"{name} {value:.4g}" for name, value in task.terms.items())
        assert f"loss: {terms}\n" in said and "the step is finite here" in said


SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, {here!r})
import test_finite
from vitdet.training.callbacks import DivergedError, SkippedSteps

def run(folder, case):
    spoil = test_finite.Spoil(case["place"], float(case["value"]), case["steps"], rank=case["rank"])
    data = {{"root": case["root"], "train_images": 24}}
    options = {{"strategy": "ddp", "devices": 2, "num_sanity_val_steps": 0, **case["options"]}}
    task, data, trainer = test_finite._make(case["head"], folder, spoil=spoil, data=data, **options)
    error = None
    try:
        trainer.fit(task, data)
    except DivergedError as raised:
        error = str(raised)
    skipped = next(c for c in trainer.callbacks if isinstance(c, SkippedSteps))
    weights = [float(test_finite.whole(p.detach()).double().sum()) for p in task.parameters()]
    return {{"error": error, "total": skipped.total, "row": skipped.row, "changed": spoil.changed, "weights": weights,
            "step": trainer.global_step, "folder": str(trainer.run_folder), "rank": trainer.global_rank}}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = [run(folder, case) for case in json.loads((folder / "cases.json").read_text())]
    (folder / f"rank{{found[0]['rank']}}.json").write_text(json.dumps(found))
"""


def _on_two(folder, cases):
    """What the two ranks found in each case; they are connected once, as by torchrun."""
    script = folder / "script.py"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parent)))
    (folder / "cases.json").write_text(json.dumps(cases))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "finite"}
    started = [chaos.start([folder], program=(str(script),), RANK=r, LOCAL_RANK=r, **common) for r in "01"]
    try:
        for process in started:
            code, output = chaos.finish(process, 120 + 20 * len(cases))
            assert code == 0, output[-3000:]
    finally:
        for process in started:
            chaos.kill(process)
    return list(zip(*(json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)), strict=True))


def _cases_on_two(shapes):
    """One of each place, on rank 0, rank 1 or both; in the long form, more of each."""
    draw, cases = random.Random(0), []
    for place, rank, _ in itertools.product(PLACES[:3], (0, 1, None), range(chaos.rounds(1, 3))):
        case = {"head": draw.choice(list(HEADS)), "place": place, "value": str(draw.choice(VALUES)), "rank": rank}
        cases.append({**case, "steps": [draw.choice(STEPS)], "root": shapes, "options": {}})
    sharded = {**cases[0], "place": "image", "value": "nan", "options": {"strategy": "fsdp"}}
    return [sharded, *(cases if chaos.rounds(0, 1) else draw.sample(cases, 2))]


@pytest.mark.slow
def test_all_ranks_skip_a_step_and_end_together(tmp_path, shapes, capsys):
    last = {"head": "semantic", "place": "image", "value": "nan", "steps": list(range(2, 99)), "rank": 1}
    options = {"skip_steps": 3, "max_epochs": 20, "check_val_every_n_epoch": 20}
    cases = _cases_on_two(shapes)
    *skipped, ended = _on_two(tmp_path, [*cases, {**last, "root": shapes, "options": options}])
    for case, found in zip(cases, skipped, strict=True):
        for one in found:
            assert (one["error"], one["total"], one["step"], one["changed"]) == (None, 1, 6, []), case
        assert found[0]["weights"] == found[1]["weights"], case
        assert {"last.ckpt", "best.ckpt"} <= _all_finite(Path(found[0]["folder"]))
    for one in ended:
        assert one["error"].startswith("3 steps in a row were skipped, the last is step 5") and one["row"] == 3
    assert ended[0]["weights"] == ended[1]["weights"]
    main(["replay", ended[0]["folder"], "--device", "cpu"])
    first, second = capsys.readouterr().out.split("rank 1, batch")
    assert (
        "images with pixels that are not finite" in second and "not finite" not in first.partition("rank 0, batch")[2]
    )
