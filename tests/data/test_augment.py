"""The transforms of a config: ours against albumentations', and what is refused before a training."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

from vitdet.config import build, config_of
from vitdet.data import CocoData
from vitdet.data.transforms import Augment, Sample
from vitdet.errors import UserError

OURS = [
    ["HorizontalFlip", {"RandomBrightnessContrast": {"p": 0.5}}],
    ["VerticalFlip", {"HorizontalFlip": {"p": 1}}, {"VerticalFlip": {"p": 0}}],
    ["HorizontalFlip", {"ColorJitter": {"p": 0.8}}],
    [{"ColorJitter": {"brightness": 0.9, "contrast": [0, 2], "saturation": [0, 3], "hue": 0.1, "p": 1.0}}],
    [{"ColorJitter": {"brightness": [1, 1], "contrast": [0, 0], "saturation": [0, 0], "hue": [0, 0], "p": 1.0}}],
    [{"RandomBrightnessContrast": {"brightness_limit": 0.9, "contrast_limit": [-3, 1], "brightness_by_max": False}}],
    [{"RandomBrightnessContrast": {"brightness_limit": 0.9, "contrast_limit": [-3, 1], "ensure_safe_range": True}}],
]  # fmt: skip


def sample_of(seed, *, masks=True, side=90):
    """Noise with some boxes; a mask is the pixels whose centres are in the box."""
    rng = np.random.default_rng(seed)
    height, width, count = int(rng.integers(2, side)), int(rng.integers(2, side)), int(rng.integers(0, 7))
    corners = np.sort(rng.random((count, 2, 2)), axis=1).reshape(-1, 4).astype(np.float32)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    shapes = [
        np.outer((y > top) & (y < bottom), (x > left) & (x < right)).astype(np.uint8)
        for left, top, right, bottom in corners
    ]
    shapes = np.stack(shapes) if shapes else np.zeros((0, height, width), np.uint8)
    return Sample(image, corners, 7 + np.arange(count), shapes if masks else None)


def by_albumentations(transforms, sample, seed):
    """The sample after albumentations' pipeline, as it was called before these transforms were ours."""
    made = [
        getattr(A, name)(**arguments) for name, arguments in (t if type(t) is tuple else (t, {}) for t in transforms)
    ]
    params = A.BboxParams(
        "albumentations", label_fields=["rows"], min_visibility=0.3, min_width=1.0, min_height=1.0, clip=True
    )
    compose = A.Compose(made, bbox_params=params)
    compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
    more = {"masks": list(sample.masks)} if sample.masks is not None and len(sample.masks) else {}
    return compose(image=sample.image, bboxes=sample.boxes, rows=np.arange(len(sample.boxes)), **more)


@pytest.mark.filterwarnings("ignore:Got processor")
@pytest.mark.parametrize("transforms", OURS)
def test_ours_are_albumentations_in_every_pixel_and_draw(transforms):
    augment = Augment(transforms)
    assert not augment.foreign
    plain = [t if isinstance(t, str) else next(iter(t.items())) for t in transforms]
    for seed in range(40):
        sample = sample_of(seed, masks=seed % 2 == 0)
        theirs = by_albumentations(plain, sample, seed)
        mine = augment(sample, seed)
        kept = np.asarray(theirs["rows"], int)
        assert np.array_equal(mine.image, theirs["image"]) and np.array_equal(mine.labels, sample.labels[kept])
        assert np.array_equal(mine.boxes, np.asarray(theirs["bboxes"], np.float32).reshape(-1, 4))
        if "masks" in theirs:
            assert np.array_equal(mine.masks, np.stack(theirs["masks"])[kept])


