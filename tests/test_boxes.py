"""Box arithmetic against torchvision."""

import torch
import torchvision.ops as ops
from hypothesis import given
from hypothesis import strategies as st

from vitdet import boxes

numbers = st.floats(0, 1000, width=32)
box = st.tuples(numbers, numbers, numbers, numbers).map(
    lambda b: [min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]) + 1, max(b[1], b[3]) + 1]
)
box_lists = st.lists(box, min_size=1, max_size=6).map(lambda rows: torch.tensor(rows, dtype=torch.float64))


@given(box_lists, box_lists)
def test_pairwise_equal_torchvision(a, b):
    torch.testing.assert_close(boxes.pairwise_iou(a, b), ops.box_iou(a, b))
    torch.testing.assert_close(boxes.pairwise_giou(a, b), ops.generalized_box_iou(a, b))


@given(box_lists)
def test_paired_is_the_diagonal_of_pairwise(a):
    b = a.flip(0)
    torch.testing.assert_close(boxes.iou(a, b), boxes.pairwise_iou(a, b).diagonal())
    torch.testing.assert_close(boxes.giou(a, b), boxes.pairwise_giou(a, b).diagonal())


@given(box_lists)
def test_formats_there_and_back(a):
    torch.testing.assert_close(boxes.xyxy_to_cxcywh(a), ops.box_convert(a, "xyxy", "cxcywh"))
    torch.testing.assert_close(boxes.cxcywh_to_xyxy(boxes.xyxy_to_cxcywh(a)), a)


def test_boxes_without_area_give_no_nan():
    empty = torch.zeros(1, 4, requires_grad=True)
    value = boxes.giou(empty, torch.zeros(1, 4))
    value.sum().backward()
    assert value.isfinite().all() and empty.grad.isfinite().all()
    assert boxes.iou(torch.zeros(1, 4), torch.tensor([[0.0, 0, 1, 1]])).item() == 0
