"""Image files of all kinds, against pixels that are known."""

import os
import socket
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

import vitdet.pixels
from vitdet.images import ImageError, as_array, load_image, load_values, resolve

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


def _files(tmp_path, values, name="deep"):
    """The same 16-bit values, grey or RGB, in files of several formats."""
    order = values[..., ::-1] if values.ndim == 3 else values
    for suffix in (".png", ".tiff"):
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(cv2.imencode(suffix, order)[1].tobytes())
        yield path
    if values.ndim == 2:
        Image.frombytes("I;16B", values.shape[::-1], values.astype(">u2").tobytes()).save(tmp_path / f"{name}-B.tiff")
        yield tmp_path / f"{name}-B.tiff"
        Image.fromarray(values.astype(np.int32)).save(tmp_path / f"{name}-I.tiff")
        yield tmp_path / f"{name}-I.tiff"


@pytest.mark.parametrize("bit_depth", [None, 8, 10, 12, 14, 16])
@pytest.mark.parametrize("shape", [(12, 20), (12, 20, 3)])
def test_16_bits_are_the_same_array_from_a_file_from_pil_and_from_an_array(tmp_path, shape, bit_depth):
    top = 2 ** (bit_depth or 16) - 1
    values = np.random.default_rng(0).integers(0, top, shape, endpoint=True, dtype=np.uint16)
    values.flat[:2] = 0, top
    wanted = np.rint(values.astype(np.float64) / top * 255).astype(np.uint8)
    wanted = np.repeat(wanted[..., None], 3, 2) if len(shape) == 2 else wanted
    assert np.array_equal(as_array(values, bit_depth=bit_depth), wanted)
    for path in _files(tmp_path, values):
        assert np.array_equal(load_image(path, bit_depth=bit_depth), wanted), path
        with Image.open(path) as image:
            assert np.array_equal(as_array(image, bit_depth=bit_depth), wanted), path


def test_16_bit_images_are_turned_too(tmp_path):
    values = np.arange(12 * 20 * 3, dtype=np.uint16).reshape(12, 20, 3) * 90
    for name, array in (("grey", values[..., 0]), ("rgb", values)):
        plain = next(_files(tmp_path, array, name))
        exif = Image.Exif()
        exif[274] = 6
        start, chunk = plain.read_bytes(), b"eXIf" + exif.tobytes()[6:]
        chunk = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        plain.write_bytes(start[:33] + chunk + start[33:])
        assert np.array_equal(load_image(plain), np.rot90(as_array(array), -1))
        assert np.array_equal(load_image(plain, exif=False), as_array(array))


def test_floats_of_a_file_and_negative_numbers_are_refused(tmp_path):
    floats = np.linspace(0, 1, 240, dtype=np.float32).reshape(12, 20)
    Image.fromarray(floats).save(tmp_path / "a.tiff")
    for image in (tmp_path / "a.tiff", (tmp_path / "a.tiff").read_bytes()):
        with pytest.raises(ImageError, match=r"has floats from 0 to 1, .*save it with 8 or 16 bits"):
            as_array(image)
    for values in (np.full((4, 5), -1, np.int32), np.full((4, 5), 2**20, np.int32)):
        Image.fromarray(values).save(tmp_path / "b.tiff")
        for image in (values, Image.fromarray(values), tmp_path / "b.tiff"):
            with pytest.raises(ImageError, match="wanted 8 or 16 bits"):
                as_array(image)


def test_values_beyond_the_depth_and_dark_images_are_said_once(tmp_path, caplog):
    vitdet.pixels._said.clear()
    dark = np.full((4, 5), 4095, np.uint16)
    assert as_array(dark).max() == 16 and as_array(dark, bit_depth=12).min() == 255 == as_array(dark, bit_depth=8).min()
    for _ in range(3):
        as_array(dark), as_array(dark, bit_depth=8)
    first, second = (record.getMessage() for record in caplog.records)
    assert "no value above 4095" in first and "bit_depth, such as 12" in first
    assert "beyond 8 bits become white" in second


MODES = ["1", "L", "LA", "PA", "P", "RGB", "RGBA", "RGBa", "La", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("error")
def test_every_mode_of_pil_becomes_rgb(mode):
    image = as_array(Image.new(mode, (5, 4)))
    assert image.shape == (4, 5, 3) and image.dtype == np.uint8


@pytest.mark.filterwarnings("error")
def test_transparency_of_palettes_and_further_frames(tmp_path):
    palette = Image.fromarray(RGB // 128 * 200).quantize(8)
    palette.save(tmp_path / "a.png", transparency=bytes([0, 128] + [255] * 6))
    assert np.array_equal(load_image(tmp_path / "a.png"), np.asarray(palette.convert("RGB")))
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    for name, options in (("a.tiff", {}), ("a.gif", {}), ("a.mpo", {"quality": 100})):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert np.abs(load_image(tmp_path / name).astype(int) - [255, 0, 0]).max() < 8, name


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.png"))
        (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
        given = {"pipe.png": "a pipe", "socket.png": "a socket", "link.png": "a pipe", "": "a folder"}
        for name, kind in {**given, "/dev/zero": "a device"}.items():
            for read in (load_image, load_values):
                with pytest.raises(ImageError, match=f"can't be read as an image: it is {kind}"):
                    read(tmp_path / name)


def test_numbers_are_never_changed(tmp_path):
    ids = np.array([[0, 1, 255], [256, 4000, 65535]], np.uint16)
    for path in _files(tmp_path, ids):
        assert np.array_equal(load_values(path), ids), path
    small = np.array([[0, 1, 7]], np.uint8)
    for mode in ("L", "P", "LA"):
        image = Image.fromarray(small)
        if mode == "P":
            image.putpalette(list(range(24))[::-1])
        image.convert(mode).save(tmp_path / "a.png")
        assert np.array_equal(load_values(tmp_path / "a.png"), small), mode
    Image.fromarray(small > 0).save(tmp_path / "1.png")
    assert load_values(tmp_path / "1.png").tolist() == [[0, 1, 1]]
    for mode in ("RGB", "RGBA"):
        Image.fromarray(RGB).convert(mode).save(tmp_path / "c.png")
        assert np.array_equal(load_values(tmp_path / "c.png"), RGB)
    few = Image.fromarray(RGB // 128 * 200).quantize(8)
    few.save(tmp_path / "p.png")
    assert np.array_equal(load_values(tmp_path / "p.png", colours=True), np.asarray(few.convert("RGB")))
    Image.new("F", (4, 4)).save(tmp_path / "f.tiff")
    (deep,) = [path for path in _files(tmp_path, RGB.astype(np.uint16), "rgb") if path.suffix == ".png"]
    for path in (tmp_path / "f.tiff", deep):
        with pytest.raises(ImageError, match="wanted whole numbers, or RGB of 8 bits"):
            load_values(path)


def test_absolute_names_inside_the_folder_are_accepted(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    for root in (folder, tmp_path / "link"):
        for name in (f"{folder}/a.png", f"{tmp_path}/link/a.png", "b/../a.png", "./a.png", "../images/a.png"):
            if (root, name) != (tmp_path / "link", "../images/a.png"):
                assert resolve(root, name).resolve() == (folder / "a.png").resolve(), (root, name)
    for name in (f"{folder}-2/a.png", f"{folder}/../a.png", "../images2/a.png", "a\0.png"):
        with pytest.raises(ImageError, match="leaves the image folder"):
            resolve(folder, name)
