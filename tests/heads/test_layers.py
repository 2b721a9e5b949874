"""The MLP that takes a few rows at a time against the one that takes all."""

import pytest
import torch
from torch.autograd import gradcheck

from vitdet.heads import layers
from vitdet.heads.layers import FeedForward


@pytest.mark.parametrize("rows", [3, 7, 9])
def test_a_few_rows_at_a_time_are_the_same(monkeypatch, rows):
    mlp = FeedForward(8, 16, dropout=0.0).double()
    x = torch.randn(2, rows, 8, dtype=torch.double, requires_grad=True)
    grads = []
    for chunk in (100, 4):
        monkeypatch.setattr(layers, "CHUNK", chunk)
        y = mlp(x)
        grads.append([y, *torch.autograd.grad(y.square().sum(), [x, *mlp.parameters()])])
    for whole, parts in zip(*grads):
        torch.testing.assert_close(parts, whole, atol=1e-12, rtol=1e-10)
    assert gradcheck(mlp, (x,))


def test_dropout_and_mixed_precision_take_the_plain_way(monkeypatch):
    monkeypatch.setattr(layers, "CHUNK", 2)
    x = torch.randn(5, 8, requires_grad=True)
    used = []
    monkeypatch.setattr(layers._ReluMLP, "apply", lambda *_: used.append(1))
    FeedForward(8, 16, dropout=0.5)(x)
    with torch.autocast("cpu", torch.bfloat16):
        FeedForward(8, 16, dropout=0.0)(x)
    with torch.no_grad():
        FeedForward(8, 16, dropout=0.0)(x)
    assert not used
    with pytest.raises(AttributeError):  # what stands in for it gives nothing
        FeedForward(8, 16, dropout=0.0)(x)
    assert used == [1]