def test_a_config_of_ours_does_not_import_albumentations():
    code = (
        "import sys, vitdet.data.module; from vitdet.data.transforms import Augment; "
        "Augment(['HorizontalFlip', 'VerticalFlip', 'ColorJitter', 'RandomBrightnessContrast']); "
        "assert 'albumentations' not in sys.modules; Augment(['Blur']); assert 'albumentations' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# what a transform must be given
ARGUMENTS = {
    "AtLeastOneBBoxRandomCrop": {"height": 40, "width": 40},
    "CenterCrop": {"height": 40, "width": 40},
    "CropNonEmptyMaskIfExists": {"height": 40, "width": 40},
    "RandomCrop": {"height": 40, "width": 40},
    "RandomSizedBBoxSafeCrop": {"height": 40, "width": 40},
    "Resize": {"height": 40, "width": 40},
    "Crop": {"x_max": 60, "y_max": 40},
    "CropAndPad": {"px": 10},
    "GridElasticDeform": {"num_grid_xy": [4, 4], "magnitude": 5},
    "LongestMaxSize": {"max_size": 100},
    "SmallestMaxSize": {"max_size": 100},
    "RandomResizedCrop": {"size": [40, 40]},
    "RandomSizedCrop": {"min_max_height": [20, 40], "size": [40, 40]},
    "TextImage": {"font_path": "font.ttf"},
    "PadIfNeeded": {"min_height": 120, "min_width": 120},
    "ConstrainedCoarseDropout": {"bbox_labels": [7, 8], "p": 1.0},
    "CenterCrop3D": {"size": [1, 2, 3]},
    "RandomCrop3D": {"size": [1, 2, 3]},
    "Pad3D": {"padding": 3},
    "PadIfNeeded3D": {"min_zyx": [1, 2, 3]},
}  # fmt: skip
METADATA = ("FDA", "HistogramMatching", "MaskDropout", "Mosaic", "OverlayElements", "PixelDistributionAdaptation",
            "RandomCropNearBBox", "TextImage")  # fmt: skip
REFUSED = {
    **dict.fromkeys(("BaseCompose", "BasicTransform", "DualTransform", "ImageOnlyTransform", "Transform3D"),
                    "has no transform"),
    **dict.fromkeys(("CenterCrop3D", "CoarseDropout3D", "CubicSymmetry", "Pad3D", "PadIfNeeded3D", "RandomCrop3D",
                     "ToTensor3D"), "which is for volumes"),
    **dict.fromkeys(METADATA, "can't be applied to an image of 96×64.* requires .* missing keys"),
    "CropNonEmptyMaskIfExists": "without objects: Can not find mask",
    "Normalize": "Normalize gives float32; .*vitdet normalises itself: leave it out",
    "ToFloat": "ToFloat gives float32; ",
    "FromFloat": "FromFloat gives float16; ",
    "ToTensorV2": r"ToTensorV2 gives a torch\.Tensor; ",
    "RandomGridShuffle": "boxes that are no longer those of the objects",
}  # fmt: skip
GROUPS = [name for name, kind in vars(A).items() if isinstance(kind, type) and issubclass(kind, A.BaseCompose)]
ALL = [
    name
    for name, kind in sorted(vars(A).items())
    if isinstance(kind, type) and issubclass(kind, (A.BasicTransform, A.BaseCompose))
]


@pytest.mark.filterwarnings("ignore:The image is already:UserWarning", "ignore:Neither valid mask:UserWarning")
@pytest.mark.parametrize("name", ALL)
def test_every_transform_of_albumentations_works_or_is_refused_before_the_training(name):
    arguments = {"transforms": ["Blur", "HorizontalFlip"]} if name in GROUPS else ARGUMENTS.get(name, {})

    def tried():
        augment = Augment([{name: arguments}])
        assert augment.foreign or name in ("ColorJitter", "HorizontalFlip", "RandomBrightnessContrast", "VerticalFlip")
        augment.try_out([(64, 96)], masks=True)
        return augment

    if name in REFUSED:
        with pytest.raises(UserError, match=REFUSED[name]) as caught:
            tried()
        assert "\n" not in str(caught.value)
        return
    augment = tried()
    for seed in range(6):
        sample = sample_of(seed, masks=seed > 2)
        if min(sample.image.shape[:2]) < 64:
            sample = Sample(np.resize(sample.image, (64, 96, 3)), sample.boxes[:0], sample.labels[:0], None)
        out = augment(sample, seed)
        assert out.image.dtype == np.uint8 and out.image.shape[2:] == (3,) and len(out.boxes) == len(out.labels)
        assert out.masks is None or out.masks.shape == (len(out.labels), *out.image.shape[:2])


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([{"OneOf": {"transforms": ["Blur", {"ToGray": {"num_output_channels": 1, "p": 0.01}}], "p": 0.01}}],
         r"ToGray gives an array \(64, 96\)"),
        ([{"Sequential": {"transforms": ["Blur", {"SomeOf": {"transforms": ["Blur", "ToFloat"], "n": 1}}]}}],
         r"Sequential\(Blur, ToFloat\) gives float32"),
        ([{"RandomCrop": {"height": 65, "width": 90, "p": 0.01}}], "RandomCrop can't be applied .* 96×64.*Crop size"),
        ([{"RandomCrop": {"height": 40, "width": 40}}, {"CenterCrop": {"height": 50, "width": 50}}],
         "CenterCrop can't be applied to an image of 40×40"),
        ([{"PadIfNeeded": {"min_height": 99, "min_width": 99, "p": 0.5}}, {"RandomCrop": {"height": 90, "width": 90}}],
         "RandomCrop can't be applied to an image of 96×64"),
    ],
)  # fmt: skip
def test_what_fails_rarely_is_found_in_the_trial(transforms, message):
    with pytest.raises(UserError, match=message):
        Augment(transforms).try_out([(64, 96)], masks=True)


