"""JPEGs that are much larger than what training shows of them are decoded at a fraction of their size."""

import io
import json

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitdet.boxes import cxcywh_to_xyxy
from vitdet.data import CocoData, Split
from vitdet.data.reduced import load_reduced
from vitdet.data.sampler import Draw
from vitdet.data.transforms import reduction
from vitdet.images import ImageError, load_image


def photo(width, height, seed=0):
    """Structure at all scales."""
    rng, pixels = np.random.default_rng(seed), np.zeros((height, width, 3), np.float32)
    for cell in (4, 16, 64):
        noise = rng.normal(0, 10 + cell / 4, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        pixels += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return (pixels + 100).clip(0, 200).astype(np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("size", "mode"), [((203, 150), "RGB"), ((64, 200), "L")])
def test_a_reduced_image_is_upright_and_close_to_the_whole_one(tmp_path, orientation, size, mode):
    path, exif = tmp_path / "a.jpg", Image.Exif()
    exif[274] = orientation
    Image.fromarray(photo(*size)).convert(mode).save(path, quality=92, exif=exif)
    for upright in (True, False):
        whole = load_image(path, exif=upright)
        for factor in (1, 2, 4, 8):
            small, shape = load_reduced(path, factor, exif=upright)
            assert shape == whole.shape[:2] and small.shape[:2] == tuple(-(-side // factor) for side in shape)
            area = cv2.resize(whole, small.shape[1::-1], interpolation=cv2.INTER_AREA)
            assert np.abs(small.astype(int) - area).mean() < 6
    assert np.array_equal(load_reduced(path, 1)[0], load_image(path))


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF"])
def test_other_formats_are_decoded_whole(tmp_path, format_):
    Image.fromarray(photo(90, 60)).save(tmp_path / "a", format=format_)
    small, shape = load_reduced(tmp_path / "a", 4)
    assert shape == (60, 90) and np.array_equal(small, load_image(tmp_path / "a"))


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 3000))
def test_no_more_is_lost_than_is_not_needed(height, width, wanted_height, wanted_width):
    k = reduction((height, width), (wanted_height, wanted_width))
    assert k == 1 or (-(-height // k) >= wanted_height and -(-width // k) >= wanted_width)
    assert k == 8 or -(-height // (2 * k)) < wanted_height or -(-width // (2 * k)) < wanted_width


@pytest.fixture
def large(tmp_path):
    """Photos of 403 × 301 pixels with a bright rectangle each."""
    images, annotations = [], []
    for i in range(4):
        pixels = photo(403, 301, i)
        pixels[60 + 7 * i : 201, 90:200] = 255
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg", quality=95)
        images.append({"id": i, "file_name": f"{i}.jpg", "height": 301, "width": 403})
        x, y, w, h = 90, 60 + 7 * i, 110, 141 - 7 * i
        outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        row = {"id": i, "image_id": i, "category_id": 1, "bbox": [x, y, w, h], "segmentation": outline}
        annotations.append(row | {"area": w * h, "iscrowd": 0})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "bright"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    return Split(str(tmp_path), str(tmp_path / "a.json"))


def made(split, **options):
    data = CocoData(train=split, val=split, **options)
    data.masks, data.mean, data.std = True, (0, 0, 0), (1, 1, 1)
    return data


@pytest.mark.parametrize("options", [{"size": 100}, {"size": {"square": 64}}, {"size": 50, "scale_jitter": (0.4, 1.9)}])
@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_training_shows_the_same_of_reduced_images(large, options, mosaic):
    options |= {"augmentation": {"mosaic": mosaic}, "train_transforms": ["HorizontalFlip"]}
    data = made(large, **options)
    used, different = [], 0
    source = data.files.source("train")
    small, whole = data.train_dataloader().dataset, made(large, reading={"reduce_large": False}, **options)
    whole = whole.train_dataloader().dataset
    for epoch in range(6):
        for i in range(4):
            (image, target), (other, same) = small[Draw(i, epoch)], whole[Draw(i, epoch)]
            assert image.shape == other.shape
            if len(target.labels) != len(same.labels):
                # a part of the image that is a few pixels larger shows a little more of an object
                different += 1
                continue
            height, width = image.shape[1:]
            boxes, wanted = (cxcywh_to_xyxy(t.boxes_cxcywh).numpy() * ([width, height] * 2) for t in (target, same))
            assert np.abs(boxes - wanted).max(initial=0) <= 1.5
            assert (image - other).abs().mean() * 255 < 9
            for box in boxes.round().astype(int):
                if min(box[2:] - box[:2]) > 4:
                    inside = image[:, box[1] + 2 : box[3] - 2, box[0] + 2 : box[2] - 2]
                    assert inside.mean() > 0.9
            used.append(len(boxes))
    assert sum(used) > 12 and different <= 2 and reduction(source.sample(0).size, (95, 95)) == 2


def test_evaluation_decodes_whole_images(large):
    images = [
        next(iter(made(large, size=40, reading={"reduce_large": on}).val_dataloader()))[0] for on in (True, False)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*images))


def test_a_wrong_size_or_a_damaged_file_is_noticed_as_before(large, tmp_path):
    data = made(large, size=40)
    assert data.files.source("train").sample(0, reduction=8).image.shape == (38, 51, 3)
    buffer = io.BytesIO()
    Image.fromarray(photo(402, 301)).save(buffer, "JPEG")
    (tmp_path / "0.jpg").write_bytes(buffer.getvalue())
    with pytest.raises(ImageError, match="402×301, but a.json says 403×301"):
        data.train_dataloader().dataset[Draw(0)]
    (tmp_path / "0.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:9000])
    with pytest.raises(ImageError, match="truncated"):
        data.train_dataloader().dataset[Draw(0)]
