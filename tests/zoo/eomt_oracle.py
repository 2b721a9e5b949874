"""EoMT in transformers beside ours: outputs, losses and gradients."""

from importlib.metadata import version

import torch

from vitdet.losses import points as our_masks
from vitdet.structures import Target

THINGS = [i < 80 for i in range(133)]  # COCO's panoptic classes


def compare_outputs(parity, name, theirs, model, own, side):
    """Of two images; `theirs` is the state dict that ours was filled from."""
    images = torch.randn(1 if side > 160 else 2, 3, side, side)
    wanted, found = model(images), own["head"](own["backbone"](images))
    masks = torch.einsum("bqc,bchw->bqhw", found.embeddings[-1], torch.stack(found.pixels[-1].maps()))
    pairs = {"logits": (found.logits[-1], wanted.class_queries_logits), "masks": (masks, wanted.masks_queries_logits)}
    oracle = f"transformers {version('transformers')}"
    parity(name, oracle, theirs, own.state_dict(), f"{side}×{side}", **pairs)


class SamePoints:
    """The torch that transformers' loss sees: its random points are always the same."""

    def __init__(self, points):
        self.points = points

    def __getattr__(self, name):
        return getattr(torch, name)

    def rand(self, count, *shape, **_):
        return self.points.expand(count, -1, -1)


def compare_training(monkeypatch, module, model, own, convert):
    """One step on 160 pixels, with attention held back by masks before every block.

    Args:
        module, model: of transformers.
        own: the same model, ours.
        convert: their parameters to ours.
    """
    count = 500
    # transformers samples true masks bilinearly, we take the nearest pixel: at its centre both are equal. And at less
    # than half a cell from the border, the masks of transformers fade to 0.
    cells = torch.randint(2, 158, (count, 2), generator=torch.Generator().manual_seed(1))
    points = (cells + 0.5) / 160
    monkeypatch.setattr(module, "torch", SamePoints(points))
    uncertain = {"sample_points_using_uncertainty": lambda self, logits, *_: points.expand(len(logits), -1, -1)}
    monkeypatch.setattr(type(model.criterion), *uncertain.popitem())
    monkeypatch.setattr(our_masks, "mask_points", lambda *_: points)
    monkeypatch.setattr(our_masks, "important_points", lambda logits, _: torch.arange(count).expand(len(logits), -1))
    model.attn_mask_probs.fill_(1)
    images = torch.randn(2, 3, 160, 160)
    targets = []
    for labels in ([3, 90], [0]):
        masks = torch.zeros(len(labels), 160, 160, dtype=torch.bool)
        for i in range(len(labels)):
            masks[i, 20 + 60 * i : 70 + 60 * i, 30:110] = True
        boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5]] * len(labels))
        targets.append(Target(boxes, torch.tensor(labels), (160, 160), (160, 160), masks=masks))
    own.train(), model.train()
    wanted = model(
        images, mask_labels=[t.masks.float() for t in targets], class_labels=[t.labels for t in targets]
    ).loss
    wanted.backward()
    head = own["head"]
    total = head.total(head.loss(head(own["backbone"](images), targets), targets))
    total.backward()
    torch.testing.assert_close(total, wanted, rtol=1e-4, atol=1e-4)
    grads = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in model.named_parameters()}
    expected = convert(grads, things=THINGS, blocks=3)
    largest = max(grad.norm() for grad in expected.values() if grad.is_floating_point())
    for name, p in own.named_parameters():
        grad, theirs = p.grad, expected[name]
        if name.endswith("expand.proj.bias"):  # ours holds it four times
            grad, theirs = grad.view(4, -1).sum(0), theirs.view(4, -1)[0]
        error = (grad - theirs).norm()
        assert error < 1e-3 * theirs.norm() + 1e-6 * largest, (name, error)
