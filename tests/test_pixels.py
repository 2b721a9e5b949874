"""The same picture in every form that it can be given in; each form that is none is refused with a sentence."""

import io

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitdet.images import ImageError, as_array
from vitdet.pixels import NoImageError, array_rgb

RGB = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
RGBA = np.dstack([RGB, np.full((12, 20), 7, np.uint8)])
GREY = np.repeat(RGB[..., :1], 3, 2)
TENSOR = torch.from_numpy(RGB).permute(2, 0, 1)
PNG = cv2.imencode(".png", RGB[..., ::-1])[1].tobytes()


def file_of(content):
    file = io.BytesIO(content)
    file.seek(0)
    return file


FORMS = {
    "array": RGB,
    "bytes": PNG,
    "bytearray": bytearray(PNG),
    "memoryview": memoryview(PNG),
    "open file": file_of(PNG),
    "PIL": Image.fromarray(RGB),
    "PIL from a file": Image.open(file_of(PNG)),
    "RGBA": RGBA,
    "float32": RGB.astype(np.float32) / 255,
    "float64": RGB / 255,
    "float RGBA": RGBA / 255,
    "uint16": RGB.astype(np.uint16) * 257,
    "uint32": RGB.astype(np.uint32) * 257,
    "tensor": TENSOR,
    "float tensor": TENSOR.float() / 255,
    "double tensor with a gradient": (TENSOR.double() / 255).requires_grad_(),
    "bfloat16 tensor": None,
    "uint16 tensor": torch.from_numpy(RGB.astype(np.uint16) * 257).permute(2, 0, 1),
    "RGBA tensor": torch.from_numpy(RGBA).permute(2, 0, 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_rgb_in_every_form(form):
    image = FORMS[form]
    if image is None:
        # 8 bits of precision are not enough for 256 values
        flat = torch.tensor([[[0.0, 1.0]]] * 3, dtype=torch.bfloat16)
        assert as_array(flat).tolist() == [[[0] * 3, [255] * 3]]
        return
    assert np.array_equal(as_array(image), RGB)


@pytest.mark.parametrize(
    "image",
    [
        GREY[..., 0],
        GREY[..., :1],
        GREY[..., 0] / 255,
        GREY[..., 0].astype(np.uint16) * 257,
        torch.from_numpy(GREY[..., 0].copy()),
        torch.from_numpy(GREY[..., 0].copy())[None],
        torch.from_numpy(GREY[..., 0].copy())[None].float() / 255,
        Image.fromarray(GREY[..., 0]),
        Image.fromarray(GREY[..., 0]).convert("LA"),
        Image.fromarray(GREY[..., 0].astype(np.uint16) * 257),
        Image.fromarray(GREY[..., 0].astype(np.float32) / 255),
        Image.fromarray(GREY[..., 0].astype(np.int32) * 257),
    ],
    ids=lambda image: f"{type(image).__name__}-{getattr(image, 'dtype', None) or image.mode}",
)
def test_grey_in_every_form(image):
    assert np.array_equal(as_array(image), GREY)


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "P", "PA", "LA", "La", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"],
)
def test_every_mode_of_pil(mode):
    """A grey that all modes can hold; those of colour spaces are rounded."""
    if mode in ("I", "I;16"):
        image = Image.fromarray(np.full((3, 5), 200 * 257, np.uint16)).convert(mode)
    elif mode == "F":
        image = Image.fromarray(np.full((3, 5), 200 / 255, np.float32))
    elif mode == "LAB":
        # L* of the grey 200 is 80.6 of 100
        image = Image.new("LAB", (5, 3), (round(80.6 * 2.55), 128, 128))
    else:
        grey = Image.new("L", (5, 3), 255 if mode == "1" else 200)
        between = {"La": "LA", "RGBa": "RGBA", "HSV": "RGB", "PA": "P", "LAB": "RGB"}.get(mode)
        image = (grey.convert(between) if between else grey).convert(mode)
    wanted = 255 if mode == "1" else 200
    assert image.mode == mode
    found = as_array(image)
    assert found.shape == (3, 5, 3) and found.dtype == np.uint8 and np.abs(found.astype(int) - wanted).max() <= 2


def test_truth_values_are_black_and_white():
    mask = np.array([[True, False]])
    for image in (mask, torch.from_numpy(mask), Image.fromarray(mask)):
        assert as_array(image).tolist() == [[[255] * 3, [0] * 3]]


@settings(max_examples=60, deadline=None)
@given(st.floats(allow_nan=True, allow_infinity=True, width=32))
def test_floats_are_taken_from_0_to_1_and_from_nowhere_else(value):
    image = np.full((2, 2, 3), value, np.float32)
    if -1e-5 <= value <= 1 + 1e-5:
        # products of float32 may round up to a half
        assert abs(as_array(image)[0, 0, 0] - min(max(value, 0), 1) * 255) < 0.50001
        return
    for form in (image, torch.from_numpy(image).permute(2, 0, 1), Image.fromarray(image[..., 0])):
        with pytest.raises(ImageError, match=r"has floats from .*; wanted 0 to 1, where 1 is white"):
            as_array(form)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((2, 12, 20, 3), np.uint8), "a batch is given as a list"),
        (torch.zeros(2, 3, 12, 20), "a batch is given as a list"),
        (np.zeros((3, 12, 20), np.uint8), "channels come last in an array"),
        (torch.zeros(12, 20, 3), "channels come first in a tensor"),
        (np.zeros((0, 20, 3), np.uint8), "wanted a path, a URL"),
        (np.zeros((12, 20, 2), np.uint8), "wanted a path, a URL"),
        (np.zeros((12, 20, 3), np.int64), "wanted uint8, uint16, or floats"),
        (np.zeros((12, 20, 3), np.complex64), "wanted uint8, uint16, or floats"),
        (np.array([["a"]]), "wanted uint8, uint16, or floats"),
        (torch.zeros(3, 2, 2, dtype=torch.int64), "wanted uint8, uint16, or floats"),
        (io.StringIO("text"), "open as text"),
        (None, "got NoneType; wanted a path"),
        (object(), "got object; wanted a path"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_image(image, said):
    with pytest.raises(NoImageError, match=said):
        as_array(image)


def test_bytes_that_are_no_image_or_half_of_one(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    for content, said in (
        (b"text", "can't be read as an image"),
        (b"", "of 0 bytes"),
        (whole[:2000], "can't be decoded"),
    ):
        with pytest.raises(ImageError, match=said):
            as_array(content)
    with pytest.raises(ImageError, match="the image can't be decoded"):
        as_array(Image.open(io.BytesIO(whole[:2000])))
    (tmp_path / "cut.jpg").write_bytes(whole[:2000])
    with open(tmp_path / "cut.jpg", "rb") as file, pytest.raises(ImageError, match=r"cut\.jpg can't be decoded"):
        as_array(file)


def test_integers_of_more_bits_than_given():
    deep = np.array([[0, 4095]], np.uint16)
    assert array_rgb(deep, bit_depth=12)[0, :, 0].tolist() == [0, 255]
    for values in (np.full((2, 2), -1, np.int16), np.full((2, 2), 70_000, np.int32)):
        with pytest.raises(ImageError, match="wanted 8 or 16 bits"):
            array_rgb(values)
