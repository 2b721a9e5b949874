"""A storage that speaks as much of S3's protocol as reading needs, and plain HTTP, and fails on demand.

`python storage.py FOLDER` serves `FOLDER/BUCKET/KEY`, and prints its port. It runs as a process of its own, without a
library. In place of the files of the folder, it can pass requests on to another storage: `python storage.py URL`. A
second argument is how many seconds each answer takes.
"""

import contextlib
import hashlib
import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from email.utils import formatdate
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

# nothing at all, an answer that says so, half of the content, half of it as if it were all, a connection that breaks
KINDS = ("silence", "busy", "cut", "short", "reset")
# so that also small folders have several pages
PAGE = 5
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
MISSING = b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"


class Server(ThreadingHTTPServer):
    """What it counts: how often each path was asked for, and how often it failed."""

    daemon_threads, request_queue_size = True, 64

    def __init__(self, source: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.source, self.lock = source, threading.Lock()
        self.faults: dict = {}
        self.asked, self.failed = Counter(), Counter()

    def handle_error(self, *_) -> None:
        """A client that gives up is nothing to speak of."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_) -> None:
        pass

    def do_PUT(self) -> None:
        """Sets the faults, and begins to count anew."""
        self.server.faults = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.clear(), self.server.failed.clear()
        self._answer(200, b"")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path == "/-/counts":
            with self.server.lock:
                counts = {"asked": dict(self.server.asked), "failed": dict(self.server.failed)}
            return self._answer(200, json.dumps(counts).encode())
        kind = self._fault()
        if kind == "silence":
            time.sleep(self.server.faults.get("seconds", 30))
            return self._break()
        if kind == "reset":
            return self._break()
        if kind == "busy":
            return self._answer(503, BUSY)
        if kind == "denied":
            return self._answer(403, DENIED)
        time.sleep(self.server.faults.get("latency", 0))
        status, content, headers = self._passed_on() if "://" in self.server.source else self._stored()
        if status < 300 and kind == "short" and self.command == "GET":
            content = content[: len(content) // 2]
        self._answer(status, content, headers, cut=kind == "cut")

    def _fault(self) -> str | None:
        """How this request fails, which depends on its path, and on how often that was asked for, alone."""
        faults, path = self.server.faults, unquote(urlsplit(self.path).path)
        listing = "list-type" in self.path
        with self.server.lock:
            self.server.asked[path] += 1
            kinds = faults.get("kinds", ())
            wanted = listing if faults.get("listing") else faults.get("path", "") in path and not listing
            if not kinds or not wanted or self.command not in faults.get("commands", ("GET",)):
                return None
            number = int.from_bytes(hashlib.md5(f"{faults.get('seed')} {path}".encode()).digest()[:4], "little")
            times = faults["times"] if faults.get("always") else number % (faults["times"] + 1)
            if self.server.failed[path] >= times:
                return None
            self.server.failed[path] += 1
            return kinds[(number // 7 + self.server.failed[path]) % len(kinds)]

    def _break(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _answer(self, status: int, content: bytes, headers: dict | None = None, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):
                self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True

    def _passed_on(self) -> tuple[int, bytes, dict]:
        parts = urlsplit(self.server.source)
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        connection.request(self.command, self.path, headers=dict(self.headers))
        with contextlib.closing(connection), connection.getresponse() as answer:
            content = answer.read()
            kept = ("ETag", "Last-Modified", "Content-Type", "Content-Range")
            headers = {name: value for name in kept if (value := answer.headers.get(name))}
            if self.command == "HEAD" and answer.headers.get("Content-Length"):
                headers["Content-Length"] = answer.headers["Content-Length"]
            return answer.status, content, headers

    def _stored(self) -> tuple[int, bytes, dict]:
        parts = urlsplit(self.path)
        path = Path(self.server.source, unquote(parts.path).strip("/"))
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if "list-type" in query:
            return 200, self._listed(path, query), {"Content-Type": "application/xml"}
        if not path.is_file():
            return 404, MISSING, {"Content-Type": "application/xml"}
        content, status = path.read_bytes(), 200
        headers = {
            "ETag": f'"{hashlib.md5(content).hexdigest()}"',
            "Last-Modified": formatdate(path.stat().st_mtime, usegmt=True),
            "Content-Type": "application/octet-stream",
        }
        if (part := self.headers.get("Range")) and self.command == "GET":
            first, last = part.removeprefix("bytes=").split("-")
            total, start = len(content), int(first)
            content, status = content[start : int(last) + 1 if last else None], 206
            headers["Content-Range"] = f"bytes {start}-{start + len(content) - 1}/{total}"
        return status, content, headers

    def _listed(self, bucket: Path, query: dict[str, str]) -> bytes:
        """A page of the names that begin with a prefix; names below a delimiter are one."""
        prefix, end, after = (query.get(key, "") for key in ("prefix", "delimiter", "continuation-token"))
        keys = sorted(path.relative_to(bucket).as_posix() for path in bucket.rglob("*") if path.is_file())
        keys = [key for key in keys if key.startswith(prefix)]
        folders = {key[: key.index(end, len(prefix)) + 1] for key in keys if end and end in key[len(prefix) :]}
        items = sorted(folders.union(key for key in keys if not end or end not in key[len(prefix) :]))
        page = [item for item in items if item > after][: min(PAGE, int(query.get("max-keys", PAGE)))]
        more = bool(page) and page[-1] != items[-1]
        text = [f"<IsTruncated>{str(more).lower()}</IsTruncated><KeyCount>{len(page)}</KeyCount>"]
        text += [f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>"] if more else []
        for item in page:
            if item in folders:
                text.append(f"<CommonPrefixes><Prefix>{escape(item)}</Prefix></CommonPrefixes>")
                continue
            facts, tag = (bucket / item).stat(), hashlib.md5((bucket / item).read_bytes()).hexdigest()
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(facts.st_mtime))
            text.append(
                f"<Contents><Key>{escape(item)}</Key><Size>{facts.st_size}</Size><ETag>&quot;{tag}&quot;</ETag>"
                f"<LastModified>{when}</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
            )
        return f'<?xml version="1.0"?><ListBucketResult>{"".join(text)}</ListBucketResult>'.encode()


class Storage:
    """A storage in a process of its own.

    Args:
        source: the folder whose files it has, or the address of the storage that it passes requests on to.
    """

    def __init__(self, source: Path | str) -> None:
        self.process = subprocess.Popen([sys.executable, __file__, str(source)], stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().strip()}"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    @contextlib.contextmanager
    def failing(self, kinds: Sequence[str] = (), times: int = 1, **faults) -> Iterator[None]:
        """Fails inside the statement.

        Args:
            kinds: in which ways, in turn.
            times: how often a path fails at most.
            faults: `always`: as often as that, else as often as a hash of the path says; `path`: only paths with this
                in them; `listing`: only lists; `latency`: the seconds before an answer; `seconds`: those of silence;
                `commands`: GET, HEAD.
        """
        self.set(kinds=list(kinds), times=times, **faults)
        try:
            yield
        finally:
            self.set()

    def set(self, **faults) -> None:
        body = json.dumps(faults).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/-/faults", body, method="PUT")):
            pass

    def counts(self, kind: str = "asked") -> Counter:
        """How often each path was asked for, or has failed, since the faults were set."""
        with urllib.request.urlopen(f"{self.url}/-/counts") as answer:
            return Counter(json.load(answer)[kind])


if __name__ == "__main__":
    server = Server(sys.argv[1])
    server.faults = {"latency": float(sys.argv[2]) if len(sys.argv) > 2 else 0}
    print(server.server_address[1], flush=True)
    # ends with the process that started it
    parent = os.getppid()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while os.getppid() == parent:
        time.sleep(0.5)
