"""Images from the network and from standard input, with limits on time and size."""

import contextlib
import http.client
import os
import re
import socket
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from vitdet.pixels import ImageError

# what stands for standard input in place of a path
STDIN = "-"
# the seconds that an image may take in all, and the bytes that it may have
SECONDS, BYTES = 30.0, 100 * 2**20
CHUNK = 1 << 16
AGENT = "vitdet (https://pypi.org/project/vitdet)"


def is_url(image: Any) -> bool:
    """Whether a path is an address on the network, of whatever kind.

    Example:
        >>> is_url("https://example.org/a.jpg"), is_url("a:b.jpg")
        (True, False)
    """
    return isinstance(image, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", image) is not None


def fetch(url: str, *, seconds: float = SECONDS, limit: int = BYTES) -> bytes:
    """The file at an address.

    Proxies are taken from the environment, and redirections followed. Nothing keeps it from addresses of the own
    network: a server must not give it what strangers ask for.

    Args:
        url: an address that begins with `http://` or `https://`.
        seconds: the time that all of it may take.
        limit: the largest number of bytes.

    Raises:
        ImageError: the address is of another kind, there is no answer or another than the file, it is a page of text,
            larger than `limit`, or takes longer than `seconds`.
    """
    if not re.match("https?://", url, re.IGNORECASE):
        raise ImageError(f"{url} can't be fetched: wanted http:// or https://, or the path of a file")
    with _Deadline(seconds) as deadline:
        try:
            address = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
            request = urllib.request.Request(address, headers={"User-Agent": AGENT})
            with deadline.opener().open(request, timeout=seconds) as answer:
                if answer.headers.get_content_type() == "text/html":
                    raise ImageError(f"{url} is a page, not an image; give the address of the image itself")
                content = _read(answer, url, limit)
                wanted = answer.headers.get("Content-Length", "")
        except urllib.error.HTTPError as error:
            with error:
                raise ImageError(f"{url} can't be fetched: the server answers {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, ImageError):
                raise
            reason = getattr(error, "reason", None) or error
            late = f"it takes longer than {seconds:g} s" if deadline.over else str(reason)
            raise ImageError(f"{url} can't be fetched: {late}; download it, and give the file") from error
    if deadline.over:
        raise ImageError(f"{url} can't be fetched: it takes longer than {seconds:g} s; download it, and give the file")
    if wanted.isdigit() and len(content) < int(wanted):
        raise ImageError(f"{url} can't be fetched: {len(content):,} of {wanted} bytes came; try again")
    return content


def _read(answer: Any, url: str, limit: int) -> bytes:
    parts, size = [], 0
    said = answer.headers.get("Content-Length", "")
    if said.isdigit() and int(said) > limit:
        raise ImageError(f"{url} has {int(said):,} bytes, more than {limit:,}; download it, and give the file")
    while chunk := answer.read(CHUNK):
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            raise ImageError(f"{url} has more than {limit:,} bytes; download it, and give the file")
    return b"".join(parts)


class _Deadline:
    """Shuts connections down when time is up: the timeout of a socket begins anew with every byte."""

    def __init__(self, seconds: float) -> None:
        self.over = False
        self._copies: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> "_Deadline":
        self._timer.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._timer.cancel()
        for copy in self._copies:
            copy.close()

    def _end(self) -> None:
        self.over = True
        for copy in self._copies:
            with contextlib.suppress(OSError):
                copy.shutdown(socket.SHUT_RDWR)

    def _connect(self, *args: Any, **options: Any) -> socket.socket:
        connection = socket.create_connection(*args, **options)
        # a copy, because TLS takes the socket itself over
        self._copies.append(socket.socket(fileno=os.dup(connection.fileno())))
        return connection

    def opener(self) -> urllib.request.OpenerDirector:
        """Opens http and https only, also where a server redirects to something else."""
        connect = self._connect

        def watched(kind: type) -> Any:
            def connection(*args: Any, **options: Any) -> Any:
                made = kind(*args, **options)
                made._create_connection = connect
                return made

            return connection

        class Plain(urllib.request.HTTPHandler):
            def http_open(self, request: Any) -> Any:
                return self.do_open(watched(http.client.HTTPConnection), request)

        class Secure(urllib.request.HTTPSHandler):
            def https_open(self, request: Any) -> Any:
                return self.do_open(watched(http.client.HTTPSConnection), request)

        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.UnknownHandler(),
            Plain(),
            Secure(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPErrorProcessor(),
        ):
            opener.add_handler(handler)
        return opener


def standard_input() -> bytes:
    """All bytes of standard input.

    Raises:
        ImageError: it is a terminal, or empty, as it is once it has been read.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise ImageError("standard input is a terminal; pipe an image into it: vitdet predict MODEL - < photo.jpg")
    content = sys.stdin.buffer.read()
    if not content:
        raise ImageError("standard input is empty, or has been read before; give `-` once")
    return content
