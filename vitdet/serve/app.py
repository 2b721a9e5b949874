"""The paths of the HTTP service."""

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from vitdet import __version__
from vitdet.errors import UserError
from vitdet.serve.asking import kind_of, most_bytes, parse
from vitdet.serve.description import ABOUT, PREDICT, STATES
from vitdet.serve.guard import Access, Guard, refuse
from vitdet.serve.refusal import Gone, Refusal
from vitdet.serve.service import Service

log = logging.getLogger("vitdet")


def create_app(service: Service, access: Access) -> ASGIApp:
    """The ASGI application of a service.

    Args:
        service: what answers.
        access: who may ask.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="vitdet", version=__version__, description=ABOUT, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.add_exception_handler(HTTPException, _known)
    _add_pages(app)
    _add_state(app, service)

    @app.post("/predict", **PREDICT)
    async def predict(request: Request) -> Response:
        try:
            return await _while_there(request, lambda body: _answer(service, request, body), service)
        except Gone:
            # nobody reads it
            return Response(status_code=499)
        except Refusal as refusal:
            return refuse(refusal)
        except UserError as error:
            return refuse(Refusal(422, str(error)))
        except Exception:
            log.exception("a request failed")
            return refuse(Refusal(500, "this is a fault of the server's; its log has the reason"))

    guarded: ASGIApp = Guard(app, access=access, metrics=service.metrics)
    if not access.origins:
        return guarded
    # outside of all else: browsers ask without the key whether they may send it, and refusals are for them, too
    return CORSMiddleware(guarded, allow_origins=access.origins, allow_methods=["*"], allow_headers=["*"])


async def _while_there(request: Request, work: Callable[[bytes], Any], service: Service) -> Response:
    """The result of `work` on the body of a request, unless its sender goes away meanwhile."""
    service.check_room()
    kind = kind_of(request.headers)
    most = most_bytes(kind, service.limits)
    with contextlib.ExitStack() as held:
        try:
            body = await asyncio.wait_for(_body(request, most, service, held), service.limits.timeout)
        except asyncio.TimeoutError as error:
            raise Refusal(408, f"the request was not received within {service.limits.timeout:g} seconds") from error
        answering = asyncio.ensure_future(work(body))
        leaving = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise Gone
            return answering.result()
        finally:
            for task in (answering, leaving):
                task.cancel()


async def _body(request: Request, most: int, service: Service, held: contextlib.ExitStack) -> bytes:
    """The body, whose bytes are counted as held as they arrive.

    Raises:
        Refusal: 413, it is larger than `most`; 429, too many bytes are held.
        Gone: the sender went away.
    """
    told = request.headers.get("content-length", "0")
    if told.isdecimal() and int(told) > most:
        raise Refusal(413, f"the request has {int(told):,} bytes; at most {most:,} are taken")
    pieces: list[bytes] = []
    count, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Gone
        piece = message.get("body", b"")
        count += len(piece)
        if count > most:
            raise Refusal(413, f"the request has more than {most:,} bytes")
        held.enter_context(service.held(len(piece)))
        pieces.append(piece)
        more = message.get("more_body", False)
    return b"".join(pieces)


async def _answer(service: Service, request: Request, body: bytes) -> Response:
    query, limits = dict(request.query_params), service.limits
    kind = kind_of(request.headers)
    asked = await parse(body, kind, request.headers, query, service.detector.classes, limits)
    answer, content_type = await service.answer(asked)
    return Response(answer, media_type=content_type)


def _add_state(app: FastAPI, service: Service) -> None:
    """What the server says of itself."""

    @app.get("/health", summary="Whether the server is alive and ready", tags=["state"], responses=STATES)
    async def health() -> Response:
        return _state(service, service.alive and service.state == "ready")

    @app.get("/health/live", summary="503 where the process should be started anew", tags=["state"], responses=STATES)
    async def live() -> Response:
        return _state(service, service.alive)

    @app.get("/health/ready", summary="503 where requests should go elsewhere", tags=["state"], responses=STATES)
    async def ready() -> Response:
        return _state(service, service.alive and service.state == "ready")

    @app.get("/model", summary="The model: classes, thresholds, limits", tags=["state"])
    async def model() -> dict[str, Any]:
        told = ("max_bytes", "max_pixels", "batch_pixels", "timeout")
        detector = service.detector
        return {
            "name": service.name,
            "version": service.version,
            "vitdet": __version__,
            "classes": detector.classes,
            "category_ids": detector.category_ids,
            "thresholds": detector.thresholds,
            "masks": service.dense,
            "limits": {name: getattr(service.limits, name) for name in told},
        }

    @app.get("/metrics", summary="Counters for Prometheus", tags=["state"])
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _state(service: Service, good: bool) -> Response:
    told = json.dumps({"state": service.state, "alive": service.alive})
    return Response(told, 200 if good else 503, media_type="application/json")


def _add_pages(app: FastAPI) -> None:
    for path, name in (("/", "page.html"), ("/docs", "docs.html")):
        text = resources.files("vitdet.serve").joinpath(name).read_text(encoding="utf-8")
        _add_page(app, path, text, {"content-security-policy": policy(text)})

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(status_code=204)


def _add_page(app: FastAPI, path: str, text: str, headers: dict[str, str]) -> None:
    @app.get(path, include_in_schema=False)
    async def page() -> Response:
        return Response(text, media_type="text/html", headers=headers)


def policy(page: str) -> str:
    """The content security policy of a page: it runs its own script, and reaches nothing but its server.

    Example:
        >>> policy("<script>1</script>")
        "default-src 'none'; script-src 'sha256-..."
    """
    parts = {
        kind: " ".join(_hash(text) for text in re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL))
        for kind in ("script", "style")
    }
    return (
        f"default-src 'none'; script-src {parts['script']}; style-src {parts['style']}; img-src 'self' blob: data:; "
        "media-src 'self' blob: mediastream:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


async def _known(request: Request, error: Exception) -> Response:
    """What FastAPI itself refuses, such as unknown paths, in the form of all refusals."""
    assert isinstance(error, HTTPException)
    texts = {404: "there is no such path; /docs lists them", 405: "this path takes other methods; /docs lists them"}
    answer = refuse(Refusal(error.status_code, texts.get(error.status_code, str(error.detail))))
    answer.headers.update(error.headers or {})
    return answer
