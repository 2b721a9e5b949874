"""The backbone under other people's heads: torchvision's Faster R-CNN, and plain PyTorch."""

from collections import OrderedDict
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from vitdet.backbone import Backbone, ConvStem, Pyramid

SMALL = {"model_args": {"embed_dim": 32, "num_heads": 2}, "depth": 2, "out_channels": 16}


class DenseMaps(nn.Module):
    """What torchvision expects of a backbone: named `(B, C, H, W)` maps, and `out_channels`."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone, self.out_channels = backbone, backbone.out_channels[0]

    def forward(self, images):
        return OrderedDict((str(i), level.dense()[0]) for i, level in enumerate(self.backbone(images)))


def test_faster_rcnn_trains_and_predicts():
    torch.manual_seed(0)
    backbone = Backbone("vit_tiny_patch16_224", **SMALL, neck=Pyramid, out_strides=[8, 16, 32])
    model = FasterRCNN(
        DenseMaps(backbone),
        num_classes=3,
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 3),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], output_size=5, sampling_ratio=2),
        image_mean=backbone.mean,
        image_std=backbone.std,
        min_size=96,
        max_size=128,
    )
    images = [torch.rand(3, 90, 120), torch.rand(3, 128, 80)]
    targets = [
        {"boxes": torch.tensor([[10.0, 20.0, 50.0, 70.0]]), "labels": torch.tensor([1])},
        {"boxes": torch.tensor([[5.0, 5.0, 60.0, 90.0]]), "labels": torch.tensor([2])},
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    totals = []
    for _ in range(6):
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert totals[-1] < totals[0]
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    with torch.no_grad():
        predictions = model.eval()(images)
    assert [set(prediction) for prediction in predictions] == [{"boxes", "labels", "scores"}] * 2


@pytest.mark.slow
def test_plain_pytorch_on_images_of_different_sizes():
    """A head of three lines learns which side of the image is bright.

    It needs many steps, because the stem starts with almost no response to brightness.
    """
    torch.manual_seed(0)
    backbone = Backbone("vit_tiny_patch16_224", **SMALL, stem=partial(ConvStem, width=8))
    head = nn.Linear(sum(backbone.out_channels), 2)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=2e-3)

    def batch():
        images, labels = [], torch.randint(2, (4,))
        for label in labels.tolist():
            image = torch.randn(3, *torch.randint(32, 96, (2,)).tolist()) * 0.1
            half = image.shape[2] // 2
            image[..., half * label : half * (label + 1)] += 1
            images.append(image)
        return images, labels

    def logits(images):
        features = backbone(images)
        pooled = [torch.stack([m.mean(dim=(1, 2)) for m in level.maps()]) for level in features]
        return head(torch.cat(pooled, dim=1))

    losses = []
    for _ in range(250):
        images, labels = batch()
        loss = nn.functional.cross_entropy(logits(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.3 < sum(losses[:5]) / 5
