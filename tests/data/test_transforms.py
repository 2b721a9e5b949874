"""Geometry of the transforms: boxes stay on the pixels that they were on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitdet.data.transforms import Augment, EvalTransform, Sample, Size, crop, resize, to_tensor
from vitdet.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_size_rules_by_hand():
    assert Size.parse(320)(480, 640) == (240, 320)
    assert Size.parse({"short_side": 480, "max_long_side": 800})(300, 400) == (480, 640)
    assert Size.parse({"short_side": 480, "max_long_side": 800})(300, 1200) == (200, 800)
    assert Size.parse({"square": 64})(10, 500, scale=0.5) == (32, 32)
    assert Size.parse(None)(33, 57) == (33, 57)
    assert Size.parse(10)(1, 1000) == (1, 10)  # never without pixels


def test_two_size_rules_are_an_error():
    with pytest.raises(ValueError, match="long_side and square"):
        Size.parse({"long_side": 3, "square": 4})


def test_eval_transform_normalises():
    image = np.random.default_rng(0).integers(0, 255, (8, 6, 3), dtype=np.uint8)
    x = EvalTransform(mean=MEAN, std=STD)(image)
    expected = (image / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(x.numpy(), expected.transpose(2, 0, 1), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(4, 90), st.integers(4, 90), st.integers(0, 2**31))
def test_a_crop_keeps_boxes_on_their_pixels(height, width, full_h, full_w, seed):
    """A bright rectangle is drawn; after resize and crop its box still says where the bright pixels are."""
    rng = np.random.default_rng(seed)
    x1, y1 = int(rng.integers(width - 4)), int(rng.integers(height - 4))
    x2, y2 = int(rng.integers(x1 + 3, width + 1)), int(rng.integers(y1 + 3, height + 1))
    image = np.zeros((height, width, 3), np.uint8)
    image[y1:y2, x1:x2] = 255
    boxes = np.array([[x1 / width, y1 / height, x2 / width, y2 / height]], np.float32)
    sample = Sample(image, boxes, np.array([5]))
    sample = crop(sample, (full_h, full_w), (full_h, max(4, full_w // 2)), rng)
    out, kept, labels = sample.image, sample.boxes, sample.labels
    h, w = out.shape[:2]
    assert h == full_h and w == min(full_w, max(4, full_w // 2))
    assert len(kept) == len(labels) <= 1
    if len(kept):
        assert (kept >= 0).all() and (kept <= 1).all() and (kept[0, 2:] > kept[0, :2]).all()
        ys, xs = np.nonzero(out[..., 0] > 127)
        seen = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) if len(xs) else None
        if seen is not None:
            assert np.abs(kept[0] * [w, h, w, h] - seen).max() <= 1.01  # to the pixel


def test_what_a_crop_hides_is_dropped():
    boxes = np.array([[0.0, 0, 0.1, 0.1], [0.4, 0.4, 0.6, 0.6]], np.float32)
    image = np.zeros((100, 100, 3), np.uint8)
    counts = set()
    for seed in range(40):
        sample = Sample(image, boxes, np.array([0, 1]))
        counts.add(tuple(crop(sample, (100, 100), (60, 60), np.random.default_rng(seed)).labels))
    assert (1,) in counts and all(1 in c or c == () for c in counts)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 4), max_size=6), st.integers(0, 2**31), st.integers(2, 300))
def test_no_box_is_left_without_area(corners, seed, side):
    low, high = np.array(corners, np.float32).reshape(-1, 2, 2).min(1), np.array(corners, np.float32).reshape(-1, 2, 2)
    boxes = np.concatenate([low, high.max(1)], 1)
    rng = np.random.default_rng(seed)
    sample = Sample(np.zeros((50, 70, 3), np.uint8), boxes, np.arange(len(boxes)))
    sample = crop(sample, (side, side), (40, 30), rng)
    sample = Augment(["HorizontalFlip", {"Affine": {"scale": [0.5, 2.0], "p": 1.0}}])(sample, seed=seed)
    image, boxes, labels = sample.image, sample.boxes, sample.labels
    sides = (boxes[:, 2:] - boxes[:, :2]) * [image.shape[1], image.shape[0]]
    assert len(boxes) == len(labels) and (sides > 0.99).all() and (boxes >= 0).all() and (boxes <= 1).all()


def test_augment_is_a_function_of_its_seed_and_flips_boxes():
    augment = Augment(["HorizontalFlip", {"RandomBrightnessContrast": {"p": 1.0}}])
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    boxes = np.array([[0.1, 0.2, 0.3, 0.8]], np.float32)
    outs = [augment(Sample(image, boxes, np.array([4])), seed) for seed in (1, 2, 3, 4, 5, 1)]
    assert np.array_equal(outs[0].image, outs[-1].image) and np.array_equal(outs[0].boxes, outs[-1].boxes)
    lefts = {round(float(out.boxes[0, 0]), 4) for out in outs}
    assert lefts == {0.1, 0.7}
    assert all(out.labels.tolist() == [4] for out in outs)


def test_transforms_draw_independently():
    augment = Augment(["HorizontalFlip", {"InvertImg": {"p": 0.5}}])
    image, boxes = np.full((4, 6, 3), 40, np.uint8), np.array([[0.0, 0, 0.2, 1]], np.float32)
    seen = [augment(Sample(image, boxes, np.array([0])), seed) for seed in range(400)]
    pairs = [(round(float(out.boxes[0, 0]), 3), int(out.image[0, 0, 0])) for out in seen]
    counts = [pairs.count(pair) for pair in ((0.0, 40), (0.0, 215), (0.8, 40), (0.8, 215))]
    assert sum(counts) == 400 and min(counts) > 60  # about 100 each


def test_augment_without_boxes():
    image = np.zeros((20, 30, 3), np.uint8)
    sample = Augment(["HorizontalFlip"])(Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64)), 0)
    assert sample.boxes.shape == (0, 4) and sample.labels.shape == (0,)


def test_unknown_transforms_and_arguments_are_named():
    with pytest.raises(ValueError, match="HorizontalFlip"):
        Augment(["HorizontalFlipp"])
    with pytest.raises(ValueError, match="HorizontalFlip"):
        Augment([{"HorizontalFlip": {"probability": 1}}])


def test_resize_keeps_the_mean():
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    assert abs(resize(image, 16, 16).mean() - image.mean()) < 1
    assert resize(image, 64, 64) is image


@pytest.mark.parametrize("transforms", ["HorizontalFlip", {"HorizontalFlip": {}}, 3, None])
def test_transforms_are_a_list(transforms):
    with pytest.raises(UserError, match="train_transforms is .*; wanted a list"):
        Augment(transforms)


@pytest.mark.parametrize("item", [None, 5, [], {}, {"HorizontalFlip": 3}, {"HorizontalFlip": {}, "VerticalFlip": {}}])
def test_a_transform_is_a_name_or_one_with_arguments(item):
    with pytest.raises(UserError, match="one of train_transforms is .*; wanted a name"):
        Augment([item])


def test_transforms_that_an_image_is_too_small_for_are_named():
    sample = Sample(np.zeros((20, 30, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    for transform in ({"RandomCrop": {"height": 50, "width": 50}}, {"Mosaic": {"p": 1.0}}):
        name = next(iter(transform))
        with pytest.raises(UserError, match=rf"train_transforms \({name}.* an image of 30×20: "):
            Augment([transform])(sample, 0)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("OneOf", r"OneOf, a group, with transforms None; wanted a list of one or more, for example {OneOf: {"),
        (
            {"HorizontalFlip": {"hue": 1}},
            "HorizontalFlip does not take {'hue': 1}: an argument is 'hue'; wanted some of p",
        ),
        ("BboxParams", r"no transform 'BboxParams'; did you mean (?!BboxParams)"),
        ({"HorizontalFlip": {"p": 5}}, r"HorizontalFlip does not take {'p': 5}: p is 5; wanted a number from 0 to 1"),
        ({"Rotate": {"limit": "a"}}, r"Rotate does not take .*: limit.*; "),
    ],
)
def test_what_is_wrong_with_a_transform_is_said_on_one_line(item, message):
    with pytest.raises(UserError, match=message) as caught:
        Augment([item])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [100_000, {"square": 10**30}, {"short_side": 40_000}])
def test_no_size_needs_gigabytes(size):
    with pytest.raises(UserError, match="size is .*; wanted at most 32768 pixels"):
        Size.parse(size)


def test_a_table_normalises_to_the_same_bits():
    rng = np.random.default_rng(0)
    for size in ((1, 1), (7, 5), (33, 64)):
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
        wanted = torch.from_numpy(image.copy()).permute(2, 0, 1).float().sub_(mean * 255).div_(std * 255)
        assert torch.equal(to_tensor(image, MEAN, STD), wanted)
        assert torch.equal(to_tensor(image[:, ::-1], MEAN, STD), wanted.flip(2))
        assert torch.equal(to_tensor(image.astype(np.float32), MEAN, STD), wanted)
