"""What the comparisons of published DETRs share."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from vitdet import zoo
from vitdet.backbone.keys import check_complete
from vitdet.boxes import cxcywh_to_xyxy
from vitdet.data.label_sets.coco import IDS
from vitdet.structures import Target


def ours(name, theirs, **head):
    """The published model of that name with the tensors of `theirs`, and other arguments of the head."""
    card = zoo.find(name)
    card = replace(card, head={**card.head, **head})
    state, own = card.convert(theirs), card.build()
    check_complete(state, own)
    own.load_state_dict(state)
    return own


@torch.no_grad()
def gap(backbone, head, images):
    """The least difference between the scores of two proposals.

    Which of two proposals with equal scores comes first is undefined, and the order of all queries depends on it.
    """
    features = backbone(images)
    scores = head.selection(torch.cat([level.x for level in features]), features).logits.amax(-1)  # (B, G, Q)
    return (scores[..., :-1] - scores[..., 1:]).min()


def clearest(backbone, head, drawn, see=lambda one: one):
    """The first of `drawn` whose proposals differ by more than rounding, or else the one where they differ most."""
    best, widest = None, -1.0
    for one in drawn:
        found = gap(backbone, head, see(one))
        if found > widest:
            best, widest = one, found
        if found > 3e-6:
            break
    return best


def distinct_images(own, *sides, count=2):
    drawn = (torch.randn(count, 3, *sides, generator=torch.Generator().manual_seed(seed)) for seed in range(5))
    return clearest(own["backbone"], own["head"], drawn)


def distinct_picture(detector):
    """500×333 pixels of soft colours."""
    pixels = (np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8) for seed in range(5))
    drawn = (Image.fromarray(one).resize((500, 333), Image.Resampling.BICUBIC) for one in pixels)
    return clearest(detector.backbone, detector.head, drawn, lambda one: detector.transform(np.asarray(one))[None])


def alone(scores):
    """Which of the sorted scores have no equal beside them: among equals the order means nothing."""
    gaps = torch.full_like(scores, torch.inf)
    gaps[:-1] = scores[:-1] - scores[1:]
    found = (gaps > 2e-6) & (gaps.roll(1) > 2e-6)
    assert found.float().mean() > 0.9
    return found


def make_targets(side):
    """Ours and theirs; masks are boxes with a corner cut off."""
    generator = torch.Generator().manual_seed(3)
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    targets, theirs = [], []
    for count in (5, 3):
        boxes = torch.rand(count, 4, generator=generator) * 0.3 + 0.2
        labels = torch.randint(80, (count,), generator=generator)
        x1, y1, x2, y2 = (side * cxcywh_to_xyxy(boxes)).T[:, :, None, None]
        masks = (x > x1) & (x < x2) & (y > y1) & (y < y2) & (x + y > x1 + y1 + 20)
        targets.append(Target(boxes, labels, (side, side), (side, side), masks=masks))
        theirs.append({"boxes": boxes, "labels": torch.tensor(IDS)[labels], "masks": masks})
    return targets, theirs


TERMS = {"class": "ce", "box": "bbox", "giou": "giou", "mask": "mask_ce", "dice": "mask_dice"}


def same_losses(found, wanted, names, layers):
    """Terms by our names and by those of LW-DETR and RF-DETR: of the last layer, of the sum of all other layers, and of
    the proposals."""
    for name in names:
        term = f"loss_{TERMS[name]}"
        aux = sum(wanted[f"{term}_{i}"] for i in range(layers - 1))
        pairs = {name: wanted[term], f"aux_{name}": aux, f"enc_{name}": wanted[f"{term}_enc"]}
        for key, theirs in pairs.items():
            torch.testing.assert_close(found[key], theirs, rtol=1e-3, atol=1e-5)


def same_gradients(gradients, expected):
    """By our names, of all parameters that have one."""
    assert set(gradients) == set(expected)
    largest = max(grad.norm() for grad in expected.values())
    wrong = {
        name: error
        for name, grad in gradients.items()
        if (error := (grad - expected[name]).norm().item()) > 1e-3 * expected[name].norm() + 1e-6 * largest
    }
    assert not wrong, wrong


def gradients_of(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
