"""Published models through torch.export."""

import pytest
import torch
from torch import nn

from vitdet import zoo


class Outputs(nn.Module):
    """The last layer's logits, and boxes or mask embeddings."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        outputs = self.model["head"](self.model["backbone"](images))
        where = outputs.boxes_cxcywh if hasattr(outputs, "boxes_cxcywh") else outputs.embeddings
        return outputs.logits[-1], where[-1]


@pytest.mark.parametrize(("name", "side"), [("rf-detr-nano", 384), ("eomt-small-coco-panoptic-640", 640)])
@torch.no_grad()
def test_exported_models_give_the_same(name, side):
    model = Outputs(zoo.find(name).build().eval())
    program = torch.export.export(model, (torch.zeros(1, 3, side, side),)).module()
    images = torch.randn(1, 3, side, side)
    for exported, wanted in zip(program(images), model(images)):
        torch.testing.assert_close(exported, wanted, rtol=1e-5, atol=1e-5)
