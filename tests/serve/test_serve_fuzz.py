"""Whatever is sent, nothing is answered by a fault of the server."""

import base64
import contextlib
import http.client
import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from servers import encoded, photo

KINDS = ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]
FILES = {kind: encoded(photo(size=(20, 24)), kind) for kind in KINDS}
TYPES = ["image/png", "image/jpeg", "application/octet-stream", "application/json", "multipart/form-data", "text/html"]
TYPES += ["multipart/form-data; boundary=a", "multipart/form-data; boundary=", "application/json; charset=utf-16"]
FUZZ = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def ask(url):
    """Sends a request, and gives the status and the body."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)

    def send(body, headers, query=""):
        try:
            connection.request("POST", f"/predict{query}", body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    yield send
    # and it is as good as new
    status, body = send(FILES["PNG"], {"content-type": "image/png"})
    assert status == 200 and json.loads(body)["objects"]


def good(answer, allowed=(200, 400, 413, 415, 422)):
    status, body = answer
    assert status in allowed, (status, body[:300])
    told = json.loads(body)
    assert ("objects" in told) == (status == 200) and ("error" in told) == (status != 200)


edits = st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=0, max_size=6), st.integers(0, 6)), max_size=5)


@FUZZ
@given(st.sampled_from(KINDS), edits, st.floats(0, 1), st.booleans())
def test_damaged_files(ask, kind, changes, end, cut):
    data = bytearray(FILES[kind])
    for place, new, length in changes:
        at = int(place * len(data))
        data[at : at + length] = new
    if cut:
        del data[int(end * len(data)) :]
    good(ask(bytes(data), {"content-type": "image/png"}))


@FUZZ
@given(st.binary(max_size=300), st.sampled_from(TYPES), st.text('threshold=masks&%?0123456789.-{}":a', max_size=30))
@example(b"--a\r\n\r\n\r\n--a--", "multipart/form-data; boundary=a", "")
def test_any_bytes_of_any_type(ask, body, kind, query):
    with contextlib.suppress(http.client.InvalidURL):
        good(ask(body, {"content-type": kind}, "?" + query.replace('"', "%22").replace(" ", "%20")))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("cat"), inner, max_size=3)
    ),
    max_leaves=6,
)
names = st.sampled_from(["threshold", "masks", "output", "image", "url", "x"])


@settings(FUZZ, max_examples=60)
@given(st.dictionaries(names, values, max_size=4), st.booleans())
def test_any_json(ask, given, with_image):
    if with_image:
        given = {**given, "image": base64.b64encode(FILES["PNG"]).decode(), "output": "json"}
    good(ask(json.dumps(given).encode(), {"content-type": "application/json"}), (200, 400, 403, 413, 422))


fields = st.lists(st.tuples(st.text(max_size=12), st.binary(max_size=40)), max_size=4)


@FUZZ
@given(fields, st.booleans(), st.binary(max_size=20))
def test_any_form(ask, fields, with_file, end):
    body = b""
    for name, value in fields:
        body += b'--a\r\nContent-Disposition: form-data; name="' + name.encode() + b'"\r\n\r\n' + value + b"\r\n"
    if with_file:
        body += b'--a\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + FILES["PNG"] + b"\r\n"
    good(ask(body + b"--a--\r\n" + end, {"content-type": "multipart/form-data; boundary=a"}))


@settings(FUZZ, max_examples=60)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]),
    st.sampled_from([*KINDS, "JPEG2000"]),
    st.integers(0, 9),
)
def test_images_of_all_modes_and_sizes(ask, height, width, mode, kind, turn):
    """Every file that PIL writes is answered, or refused in words."""
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels[..., 0].astype(np.uint16)) if mode == "I;16" else Image.fromarray(pixels)
    image = image if mode == "I;16" else image.convert("L").convert(mode) if mode in "IF" else convert(image, mode)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = turn
    try:
        image.save(file, kind, exif=exif)
    except (OSError, ValueError, TypeError, KeyError):
        return
    good(ask(file.getvalue(), {"content-type": "image/png"}), (200, 422))


def convert(image, mode):
    return image.convert("RGB") if mode == "LAB" else image.convert(mode)
