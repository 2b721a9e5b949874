"""Image files of all kinds, against pixels that are known."""

import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from vitdet.images import ImageError, load_image, resolve

RGB = np.random.default_rng(0).integers(0, 255, (12, 20, 3), dtype=np.uint8)


@pytest.mark.parametrize("tag", range(1, 9))
def test_exif_orientation(tmp_path, tag):
    exif = Image.Exif()
    exif[274] = tag
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
    assert np.array_equal(load_image(tmp_path / "a.png"), upright)
    assert upright.shape == ((12, 20, 3) if tag < 5 else (20, 12, 3))
    assert np.array_equal(load_image(tmp_path / "a.png", exif=False), RGB)


def test_grey_palette_alpha_and_16_bits(tmp_path):
    grey = RGB[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(load_image(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, 2))
    few = Image.fromarray(RGB // 128 * 200)
    few.quantize(8).save(tmp_path / "palette.png")
    assert np.array_equal(load_image(tmp_path / "palette.png"), np.asarray(few))
    alpha = np.dstack([RGB, np.full((12, 20), 7, np.uint8)])
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    assert np.array_equal(load_image(tmp_path / "alpha.png"), RGB)
    deep = grey.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.array_equal(load_image(tmp_path / "deep.png")[..., 1], grey)


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 6), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    image = load_image(tmp_path / "a.jpg")
    assert image.shape == (6, 8, 3) and np.abs(image.astype(int) - [255, 0, 0]).max() <= 3


def test_damaged_missing_and_other_files_are_named(tmp_path):
    Image.fromarray(RGB).resize((200, 200)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").touch()
    for name in ("cut.jpg", "text.jpg", "empty.png", "missing.jpg"):
        with pytest.raises(ImageError, match=name):
            load_image(tmp_path / name)


def test_too_many_pixels_are_refused_from_the_header_and_pil_stays_as_it_is(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    Image.new("L", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="bomb.png"):
            load_image(tmp_path / "bomb.png")
        with pytest.raises(ImageError, match="more than 200 pixels"):
            Image.fromarray(RGB).save(tmp_path / "a.png")
            load_image(tmp_path / "a.png", max_pixels=200)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "b/../../a.png"])
def test_file_names_stay_in_the_folder(tmp_path, name):
    with pytest.raises(ValueError, match="leaves the image folder"):
        resolve(tmp_path, name)
    assert resolve(tmp_path, "sub/a..png") == tmp_path / "sub" / "a..png"
