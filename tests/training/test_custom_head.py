"""A head of one's own in a few lines, trained, scored, saved and loaded like those of the library."""

from pathlib import Path

import pytest
import torch
import torchmetrics
from torch import nn
from torch.nn import functional as F

from vitdet import Backbone, CocoData, ConvStem, Head, Prediction, Split, Task, load
from vitdet.boxes import cxcywh_to_xyxy
from vitdet.errors import UserError


class CentreHead(Head):
    """At each token: a score for each class, where the centre is, and how large the box is."""

    predicts = "boxes"

    def __init__(self, in_channels, strides, num_classes):
        super().__init__(in_channels, strides, num_classes)
        self.loss_weights = {"class": 1.0, "box": 5.0}
        self.layer = nn.Linear(in_channels[0], num_classes + 4)

    def forward(self, features, targets=None):
        level, outputs = features[0], []
        for x, (h, w), (H, W) in zip(level.x.split(level.lengths), level.grids, features.sizes):
            i, j = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            centres = torch.stack([(j + 0.5) / W, (i + 0.5) / H], -1).flatten(0, 1).to(x) * level.stride  # (h*w, 2)
            logits, shift, size = self.layer(x).split([self.num_classes, 2, 2], dim=-1)
            outputs.append((logits - 4, torch.cat([centres + 0.1 * shift, size.sigmoid()], -1), centres))
        return outputs

    def loss(self, outputs, targets):
        losses = {"class": 0.0, "box": 0.0}
        for (logits, boxes, centres), target in zip(outputs, targets):
            tokens = torch.cdist(target.boxes_cxcywh[:, :2], centres).argmin(1)  # the token nearest to each object
            truth = torch.zeros_like(logits)
            truth[tokens, target.labels] = 1
            losses["class"] += F.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / len(targets)
            losses["box"] += (boxes[tokens] - target.boxes_cxcywh).abs().sum() / len(targets)
        return losses

    def predict(self, outputs, sizes):
        predictions = []
        for (logits, boxes, _), (H, W) in zip(outputs, sizes):
            scores, index = logits.sigmoid().flatten().topk(min(100, logits.numel()))
            boxes_xyxy = cxcywh_to_xyxy(boxes[index // self.num_classes]) * boxes.new_tensor([W, H, W, H])
            predictions.append(Prediction(boxes_xyxy, scores, index % self.num_classes, (H, W)))
        return predictions


def test_it_learns_its_images_is_scored_and_loads(tiny, shapes_root):
    _, shapes, trainer = tiny(max_epochs=50, log_every_n_steps=1)
    split = Split(Path(shapes_root, "train"), shapes.index("train").path)
    data = CocoData(train=split, val=split, size=64, batch_size=7, scale_jitter=(1.0, 1.0), train_transforms=[])
    backbone = Backbone(
        "vit_tiny_patch16_224", stem=ConvStem, model_args={"embed_dim": 48, "num_heads": 3}, depth=2, out_channels=48
    )
    settings = {"classes": data.classes, "category_ids": data.category_ids, "optimizer": "muon", "lr": 1e-2}
    task = Task(backbone, CentreHead, **settings)
    before = trainer.validate(task, data, verbose=False)[0]
    trainer.fit(task, data)
    assert before["val/AP"] < 0.1 and trainer.callback_metrics["val/AP"] > 0.8

    detector = load(trainer.run_folder / "best.ckpt", device="cpu")
    found = detector.predict(sorted(split.images.glob("*"))[0])
    assert found.names == data.classes and found.scores.max() > 0.5


class Objects(torchmetrics.Metric):
    """How many objects are found and how many there are, of a score above a half."""

    def __init__(self):
        super().__init__()
        self.add_state("counts", torch.zeros(2), dist_reduce_fx="sum")

    def update(self, predictions, targets):
        self.counts += torch.tensor(
            [sum((p.scores > 0.5).sum() for p in predictions), sum(len(t.labels) for t in targets)]
        )

    def compute(self):
        return {"found": self.counts[0], "true": self.counts[1]}


class CountingHead(CentreHead):
    """As its base, with a metric of its own."""

    def metric(self, data):
        return Objects()


def test_a_metric_of_the_users_own_is_used_and_starts_anew(tiny):
    task, shapes, trainer = tiny(max_epochs=2)
    settings = {"classes": shapes.classes, "category_ids": shapes.category_ids}
    task = Task(task.backbone, CountingHead, **settings)
    trainer.fit(task, shapes)
    val = shapes.index("val")
    assert trainer.callback_metrics["val/true"] == val.trainable.sum() and "val/AP" not in trainer.callback_metrics
    assert task.metric("val").update_count == len(shapes.val_dataloader())


def test_a_metric_that_is_none_is_refused(tiny, monkeypatch):
    task, shapes, trainer = tiny(max_epochs=1)
    monkeypatch.setattr(type(task.head), "metric", lambda self, data: "coco_box")
    with pytest.raises(UserError, match="wanted a torchmetrics.Metric, or None"):
        trainer.validate(task, shapes, verbose=False)


@pytest.mark.parametrize("counts", [(0, 0), (0, 2)])
def test_images_without_objects_give_every_weight_a_gradient(make_features, make_targets, counts):
    sizes = [(48, 64), (64, 32)]
    head = CentreHead([32], [8], 3)
    head.total(head.loss(head(make_features(sizes)), make_targets(sizes, counts))).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())
