"""`attend` against a dense block-diagonal mask, and the orders of tokens in windows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitdet.backbone import attend
from vitdet.backbone.windows import Windows, window_layout

CPU = torch.device("cpu")


def attend_dense(q, k, v, lengths):
    """`attend` by a block-diagonal mask over all N × N pairs."""
    sequence = torch.arange(len(lengths), device=q.device).repeat_interleave(torch.tensor(lengths, device=q.device))
    mask = sequence[:, None] == sequence[None, :]
    q, k, v = (part.transpose(0, 1) for part in (q, k, v))  # (N, heads, d) -> (heads, N, d)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1)


def forward_backward(function, lengths):
    generator = torch.Generator().manual_seed(0)
    q, k, v, weight = torch.randn(4, sum(lengths), 2, 8, dtype=torch.float64, generator=generator).unbind()
    inputs = [part.requires_grad_() for part in (q.clone(), k.clone(), v.clone())]
    output = function(*inputs, lengths)
    return [output, *torch.autograd.grad((output * weight).sum(), inputs)]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_attend_equals_a_block_diagonal_mask_forward_and_backward(lengths):
    for got, expected in zip(forward_backward(attend, lengths), forward_backward(attend_dense, lengths)):
        torch.testing.assert_close(got, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the variable-length kernel is CUDA only")
@pytest.mark.parametrize("lengths", [[300, 17, 1, 300], [64, 200]])
def test_variable_length_kernel_equals_the_mask(lengths):
    def half(function):
        def run(q, k, v, lengths):
            return function(*(part.to("cuda", torch.bfloat16) for part in (q, k, v)), lengths).double().cpu()

        return run

    for got, expected in zip(forward_backward(half(attend), lengths), forward_backward(half(attend_dense), lengths)):
        torch.testing.assert_close(got, expected, atol=2e-2, rtol=2e-2)


def test_equal_lengths_copy_nothing():
    q, k, v = torch.randn(12, 3, 2, 8).unbind(1)
    profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    with profile:
        attend(q, k, v, [4, 4, 4])
    called = {event.key for event in profile.key_averages()}
    assert not called & {"aten::index", "aten::index_select", "aten::cat", "aten::copy_", "aten::clone"}


def test_lengths_must_add_up():
    q = torch.randn(5, 1, 8)
    with pytest.raises(ValueError, match="add up to 4, but there are 5"):
        attend(q, q, q, [2, 2])


grids = st.tuples(st.integers(1, 12), st.integers(1, 12))
options = st.one_of(st.integers(1, 14), st.builds("{}x{}".format, st.integers(1, 4), st.integers(1, 4)))


@given(grids, options, st.integers(0, 3), st.sampled_from(["image", "window"]))
@settings(deadline=None)
def test_windows_hold_every_patch_once_and_are_rectangles(grid, option, prefix, mode):
    windows = Windows.parse(option, mode)
    layout = window_layout(windows, grid, prefix, CPU)
    h, w = grid
    assert sum(layout.lengths) == len(layout.order)
    assert layout.order[layout.patches].tolist() == list(range(prefix, prefix + h * w))
    parts = layout.order.split(layout.lengths)
    if mode == "image" and prefix:
        assert parts[0].tolist() == list(range(prefix))
        parts = parts[1:]
    for part in parts:
        if mode == "window":
            assert part[:prefix].tolist() == list(range(prefix))
            part = part[prefix:]
        rows, columns = (part - prefix) // w, (part - prefix) % w
        sides = [len(set(x.tolist())) for x in (rows, columns)]
        assert len(part) == sides[0] * sides[1] == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        if windows.size:
            assert max(sides) <= windows.size


def test_a_grid_is_cut_evenly():
    assert Windows.parse(14, "image").sides((20, 28)) == ([10, 10], [14, 14])
    assert Windows.parse("2x3", "image").sides((5, 2)) == ([3, 2], [1, 1])
