"""Muon against torch's own, its AdamW half against torch's AdamW, and the iteration against an SVD."""

import copy

import pytest
import torch
from torch import nn

from vitdet.training.muon import Muon, orthogonalise


def _train(model, optimiser, steps=5):
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimiser.zero_grad()
        x = torch.randn(16, 12, generator=generator)
        model(x).square().mean().backward()
        optimiser.step()


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 6, 20), (2, 20, 6)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    x = torch.randn(shape)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    y = orthogonalise(x)
    values = torch.linalg.svdvals(y)
    assert values.min() > 0.3 and values.max() < 1.3
    aligned = u.mT @ y @ vh.mT  # diagonal where the singular vectors are those of x
    assert (aligned - torch.diag_embed(aligned.diagonal(dim1=1, dim2=2))).abs().max() < 1e-3


def test_matrices_move_as_with_torchs_muon():
    ours = nn.Sequential(nn.Linear(12, 24, bias=False), nn.ReLU(), nn.Linear(24, 12, bias=False))
    theirs = copy.deepcopy(ours)
    _train(ours, Muon([{"params": ours.parameters(), "matrices": True}], lr=1e-2, weight_decay=0.1))
    _train(theirs, torch.optim.Muon(theirs.parameters(), lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"))
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0.02)  # theirs computes in bfloat16


def test_the_rest_moves_as_with_adamw():
    ours = nn.Linear(12, 12)
    theirs = copy.deepcopy(ours)
    _train(ours, Muon([{"params": ours.parameters()}], lr=1e-2, weight_decay=0.1))
    _train(theirs, torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.1))
    for a, b in zip(ours.parameters(), theirs.parameters()):
        assert torch.equal(a, b)


def test_goes_on_from_its_state():
    def make():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 6))
        matrices = [p for p in model.parameters() if p.ndim == 2]
        rest = [p for p in model.parameters() if p.ndim == 1]
        return model, Muon([{"params": matrices, "matrices": True}, {"params": rest}], lr=1e-2)

    model, optimiser = make()
    _train(model, optimiser)
    other, resumed = make()
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    _train(model, optimiser)
    _train(other, resumed)
    for a, b in zip(model.parameters(), other.parameters()):
        assert torch.equal(a, b)


def test_convolutions_count_as_matrices():
    conv = nn.Conv2d(3, 8, 3)
    before = conv.weight.detach().clone()
    optimiser = Muon([{"params": [conv.weight], "matrices": True}], lr=1e-2, weight_decay=0.0)
    conv(torch.randn(2, 3, 8, 8)).square().mean().backward()
    optimiser.step()
    moved = (conv.weight - before).flatten(1) / (1e-2 * 0.2 * 27**0.5)
    values = torch.linalg.svdvals(moved)
    assert values.min() > 0.3 and values.max() < 1.3


def test_a_flag_on_a_device_chooses_between_the_step_and_none():
    """As on a GPU, where the host does not look at it."""

    def step(skip):
        torch.manual_seed(0)
        matrices = [nn.Parameter(torch.randn(16, 24)) for _ in range(2)]
        optimiser = Muon([{"params": matrices, "matrices": True}], lr=1e-2, weight_decay=0.1)
        for flag in (None, skip):
            for matrix in matrices:
                matrix.grad = torch.randn(16, 24)
                if flag is not None and flag > 0:
                    matrix.grad[0, 0] = torch.nan
            with torch.no_grad():
                optimiser._step_matrices(optimiser.param_groups[0], flag)
        return [*matrices, *(state["momentum_buffer"] for state in optimiser.state.values())]

    def once():
        torch.manual_seed(0)
        matrices = [nn.Parameter(torch.randn(16, 24)) for _ in range(2)]
        optimiser = Muon([{"params": matrices, "matrices": True}], lr=1e-2, weight_decay=0.1)
        for matrix in matrices:
            matrix.grad = torch.randn(16, 24)
        optimiser.step()
        return [*matrices, *(state["momentum_buffer"] for state in optimiser.state.values())]

    skipped, counted = step(torch.ones(())), step(torch.zeros(()))
    assert all(map(torch.equal, skipped, once())) and all(map(torch.equal, counted, step(None)))
    assert not any(map(torch.equal, skipped, counted))