@pytest.mark.parametrize(
    "transforms",
    [
        [{"PadIfNeeded": {"min_height": 99, "min_width": 99}}, {"RandomCrop": {"height": 90, "width": 90}}],
        [{"Sequential": {"transforms": [{"PadIfNeeded": {"min_height": 99, "min_width": 99}},
                                        {"OneOf": {"transforms": ["Blur", {"Crop": {"x_max": 99, "y_max": 99}}]}}]}}],
        [{"OneOrOther": {"first": "Blur", "second": "D4", "transforms": ["Blur", "D4"]}}, {"Lambda": {}}],
        [{"RandomOrder": {"transforms": [{"SelectiveChannelTransform": {"transforms": ["Blur"], "channels": [0]}},
                                         {"ReplayCompose": {"transforms": ["D4", "VerticalFlip"]}}], "n": 2}}],
    ],
)  # fmt: skip
def test_groups_work_and_what_goes_before_counts(transforms):
    augment = Augment(transforms)
    augment.try_out([(64, 96)], masks=True)
    augment.try_out([(64, 96)], masks=False)
    out = [augment(sample_of(3, masks=True), seed) for seed in (1, 2, 1)]
    assert np.array_equal(out[0].image, out[2].image) and np.array_equal(out[0].masks, out[2].masks)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"OneOf": ["Blur"]}, "wanted a name, or"),
        ({"OneOf": {"transforms": []}}, r"a group, with transforms \[\]; wanted"),
        ({"OneOf": {"transforms": [{"Blr": {}}]}}, "no transform 'Blr'; did you mean Blur"),
        ({"OneOf": {"transforms": [{"Blur": {}, "MotionBlur": {}}]}}, "2 keys in one item, so put a dash"),
        ({"HorizontalFlip": None, "p": 0.5}, "2 keys in one item, so put a dash before each, or indent the arguments"),
        ({"OneOf": {"transforms": [{"Blur": {"p": 0}}]}}, "OneOf does not take {}: .*division"),
        ({"SomeOf": {"transforms": ["Blur"], "n": 3}}, "SomeOf does not take {'n': 3}: `n` is greater"),
        ({"Blur": {"blur_limit": [4, 8]}}, "Blur does not take .*must be odd"),
        ({"Compose": {"transforms": ["Blur"], "seed": 3}}, "Compose with seed; as a group"),
        ({"ColorJitter": {"hue": 0.7}}, r"hue is \(-0.7, 0.7\); wanted .* from -0.5 to 0.5"),
        ({"ColorJitter": {"contrast": -1}}, "contrast is -1; wanted"),
        ({"RandomBrightnessContrast": {"brightness_by_max": 1}}, "brightness_by_max is 1; wanted true or false"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_item_is_said(item, message):
    with pytest.raises(UserError, match=message) as caught:
        Augment([item])
    assert "\n" not in str(caught.value)


def test_the_trial_takes_the_smallest_images_of_the_data(coco_split):
    """The images are up to 96 × 80 pixels, and of them half is shown."""
    crop = {"RandomCrop": {"height": 20, "width": 20, "p": 0.02}}
    split = coco_split(12)
    CocoData(train=split, train_transforms=[crop])
    with pytest.raises(UserError, match="RandomCrop can't be applied to an image of"):
        CocoData(train=split, train_transforms=[crop], scale_jitter=(0.2, 1.0))
    with pytest.raises(UserError, match="RandomCrop can't be applied to an image of"):
        CocoData(train=split, train_transforms=[crop], augmentation={"crop": (19, 30)})
    # a run that only evaluates needs no transform
    CocoData(val=split, train_transforms=["Normalize"])
    data = CocoData(train=split, train_transforms=[{"OneOf": {"transforms": ["Blur"], "p": 0.3}}])
    assert config_of(build(config_of(data))) == config_of(data) and "OneOf(Blur(p=0.5), p=0.3)" in data.describe()


DROPPING = [
    [{"RandomCrop": {"height": 30, "width": 24, "p": 0.7}}, "HorizontalFlip"],
    [{"CoarseDropout": {"num_holes_range": [3, 9], "hole_height_range": [0.2, 0.6], "hole_width_range": [0.2, 0.6]}}],
    [{"Affine": {"translate_percent": [-0.7, 0.7], "rotate": [-60, 60], "p": 1}}, "D4"],
    [{"SomeOf": {"transforms": [{"GridDropout": {"p": 1}}, {"Erasing": {"p": 1}}, {"XYMasking": {
        "num_masks_x": 2, "num_masks_y": 2, "mask_x_length": 20, "mask_y_length": 20, "p": 1}}], "n": 2}}],
    [{"RandomResizedCrop": {"size": [50, 60], "scale": [0.2, 0.9]}}, {"RandomScale": {"scale_limit": 0.4, "p": 1}}],
]  # fmt: skip


@pytest.mark.parametrize("transforms", DROPPING)
def test_masks_boxes_and_labels_stay_together_when_objects_are_dropped(transforms):
    """Each object has a grey value and a label that say which it is, and lies alone in its own cell."""
    augment, dropped, seen = Augment(transforms), 0, 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        image, shapes, boxes = np.zeros((60, 80, 3), np.uint8), [], []
        for k in range(12):
            row, column = divmod(k, 4)
            h, w = rng.integers(6, 19, 2)
            shapes.append(np.zeros((60, 80), np.uint8))
            shapes[-1][20 * row : 20 * row + h, 20 * column : 20 * column + w] = 1
            image[shapes[-1] == 1] = 40 + 15 * k
            boxes.append([20 * column / 80, 20 * row / 60, (20 * column + w) / 80, (20 * row + h) / 60])
        sample = Sample(image, np.array(boxes, np.float32), np.arange(12), np.stack(shapes))
        out = augment(sample, seed)
        assert len(out.labels) == len(out.boxes) == len(out.masks)
        dropped += 12 - len(out.labels)
        height, width = out.image.shape[:2]
        for label, box, mask in zip(out.labels, out.boxes, out.masks):
            # what was erased is black, and still the object's, since no `fill_mask` says otherwise
            inside = out.image[..., 0][(mask > 0) & (out.image[..., 0] > 0)]
            if len(inside) > 20:
                # interpolation makes values at edges darker only
                assert abs(int(inside.max()) - (40 + 15 * label)) <= 7
                y, x = np.nonzero(mask)
                low, high = np.array([x.min(), y.min()]), np.array([x.max(), y.max()]) + 1
                corners = box.reshape(2, 2) * [width, height]
                assert (low >= corners[0] - 2.01).all() and (high <= corners[1] + 2.01).all()
                seen += 1
    assert dropped > 10 and seen > 40
