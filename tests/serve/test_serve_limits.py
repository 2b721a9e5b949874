"""What a server refuses, and how: by size, by time, by number, and never with a fault of its own."""

import asyncio
import concurrent.futures
import io
import json
import socket
import struct
import time
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image
from servers import Slow, client, encoded, make_detector, photo, running

from vitdet.errors import UserError
from vitdet.serve.limits import Limits

PNG, JPEG = encoded(photo()), encoded(photo(), "JPEG")


def animated():
    file = io.BytesIO()
    frames = [Image.fromarray(photo(seed)) for seed in range(3)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def bomb(width, height):
    """A PNG of a few kilobytes that says it has this size; its rows would be black."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(10**6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def text_bomb():
    """A PNG with a comment of 200 MB in a few hundred kilobytes."""
    comment = b"zTXt" + b"a\0\0" + zlib.compress(bytes(2 * 10**8), 9)
    chunk = struct.pack(">I", len(comment) - 4) + comment + struct.pack(">I", zlib.crc32(comment))
    return PNG[:33] + chunk + PNG[33:]


def long_side(kind):
    return encoded(np.zeros((1, 60_000, 3), np.uint8), kind)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
BODIES = {  # the body of an image, and the statuses that it may get
    "PNG": (PNG, 200),
    "JPEG": (JPEG, 200),
    "animated GIF": (animated(), 200),
    "1×1": (encoded(np.zeros((1, 1, 3), np.uint8)), 200),
    "60000×1 PNG": (long_side("PNG"), 200),
    "60000×1 JPEG": (long_side("JPEG"), 200),
    "16 bits": (encoded(np.full((9, 9), 40_000, np.uint16)), 200),
    "empty": (b"", 422),
    "cut PNG": (PNG[: len(PNG) // 2], 422),
    "cut JPEG": (JPEG[: len(JPEG) // 2], 422),
    "head of a PNG": (PNG[:20], 422),
    "head of a JPEG": (JPEG[:3], 422),
    "wrong checksum": (PNG[:50] + b"x" + PNG[51:], 422),
    "SVG": (SVG, 422),
    "HTML": (b"<!doctype html><img src=x onerror=alert(1)>", 422),
    "PDF": (b"%PDF-1.4\n%%EOF", 422),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 422),
    "zip": (b"PK\x03\x04" + bytes(99), 422),
    "zeros": (bytes(1000), 422),
    "float TIFF": (None, 422),
    "bomb": (bomb(9_000, 9_000), 413),
    "bomb beyond PIL's own limit": (bomb(60_000, 60_000), 413),
    "size of no image": (bomb(0, 7), 422),
    "rows missing": (bomb(900, 900), 422),
    "text bomb": (text_bomb(), 422),
    "too many bytes": (PNG + bytes(400_000), 413),
}
file = io.BytesIO()
Image.fromarray(np.full((4, 4), 300, np.float32)).save(file, "TIFF")
BODIES["float TIFF"] = (file.getvalue(), 422)


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("form", ["raw", "form"])
def test_bodies(url, name, form):
    data, status = BODIES[name]
    given = {"content": data, "headers": {"content-type": "image/png"}} if form == "raw" else {"files": {"image": data}}
    answer = client.post(f"{url}/predict", **given)
    assert answer.status_code == status, answer.text
    if status != 200:
        told = answer.json()
        assert told["status"] == status and len(told["error"]) > 10 and "Traceback" not in told["error"]


def raw(kind, body):
    return {"content": body, "headers": {"content-type": kind}}


FORM = "multipart/form-data"
FIELD = b'--a\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--a--\r\n'
REQUESTS = {
    "no type": ({"content": PNG}, 415),
    "text": (raw("text/plain", PNG), 415),
    "curl --data": (raw("application/x-www-form-urlencoded", PNG), 415),
    "nonsense type": (raw(";;;", PNG), 415),
    "form without boundary": (raw(FORM, PNG), 400),
    "form with other boundary": (raw(f"{FORM}; boundary=abc", b"--abd\r\n\r\n--abd--"), 400),
    "form cut short": (raw(f"{FORM}; boundary=a", b'--a\r\nContent-Disposition: form-data; name="image"; fi'), 422),
    "form of an unknown encoding": (raw(f"{FORM}; boundary=a; charset=nope", FIELD), 422),
    "empty form": (raw(f"{FORM}; boundary=a", b"--a--\r\n"), 422),
    "form without a file": ({"files": {"x": (None, "1")}}, 422),
    "two files": ({"files": [("a", PNG), ("b", PNG)]}, 400),
    "many fields": ({"files": {"image": PNG}, "data": {f"a{i}": "1" for i in range(50)}}, 400),
    "broken JSON": (raw("application/json", b'{"image": '), 400),
    "no text": (raw("application/json", b"\xff\xfe"), 400),
    "deep JSON": (raw("application/json", b"[" * 100_000), 400),
    "a list": (raw("application/json", b"[]"), 422),
    "a large number": (raw("application/json", b'{"image": ' + b"1" * 9999 + b"}"), 400),
    "no image": ({"json": {}}, 422),
    "both": ({"json": {"image": "", "url": "http://a"}}, 422),
    "number as image": ({"json": {"image": 3}}, 422),
    "no base64": ({"json": {"image": "§§"}}, 422),
    "address": ({"json": {"url": "http://127.0.0.1/"}}, 403),
    "unknown option": ({"files": {"image": PNG}, "data": {"treshold": "0.5"}}, 422),
    "mask": ({"files": {"image": PNG}, "data": {"masks": "all"}}, 422),
    "mask as list": ({"json": {"image": "", "masks": ["rle"]}}, 422),
    **{
        f"threshold {value!r}": ({"files": {"image": PNG}, "data": {"threshold": value}}, 422)
        for value in (
            "-0.1",
            "1.1",
            "nan",
            "inf",
            "-inf",
            "",
            "x",
            "0,5",
            "{",
            "{}x",
            '{"cow": 0.5}',
            '{"cat": NaN}',
            "[0.5]",
        )
    },
    "threshold true": ({"json": {"image": "", "threshold": True}}, 422),
    "threshold list": ({"json": {"image": "", "threshold": [0.5]}}, 422),
    "threshold huge": (raw("application/json", b'{"image": "", "threshold": 1' + b"0" * 4000 + b"}"), 422),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests(url, name):
    given, status = REQUESTS[name]
    answer = client.post(f"{url}/predict", **given)
    assert answer.status_code == status, answer.text
    assert answer.json()["status"] == status


@pytest.mark.parametrize("value", ["nan", "-1", "1e999", "%00", "0.5&masks=x", "0.5&other=1"])
def test_options_in_the_address(url, value):
    answer = client.post(f"{url}/predict?threshold={value}", **raw("image/png", PNG))
    assert answer.status_code == 422


def test_other_paths_and_methods(url):
    assert client.get(f"{url}/predict").status_code == 405
    assert client.post(f"{url}/").status_code == 405
    for path in ("/nothing", "/docs/../../etc/passwd", "/%2e%2e/", "/predict/", "/\x00"):
        assert client.get(url + path.replace("\x00", "%00"), follow_redirects=False).status_code in (404, 307)


def test_what_the_model_would_see_is_bounded():
    """A model that scales the short side would see 600×1 as 38400×64."""
    detector = make_detector()
    detector.transform.size.long_side, detector.transform.size.short_side = None, 64
    with running(detector, batch_pixels=100_000) as url:
        for size, status in (((1, 20), 200), ((1, 600), 413)):
            data = encoded(np.zeros((*size, 3), np.uint8))
            answer = client.post(f"{url}/predict", **raw("image/png", data))
            assert answer.status_code == status, answer.text


@pytest.mark.parametrize(("name", "value"), [("max_batch", 0), ("queue", 1.5), ("timeout", 0), ("max_wait", -1)])
def test_limits_are_checked(name, value):
    with pytest.raises(UserError, match=name):
        Limits(**{name: value})


# ---- numbers and times


@pytest.fixture(scope="module")
def slow():
    return make_detector(Slow)


def send(url, timeout=20):
    return client.post(f"{url}/predict", timeout=timeout, **raw("image/png", PNG))


def at_once(url, count):
    with concurrent.futures.ThreadPoolExecutor(count) as threads:
        return list(threads.map(lambda _: send(url), range(count)))


def test_more_than_the_queue_are_told_to_come_back(slow):
    with running(slow, queue=4, max_batch=2) as url:
        answers = at_once(url, 12)
        counts = {status: [a.status_code for a in answers].count(status) for status in (200, 429)}
        assert counts[200] >= 4 and counts[429] >= 2 and sum(counts.values()) == 12
        told = next(answer for answer in answers if answer.status_code == 429)
        assert int(told.headers["retry-after"]) >= 1 and "try again" in told.json()["error"]
        assert send(url).status_code == 200


def test_what_waits_is_run_in_batches(slow):
    slow.batches = []
    with running(slow, max_batch=4, max_wait=100) as url:
        answers = at_once(url, 8)
    assert {answer.status_code for answer in answers} == {200} and max(slow.batches) == 4
    assert {answer.json()["timing"]["batch"] for answer in answers} <= {1, 2, 3, 4}


def test_an_answer_that_takes_too_long_is_given_up(slow):
    slow.batches = []
    with running(slow, timeout=0.5, max_batch=1, max_wait=0) as url:
        answers = at_once(url, 5)
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 504} and statuses.count(200) >= 1
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 504)
    # one to warm up; what had been given up when its turn came was not run
    assert sum(slow.batches) - 1 < 5


def connect(url):
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), 10)


HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


def test_slow_senders_do_not_hold_the_server(detector):
    with running(detector, timeout=0.6) as url:
        began = time.monotonic()
        heads, bodies, silent = ([connect(url) for _ in range(5)] for _ in range(3))
        for one in heads:
            one.sendall(HEAD)
        for one in bodies:
            one.sendall(HEAD + b"Content-Length: 1000\r\n\r\nabc")
        assert send(url).status_code == 200
        for one in bodies:
            assert b" 408 " in one.recv(1000).split(b"\r\n")[0]
        # a byte now and then does not help
        with pytest.raises(OSError):
            for _ in range(30):
                time.sleep(0.1)
                heads[0].sendall(b"a")
        for one in [*heads[1:], *silent]:
            assert closed(one)
        assert time.monotonic() - began < 8
        assert send(url).status_code == 200
        for one in [*heads, *bodies, *silent]:
            one.close()


def closed(one):
    try:
        return one.recv(1000) == b""
    except ConnectionResetError:
        return True


def test_nobody_runs_the_model_for_who_has_left(slow):
    slow.batches = []
    with running(slow, max_batch=1, max_wait=0) as url:
        leaving = [connect(url) for _ in range(8)]
        for one in leaving:
            one.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(PNG) + PNG)
        time.sleep(0.15)
        for one in leaving:
            one.close()
        assert send(url).status_code == 200
    # one to warm up, one or two that had begun, and the last
    assert sum(slow.batches) <= 4


def test_raw_bytes_that_are_no_request(url):
    for data in (
        b"\x16\x03\x01\x02\x00" + bytes(99),
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"\r\n" * 10,
        HEAD + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
        HEAD + b"".join(b"X%d: a\r\n" % i for i in range(20_000)) + b"\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        HEAD + b"Content-Length: " + b"9" * 19 + b"\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    ):
        with connect(url) as one:
            try:
                one.sendall(data)
                one.shutdown(socket.SHUT_WR)
                answer = one.recv(4096)
            except OSError:
                continue
            assert not answer.startswith(b"HTTP/1.1 5"), (data[:60], answer[:200])
    assert send(url).status_code == 200


def test_bodies_in_pieces_are_counted(url):
    def pieces(size):
        for _ in range(size // 1000):
            yield bytes(1000)

    kind = {"content-type": "image/png"}
    assert client.post(f"{url}/predict", content=pieces(400_000), headers=kind).status_code == 413
    assert client.post(f"{url}/predict", content=pieces(2000), headers=kind).status_code == 422


def test_two_requests_on_one_connection_keep_their_order(url):
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(PNG) + PNG
    with connect(url) as one:
        one.sendall(request + b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = b""
        while piece := one.recv(65536):
            data += piece
    first, second = data.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert b'"objects"' in first and b'"alive"' in second


def test_metrics_count_what_was_answered(detector):
    with running(detector) as url:
        assert [send(url).status_code for _ in range(3)] == [200] * 3
        assert client.post(f"{url}/predict").status_code == 415
        client.get(f"{url}/some/{'x' * 50}")
        text = client.get(f"{url}/metrics").text
    for line in (
        'vitdet_requests_total{path="/predict",status="200"} 3.0',
        'vitdet_requests_total{path="/predict",status="415"} 1.0',
        'vitdet_requests_total{path="other",status="404"} 1.0',
        'vitdet_stage_seconds_count{stage="model"} 3.0',
        "vitdet_waiting_images 0.0",
        'vitdet_model_info{name="tiny.ckpt",version="unknown"} 1.0',
    ):
        assert line in text


def test_distinct_images_get_their_own_answers(detector):
    """Many at once, on connections that stay open."""
    arrays = [photo(seed, (40 + seed, 60)) for seed in range(20)]
    expected = [detector.predict(array, threshold=0.0).boxes_xyxy.numpy() for array in arrays]

    async def ask(session, i):
        answer = await session.post("/predict?threshold=0", **raw("image/png", encoded(arrays[i])))
        told = json.loads(answer.content)
        assert told["size"]["height"] == 40 + i
        np.testing.assert_allclose([one["box"] for one in told["objects"]], expected[i], atol=6e-3)

    async def everybody(url):
        async with httpx.AsyncClient(base_url=url, timeout=30) as session:
            await asyncio.gather(*(ask(session, i % 20) for i in range(100)))

    with running(detector, max_batch=8) as url:
        asyncio.run(everybody(url))
