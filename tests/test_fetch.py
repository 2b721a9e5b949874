"""Images from a real server on this machine: what works, and how long and how large an answer may be."""

import http.server
import io
import os
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitdet.fetch import fetch, is_url
from vitdet.images import ImageError, as_array

RGB = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def png():
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "PNG")
    return file.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.strip("/").split("?")[0]
        getattr(self, name, self.missing)() if name.isidentifier() else self.image()

    def answer(self, content, kind="image/png", length=None, status=200, **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length != "none":
            self.send_header("Content-Length", str(len(content) if length is None else length))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def image(self):
        self.answer(png())

    def missing(self):
        self.send_error(404)

    def page(self):
        self.answer(b"<html>", "text/html; charset=utf-8")

    def text(self):
        self.answer(b"no image", "text/plain")

    def empty(self):
        self.answer(b"")

    def broken(self):
        self.send_error(503)

    def moved(self):
        self.answer(b"", status=302, Location="/a.png")

    def circle(self):
        self.answer(b"", status=302, Location="/circle")

    def to_file(self):
        self.answer(b"", status=302, Location="file:///etc/passwd")

    def to_ftp(self):
        self.answer(b"", status=302, Location="ftp://127.0.0.1/a.png")

    def cut(self):
        self.answer(png()[:50], length=len(png()))

    def large(self):
        self.answer(b"", length=10**12)

    def endless(self):
        self.answer(b"", length="none")
        for _ in range(1000):
            self.wfile.write(bytes(4096))

    def drip(self):
        self.answer(b"", length=10**6)
        self.slowly(b"x" * 1000)

    def drip_head(self):
        self.slowly(b"HTTP/1.1 200 OK\r\n" + b"X-Long: y\r\n" * 99)

    def silent(self):
        time.sleep(3)

    def slowly(self, content):
        try:
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("place", ["a.png", "a.png?size=3&x=ü", "ein%20Bär.png", "moved"])
def test_an_image_on_the_network(site, place):
    assert np.array_equal(as_array(f"{site}/{place}"), RGB)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("missing", "the server answers 404 Not Found"),
        ("broken", "the server answers 503"),
        ("page", "is a page, not an image"),
        ("text", "can't be read as an image"),
        ("empty", "can't be read as an image"),
        ("circle", "the server answers 302"),
        ("to_file", "the server answers 302 .*edirection to url 'file:///etc/passwd' is not allowed"),
        ("to_ftp", "unknown url type: ftp"),
        ("cut", r"50 of \d+ bytes came; try again"),
        ("large", "has 1,000,000,000,000 bytes, more than 104,857,600"),
    ],
)
def test_what_a_server_may_answer_instead(site, place, said):
    with pytest.raises(ImageError, match=said) as caught:
        as_array(f"{site}/{place}")
    assert f"{site}/{place}" in str(caught.value)


def test_limits_on_bytes_that_are_not_announced(site):
    with pytest.raises(ImageError, match="has more than 100,000 bytes"):
        fetch(f"{site}/endless", limit=100_000)


@pytest.mark.parametrize("place", ["drip", "drip_head", "silent"])
def test_limits_on_time_however_slowly_bytes_come(site, place):
    start = time.perf_counter()
    with pytest.raises(ImageError, match=r"takes longer than 0\.3 s; download it"):
        fetch(f"{site}/{place}", seconds=0.3)
    assert time.perf_counter() - start < 2


def test_a_handshake_that_never_ends():
    with socket.create_server(("127.0.0.1", 0)) as server:
        start = time.perf_counter()
        with pytest.raises(ImageError, match=r"can't be fetched: .*download it, and give the file"):
            fetch(f"https://127.0.0.1:{server.getsockname()[1]}/a.png", seconds=0.3)
        assert time.perf_counter() - start < 2


def test_no_server_and_no_address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    for url in (
        f"http://127.0.0.1:{closed}/a.png",
        "http://no.invalid/a.png",
        "http://",
        "http://[/a.png",
        "https://a b",
    ):
        with pytest.raises(ImageError, match="can't be fetched: "):
            fetch(url)
    for url in ("ftp://127.0.0.1/a.png", "file:///etc/passwd", "s3://bucket/a.png"):
        assert is_url(url)
        with pytest.raises(ImageError, match="wanted http:// or https://"):
            as_array(url)
    assert not any(map(is_url, ("a.png", "C:\\a.png", "a//b", Path("http://x"), b"http://x", 3)))


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(png())))
    assert np.array_equal(as_array("-"), RGB)
    with pytest.raises(ImageError, match="standard input is empty, or has been read before"):
        as_array("-")
    master, terminal = os.openpty()
    with open(terminal, encoding="utf-8") as file, open(master, "rb"):
        monkeypatch.setattr(sys, "stdin", file)
        with pytest.raises(ImageError, match="standard input is a terminal; pipe an image into it"):
            as_array("-")
