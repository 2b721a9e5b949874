"""Non-maximum suppression in rounds, for packages, equals the operator of torchvision."""

import pytest
import torch

from vitdet.deploy.export.nms import _suppressed_by_rounds, suppressed


@pytest.mark.parametrize("n", [1, 2, 30, 200])
@pytest.mark.parametrize("iou", [0.1, 0.5, 0.7])
def test_rounds_keep_what_the_operator_keeps(n, iou):
    random = torch.Generator().manual_seed(n)
    centre, side = torch.rand(3, n, 2, generator=random), torch.rand(3, n, 2, generator=random) * 0.5 + 0.05
    boxes = torch.cat([centre - side / 2, centre + side / 2], -1)
    scores = torch.rand(3, n, generator=random).sort(descending=True).values
    assert _suppressed_by_rounds(boxes, iou).equal(suppressed(boxes, scores, iou))
