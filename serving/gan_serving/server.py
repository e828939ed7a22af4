"""``ganforge serve``: an engine, the gateway over it, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import uvicorn

from gan_core.errors import ConfigError

from .gateway import create_app
from .ort_engine import OrtEngine
from .readiness import Readiness
from .service import ImageService
from .supervisor import Supervisor
from .triton_engine import TritonEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .engine import Engine

__all__ = ["Options", "is_loopback", "serve"]

log = logging.getLogger(__name__)

DRAIN_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to serve."""

    repository: Path
    engine: str
    """``triton`` or ``ort``."""
    triton: str | None = None
    """``host:port`` of a Triton that runs already; None starts the local one."""
    host: str = "127.0.0.1"
    http_port: int = 8080
    """0 = any free one."""
    max_n: int = 64
    """Most images per request."""
    timeout_s: float = 30.0
    """Longest that a request may take."""


async def serve(options: Options, on_start: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; requests in flight are answered first.

    ``on_start`` gets the gateway's URL once it listens.

    Raises:
        ConfigError: the port is taken, or there is no such repository.
        TritonError: the local Triton doesn't start.
    """
    if options.triton is None and not options.repository.is_dir():
        raise ConfigError(
            f"{options.repository} is not a model repository: publish a model into it first"
        )
    with _listen(options.host, options.http_port) as listening:
        async with _engine(options) as engine:
            service = ImageService(engine, max_n=options.max_n, timeout_s=options.timeout_s)
            readiness = Readiness(service)
            server = _server(create_app(service, readiness))
            async with _supervised(options, engine, readiness):
                await _run(server, listening, on_start)


@contextlib.asynccontextmanager
async def _engine(options: Options) -> AsyncIterator[Engine]:
    if options.engine == "ort":
        engine: Engine = OrtEngine(options.repository)
    else:
        engine = TritonEngine(options.triton or "")
    try:
        yield engine
    finally:
        await engine.close()


@contextlib.asynccontextmanager
async def _supervised(
    options: Options, engine: Engine, readiness: Readiness
) -> AsyncIterator[None]:
    """The local Triton under supervision, where there is one."""
    if not isinstance(engine, TritonEngine) or options.triton:
        yield
        return
    from .local_triton import home
    from .triton_process import LocalTriton

    # one folder for all: a server that was killed is cleaned up after by the next
    record = platformdirs.user_log_path("ganforge") / f"triton-{os.getpid()}.log"
    triton = LocalTriton(options.repository, home=home(), log=record)
    supervisor = Supervisor(triton, engine, options.repository, readiness)
    try:
        await supervisor.start()
        watching = asyncio.create_task(supervisor.run())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    finally:
        await supervisor.stop()
    record.unlink(missing_ok=True)  # kept where something went wrong


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    listening: socket.socket | None = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()  # bound alone, it wouldn't keep a second server from the port
    except (OSError, OverflowError, ValueError) as error:
        if listening is not None:
            listening.close()
        raise ConfigError(
            f"can't listen on {host}:{port}: {error}; choose another --host or --http-port"
        ) from error
    return listening


def _server(app: object) -> uvicorn.Server:
    """Uvicorn over the application; SIGTERM and SIGINT end it, even before it has started."""
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]  # uvicorn's own alias of an ASGI application
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_S,
    )
    server = uvicorn.Server(config)

    def end(*_: object) -> None:
        server.should_exit = True

    # uvicorn raises the signal again once it has drained: what comes after it must still run
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    return server


async def _run(
    server: uvicorn.Server, listening: socket.socket, on_start: Callable[[str], None]
) -> None:
    host, port = listening.getsockname()[:2]
    serving = asyncio.create_task(server.serve([listening]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if not server.should_exit:
        on_start(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    await serving
