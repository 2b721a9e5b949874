"""Runs the HTTP service until it is told to stop."""

import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from vitdet.deploy import Detector, load
from vitdet.errors import UserError
from vitdet.serve.addresses import Fetcher
from vitdet.serve.app import create_app
from vitdet.serve.guard import LOOPBACK, Access, is_loopback
from vitdet.serve.limits import Limits
from vitdet.serve.service import Service, version_of

KEY = "VITDET_API_KEY"


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str | None = None,
    limits: Limits | None = None,
    urls: Sequence[str] = (),
    cors: Sequence[str] = (),
    allow_host: Sequence[str] = (),
) -> None:
    """Answers HTTP requests until SIGINT or SIGTERM, and then answers what has been accepted.

    Args:
        model: what `load` takes: a checkpoint, an exported model, or the name of a published one.
        host: the address to listen at; by default only this machine reaches it.
        port: the port, or 0 for any that is free.
        device: the device to run on; by default the best there is.
        limits: how much is accepted at a time.
        urls: where images may be fetched from, see `Fetcher`; by default nowhere.
        cors: the origins of pages of other servers that may use this one.
        allow_host: further names by which a server that only this machine reaches may be called, as behind a proxy.

    Raises:
        UserError: an argument is wrong, the model can't be loaded, or the port is taken.
    """
    limits = limits or Limits()
    fetcher = Fetcher(urls, max_bytes=limits.max_bytes, timeout=limits.timeout)
    keys = [key.strip() for key in os.environ.get(KEY, "").split(",") if key.strip()]
    # clients disagree about how other letters are sent in a header, and browsers refuse to
    if not all(key.isascii() and key.isprintable() for key in keys):
        raise UserError(f"{KEY} holds a key with a letter that is no printable ASCII; wanted letters, digits and signs")
    # a page elsewhere whose name leads to this machine must not get answers in a browser's name
    hosts = [*LOOPBACK, host, *allow_host] if is_loopback(host) else list(allow_host)
    access = Access(keys=keys, hosts=[name.lower() for name in hosts], origins=cors)
    place = _listen(host, port)
    with place:
        service = make_service(load(model, device=device), model, limits=limits, fetcher=fetcher)
        _say_where(service, host, place.getsockname()[1], keys)
        # uvicorn raises the signal that stopped it again, which must not end the process before its last line
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            make_server(create_app(service, access), limits).run(sockets=[place])
        except KeyboardInterrupt:
            pass
        finally:
            signal.signal(signal.SIGTERM, before)
    print(f"stopped; {service.answered} images were answered", flush=True)


def make_service(detector: Detector, model: str | Path, *, limits: Limits, fetcher: Fetcher) -> Service:
    """A service whose model has run once."""
    version = version_of(model) or "unknown"
    service = Service(detector, name=Path(model).name, version=version, limits=limits, fetcher=fetcher)
    service.warm_up()
    return service


def make_server(app: Any, limits: Limits) -> uvicorn.Server:
    """A server of an ASGI application, without a log of each request."""
    protocol = type("Protocol", (Protocol,), {"seconds": limits.timeout})
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            log_level="error",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            limit_concurrency=limits.connections,
            timeout_keep_alive=max(1, round(limits.timeout)),
            # what was accepted is received, and answered, within twice the limit
            timeout_graceful_shutdown=round(2 * limits.timeout) + 1,
        )
    )


class Protocol(H11Protocol):
    """HTTP that bounds the time in which a request must have arrived, its head included.

    uvicorn waits without end for the rest of a head, so that whoever sends a byte a minute holds a connection.
    """

    seconds = 30.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()

    def _watch(self) -> None:
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            # a little later than the limit on bodies, which is told in words
            self._timer = self._timer or self.loop.call_later(self.seconds + 1, self._close)
        else:
            self._stop()

    def _close(self) -> None:
        # closing would wait until what was sent has been read
        self.transport.abort()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"can't listen at {host}, port {port}: {reason}; give another --host or --port") from error


def _say_where(service: Service, host: str, port: int, keys: Sequence[str]) -> None:
    name = f"[{host}]" if ":" in host else host
    where = f"http://{name}:{port}"
    classes = len(service.detector.classes)
    print(f"{service.name} (version {service.version}, {classes} classes) on {service.detector.runs_on}", flush=True)
    print(f"{where}/ is a page to try it, {where}/docs describes the interface; Ctrl+C stops", flush=True)
    if not is_loopback(host) and not keys:
        print(
            f"warning: others can reach {host}, and no key is asked for; set {KEY} to ask for one, and put a proxy "
            "with TLS in front",
            flush=True,
        )
