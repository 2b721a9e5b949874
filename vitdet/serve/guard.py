"""Who may ask a server, from where, and the headers that tell browsers what to leave alone."""

import hashlib
import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitdet.serve.metrics import Metrics
from vitdet.serve.refusal import Refusal

LOOPBACK = ("localhost", "127.0.0.1", "::1")
# without a key: what monitors the process, and pages that hold nothing of anybody's
OPEN = ("/", "/docs", "/openapi.json", "/favicon.ico", "/health", "/health/live", "/health/ready")
PATHS = (*OPEN, "/predict", "/model", "/metrics")
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
# of answers that are no pages: nothing in them is ever run
NOTHING = "default-src 'none'; frame-ancestors 'none'"


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may ask.

    Args:
        keys: a request needs one of these, if there are any.
        hosts: the names by which the server may be called; any, if there are none.
        origins: the pages of other servers that may use this one, such as `https://example.org`.
    """

    keys: Sequence[str] = ()
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()

    def check(self, path: str, method: str, headers: Headers) -> None:
        """Checks a request by its head.

        Raises:
            Refusal: 401 without the key, 403 from a page elsewhere, 421 under another name.
        """
        host = headers.get("host", "")
        if self.hosts and _name_of(host) not in self.hosts:
            raise Refusal(421, "this server is not called by that name; `--allow_host NAME` lets it be")
        origin = headers.get("origin")
        if origin is not None and method not in ("GET", "HEAD") and origin not in self.origins:
            # a page of another server can send forms to this one, but browsers say where they come from
            try:
                own = urlsplit(origin).netloc == host
            except ValueError:
                own = False
            if not own:
                raise Refusal(403, "pages of other servers may not use this one; `--cors ORIGIN` allows it")
        if self.keys and path not in OPEN and not self._has_key(headers):
            raise Refusal(401, "a key is needed: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`")

    def _has_key(self, headers: Headers) -> bool:
        word, _, given = headers.get("authorization", "").partition(" ")
        if word.lower() != "bearer":
            given = headers.get("x-api-key", "")
        digest = _digest(given.strip())
        # all are compared, and in constant time, so that the time tells nothing about them
        return sum(hmac.compare_digest(digest, _digest(key)) for key in self.keys) > 0


class Guard:
    """The outermost layer: checks the head of each request, counts its answer, and adds headers.

    Args:
        app: the layers inside.
        access: who may ask.
        metrics: where answers are counted.
    """

    def __init__(self, app: ASGIApp, *, access: Access, metrics: Metrics) -> None:
        self._app, self._access, self._metrics = app, access, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, path = time.perf_counter(), scope["path"]

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**HEADERS, "content-security-policy": NOTHING}.items():
                    headers.setdefault(name, value)
                known = path if path in PATHS else "other"
                self._metrics.requests.labels(known, str(message["status"])).inc()
                self._metrics.seconds.labels(known).observe(time.perf_counter() - began)
            await send(message)

        try:
            self._access.check(path, scope["method"], Headers(scope=scope))
        except Refusal as refusal:
            await refuse(refusal)(scope, receive, sending)
            return
        # what can be got can be asked for its head alone, as monitors do; the server leaves the body out
        await self._app({**scope, "method": "GET"} if scope["method"] == "HEAD" else scope, receive, sending)


def refuse(refusal: Refusal, request: Request | None = None) -> JSONResponse:
    """The answer that says why there is none."""
    told = {"error": refusal.message, "status": refusal.status}
    headers = refusal.headers() | ({"www-authenticate": "Bearer"} if refusal.status == 401 else {})
    return JSONResponse(told, refusal.status, headers)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server at `host`."""
    return host in LOOPBACK or host.startswith("127.")


def _name_of(host: str) -> str:
    """The name in a `Host` header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
