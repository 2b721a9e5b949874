"""Mixup and copy-paste: pixels, boxes, masks and labels of the result belong together."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitdet.boxes import cxcywh_to_xyxy
from vitdet.data import CocoData, ShapesData, ShapesPanopticData, ShapesSemanticData
from vitdet.data.sampler import Draw
from vitdet.data.transforms import Sample
from vitdet.data.transforms.mixing import copy_paste, mixup
from vitdet.errors import UserError
from vitdet.masks import bounds

MIXED = {"augmentation": {"mixup": 0.5, "copy_paste": 0.5, "mosaic": 0.3}, "size": 64, "batch_size": 4}
sides = st.integers(6, 40)
seeds = st.integers(0, 2**31)


def scene(rng, height, width, *, label=0, overlap=True):
    """Rectangles, each of whose pixels has the grey value of its object; of overlapping ones, the later is on top."""
    ids = np.zeros((height, width), np.int32)
    shapes = []
    for k in range(int(rng.integers(0, 6))):
        top, left = int(rng.integers(height - 3)), int(rng.integers(width - 3))
        part = (slice(top, int(rng.integers(top + 2, height + 1))), slice(left, int(rng.integers(left + 2, width + 1))))
        shapes.append(np.zeros((height, width), np.uint8))
        shapes[-1][part] = 1
        ids[part] = k + 1
    if not overlap:
        shapes = [(ids == k + 1).astype(np.uint8) for k in range(len(shapes))]
        shapes = [shape for shape in shapes if shape.any()]
    masks = np.stack(shapes) if shapes else np.zeros((0, height, width), np.uint8)
    image = np.repeat(ids[..., None] * 10 + label, 3, axis=2).astype(np.uint8)
    boxes = (bounds(masks) / [width, height, width, height]).astype(np.float32)
    return Sample(image, boxes, np.arange(len(masks)) + label, masks)


@settings(max_examples=60, deadline=None)
@given(sides, sides, sides, sides, seeds, st.booleans())
def test_mixup_blends_the_images_and_keeps_all_objects(height, width, h, w, seed, with_masks):
    rng = np.random.default_rng(seed)
    one, other = scene(rng, height, width), scene(rng, min(h, height), min(w, width), label=100)
    if not with_masks:
        one.masks = other.masks = None
    out = mixup(one, other, np.random.default_rng(seed))
    assert out.labels.tolist() == [*one.labels, *other.labels] and len(out.boxes) == len(out.labels)
    assert np.array_equal(out.boxes[: len(one.boxes)], one.boxes)
    # the same draws, and the blend in floats
    rng = np.random.default_rng(seed)
    top, left = (int(rng.integers(a - b + 1)) for a, b in zip(one.image.shape[:2], other.image.shape[:2]))
    weight = rng.uniform(0.45, 0.55)
    wanted = one.image.astype(float)
    h, w = other.image.shape[:2]
    wanted[top : top + h, left : left + w] *= weight
    wanted[top : top + h, left : left + w] += (1 - weight) * other.image
    assert np.abs(out.image - wanted).max() <= 0.5001
    if with_masks:
        moved = out.masks[len(one.labels) :]
        assert np.array_equal(out.masks[: len(one.labels)], one.masks)
        assert (
            np.array_equal(moved[:, top : top + h, left : left + w], other.masks) and moved.sum() == other.masks.sum()
        )
        np.testing.assert_allclose(out.boxes[len(one.labels) :] * ([width, height] * 2), bounds(moved), atol=1e-3)


@settings(max_examples=100, deadline=None)
@given(sides, sides, sides, sides, seeds, st.sampled_from([0.0, 0.3]), st.booleans())
def test_pasted_objects_are_on_top_and_cover_what_is_under_them(height, width, h, w, seed, min_visible, overlap):
    rng = np.random.default_rng(seed)
    one = scene(rng, height, width, overlap=overlap)
    other = scene(rng, min(h, height), min(w, width), label=100, overlap=overlap)
    before = one.image.copy(), one.masks.copy(), one.boxes.copy()
    may = [label != 102 for label in range(200)]
    out = copy_paste(one, other, rng, may=may, min_visible=min_visible)
    assert all(np.array_equal(a, b) for a, b in zip(before, (one.image, one.masks, one.boxes)))
    pasted = out.labels >= 100
    covered = out.masks[pasted].any(0) if pasted.any() else np.zeros((height, width), bool)
    assert 102 not in out.labels and len(set(out.labels.tolist())) == len(out.labels) == len(out.boxes)
    assert np.array_equal(out.image[~covered], one.image[~covered]) and (out.image[covered] >= 100).all()
    assert not out.masks[~pasted][:, covered].any()
    for label, mask in zip(one.labels, one.masks):
        rest = mask * ~covered
        row = np.flatnonzero(out.labels == label)
        lost = rest.sum() < mask.sum()
        assert len(row) == (1 if not lost or rest.sum() > min_visible * mask.sum() else 0)
        if len(row):
            assert np.array_equal(out.masks[row[0]], rest)
    for label in out.labels[pasted]:
        # the pixels that come from an object show it, or another pasted object that lay over it
        shown = out.image[out.masks[out.labels == label][0] > 0][:, 0]
        assert (shown >= 100 + 10 * (label - 99)).all() if not overlap else (shown > 100).all()
    np.testing.assert_allclose(out.boxes * [width, height, width, height], bounds(out.masks), atol=1e-3)
    if not overlap:
        assert out.masks.sum(0).max(initial=0) <= 1


def made(kind, root, *, masks=True, **options):
    data = kind(root=str(root), train_images=12, val_images=2, **options)
    data.masks = masks
    return data


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("shapes") / "shapes"


@pytest.mark.parametrize("kind", [ShapesData, ShapesPanopticData])
def test_mixed_samples_depend_on_their_draw_alone_and_are_valid(kind, root):
    options = MIXED if kind is ShapesData else {**MIXED, "augmentation": {"copy_paste": 1.0, "mosaic": 0.3}}
    alone = made(kind, root, **options).train_dataloader()
    workers = made(kind, root, num_workers=2, **options).train_dataloader()
    for (images, targets), (others, same) in zip(alone, workers, strict=True):
        for image, other, target, twin in zip(images, others, targets, same):
            assert torch.equal(image, other) and torch.equal(target.boxes_cxcywh, twin.boxes_cxcywh)
            assert torch.equal(target.masks, twin.masks) and torch.equal(target.labels, twin.labels)
    for epoch in range(3):
        for i in range(12):
            image, target = alone.dataset[Draw(i, epoch)]
            assert target.masks.shape == (len(target.labels), *image.shape[1:]) and target.masks.flatten(1).any(1).all()
            if kind is ShapesPanopticData:
                assert (target.masks.sum(0) <= 1).all()
            height, width = image.shape[1:]
            boxes = cxcywh_to_xyxy(target.boxes_cxcywh).numpy() * [width, height, width, height]
            tight = bounds(target.masks.numpy())
            assert (boxes[:, :2] >= tight[:, :2] - 1.01).all() and (boxes[:, 2:] <= tight[:, 2:] + 1.01).all()


def test_only_things_are_pasted_onto_panoptic_images(root):
    plain = {"train_transforms": [], "scale_jitter": (1.0, 1.0), "size": 64}
    before = made(ShapesPanopticData, root, **plain).train_dataloader().dataset
    data = made(ShapesPanopticData, root, augmentation={"copy_paste": 1.0}, **plain)
    after, things = data.train_dataloader().dataset, torch.tensor(data.things)
    more = 0
    for i in range(12):
        old, new = before[Draw(i)][1], after[Draw(i)][1]
        assert (~things[new.labels]).sum() <= (~things[old.labels]).sum()
        assert torch.equal(old.masks.any(0), new.masks.any(0))  # void stays void, unless it is covered: here is none
        more += int(things[new.labels].sum() - things[old.labels].sum())
    assert more > 5


def test_objects_are_pasted_for_a_model_of_boxes_and_end_in_time(root):
    options = {"train_transforms": [], "scale_jitter": (1.0, 1.0)}
    data = made(ShapesData, root, masks=False, augmentation={"copy_paste": 1.0, "copy_paste_until": 0.5}, **options)
    plain = made(ShapesData, root, masks=False, **options).train_dataloader().dataset
    dataset = data.train_dataloader().dataset
    counts = [[len(d[Draw(i, progress=p)][1].labels) for i in range(12)] for d, p in ((plain, 0), (dataset, 0.4))]
    assert sum(counts[1]) > sum(counts[0]) + 6
    for i in range(12):
        late, usual = dataset[Draw(i, progress=0.5)], plain[Draw(i)]
        assert late[1].masks is None and torch.equal(late[0], usual[0]) and len(late[1].labels) == counts[0][i]
    text = data.describe()
    assert "copy-paste 1 until 0.5 of the training" in text and "mixup" not in text


@pytest.mark.parametrize(
    ("kind", "option", "reason"),
    [
        (ShapesSemanticData, "mixup", "a label map has one class for each pixel and no objects"),
        (ShapesSemanticData, "copy_paste", "a label map has one class for each pixel and no objects"),
        (ShapesPanopticData, "mixup", "each pixel would have two segments"),
    ],
)
def test_what_can_not_be_mixed_is_refused(root, kind, option, reason):
    with pytest.raises(UserError, match=rf"augmentation\.{option} is 0\.5; wanted 0 for this data: .*{reason}"):
        made(kind, root, augmentation={option: 0.5})


def test_copy_paste_needs_masks(coco_split):
    split = coco_split()
    with pytest.raises(UserError, match=r"augmentation\.copy_paste is 0\.1; .* has boxes only"):
        CocoData(train=split, augmentation={"copy_paste": 0.1})
    CocoData(val=split, augmentation={"copy_paste": 0.1})
    CocoData(train=split, augmentation={"mixup": 0.1})
    content = json.loads(Path(split.annotations).read_text())
    for row in content["annotations"]:
        x, y, w, h = row["bbox"]
        row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    Path(split.annotations).write_text(json.dumps(content))
    CocoData(train=split, augmentation={"copy_paste": 0.1})
