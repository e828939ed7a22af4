"""``ganforge serve``: an engine, the gateway over it, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import uvicorn

from gan_core.errors import ConfigError

from .admin import create_admin_app
from .gatekeeper import Gatekeeper
from .gateway import create_app
from .grpc_gateway import GrpcGateway
from .http_jobs import JobRunner
from .jobs import JobStore
from .keys import Keyring
from .operations import Operator
from .ort_engine import OrtEngine
from .readiness import Readiness
from .service import ImageService
from .supervisor import Supervisor
from .telemetry import Telemetry
from .tls import Certificates, Tls
from .tracing import exporting, traces_url
from .triton_engine import TritonEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from .engine import Engine

__all__ = ["Listening", "Options", "is_loopback", "serve"]

log = logging.getLogger(__name__)

DRAIN_S = 30


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a server can be reached."""

    http: str
    """URL."""
    grpc: str | None
    """``grpc://host:port``, ``grpcs://`` with TLS."""
    admin: str | None
    """URL of metrics."""


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
    grpc_port: int | None = None
    """0 = any free one; None = no gRPC."""
    admin_port: int | None = None
    """For metrics; 0 = any free one; None = none."""
    admin_host: str = "127.0.0.1"
    keys: Path | None = None
    """File of API keys; None lets in anybody."""
    quota_storage: str = "memory://"
    """Where the keys' rates are counted, as the ``limits`` library writes it."""
    jobs: Path | None = None
    """SQLite file of jobs, which then outlive the server; None keeps them while it runs."""
    tls: Tls | None = None
    drain_s: float = 0.0
    """Seconds between saying no to probes and to requests, for balancers to notice."""
    max_waiting: int = 512
    """Most images that wait for a model."""
    max_n: int = 64
    """Most images per request."""
    timeout_s: float = 30.0
    """Longest that a request may take."""
    otlp_endpoint: str | None = None
    """Where traces go; None traces nothing."""


async def serve(options: Options, on_start: Callable[[Listening], None]) -> None:
    """Serve until SIGTERM or SIGINT; requests in flight are answered first.

    ``on_start`` is told where, once it listens.

    Raises:
        ConfigError: a port is taken, or a file or folder can't be used.
        TritonError: the local Triton doesn't start.
    """
    if options.triton is None and not options.repository.is_dir():
        raise ConfigError(
            f"{options.repository} is not a model repository: publish a model into it first"
        )
    gatekeeper = Gatekeeper(Keyring(options.keys) if options.keys else None, options.quota_storage)
    await gatekeeper.check()
    with (
        exporting(options.otlp_endpoint),
        _listen(options.host, options.http_port) as listening,
        _signalled() as stopping,
        _jobs(options.jobs) as store,
    ):
        async with _engine(options) as engine:
            service = ImageService(
                engine,
                max_n=options.max_n,
                timeout_s=options.timeout_s,
                max_waiting=options.max_waiting,
            )
            readiness, telemetry = Readiness(service), Telemetry(service)
            supervisor = _supervisor(options, engine, readiness)
            operator = _operator(options, engine, supervisor)
            service.canaries.on_failed = operator.end_trial
            service.on_run = telemetry.ran
            runner = JobRunner(store, service)
            app = create_app(service, readiness, gatekeeper, telemetry, runner)
            tls = Certificates(options.tls) if options.tls else None
            http = _http(app, tls)
            admin = _http(
                create_admin_app(service, readiness, telemetry, gatekeeper, operator), None
            )
            calls = GrpcGateway(
                service,
                readiness,
                gatekeeper,
                telemetry,
                credentials=tls.credentials() if tls else None,
            )
            async with _supervised(supervisor), _running(runner):
                faces = _Faces(http, calls, admin, listening, options)
                await faces.run(stopping, readiness, on_start)


@dataclass(slots=True)
class _Faces:
    """Both protocols, from the first request to the last."""

    http: uvicorn.Server
    grpc: GrpcGateway
    admin: uvicorn.Server
    listening: socket.socket
    options: Options

    async def run(
        self, stopping: asyncio.Event, readiness: Readiness, on_start: Callable[[Listening], None]
    ) -> None:
        if stopping.is_set():
            return
        options, admin_at = self.options, None
        with contextlib.ExitStack() as sockets:
            faces = {self.http: self.listening}
            if options.admin_port is not None:
                operators = sockets.enter_context(_listen(options.admin_host, options.admin_port))
                faces[self.admin] = operators
                admin_at = _url("http", operators)
            grpc_at = await self._start_grpc()
            serving = [asyncio.create_task(one.serve([at])) for one, at in faces.items()]
            stopped = asyncio.create_task(stopping.wait())
            try:
                while not self.http.started and not serving[0].done():
                    await asyncio.sleep(0.01)
                if self.http.started:
                    scheme = "https" if options.tls else "http"
                    on_start(Listening(_url(scheme, self.listening), grpc_at, admin_at))
                await asyncio.wait((*serving, stopped), return_when=asyncio.FIRST_COMPLETED)
                await self._drain(readiness)
            finally:
                stopped.cancel()
                self.http.should_exit = self.admin.should_exit = True
                await asyncio.gather(*serving, self.grpc.stop(DRAIN_S))

    async def _drain(self, readiness: Readiness) -> None:
        """Say no to probes first: whoever balances sends nothing more by the time we stop."""
        readiness.draining = True
        self.grpc.drain()
        await asyncio.sleep(self.options.drain_s)

    async def _start_grpc(self) -> str | None:
        options = self.options
        if options.grpc_port is None:
            return None
        port = await self.grpc.start(options.host, options.grpc_port)
        return f"{'grpcs' if options.tls else 'grpc'}://{_bracketed(options.host)}:{port}"


def _url(scheme: str, listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"{scheme}://{_bracketed(host)}:{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def _signalled() -> Iterator[asyncio.Event]:
    """Set by the first SIGTERM or SIGINT; a second SIGINT doesn't wait for what is in flight."""
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()

    def stop() -> None:
        stopping.set()
        loop.remove_signal_handler(signal.SIGINT)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield stopping
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _jobs(path: Path | None) -> Iterator[JobStore]:
    if path is not None:
        yield JobStore(path)
        return
    with tempfile.TemporaryDirectory(prefix="ganforge-") as folder:
        yield JobStore(Path(folder) / "jobs.sqlite")


@contextlib.asynccontextmanager
async def _running(runner: JobRunner) -> AsyncIterator[None]:
    """Jobs run until the block ends; those that do then are begun again by the next server."""
    running = asyncio.create_task(runner.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


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


def _supervisor(options: Options, engine: Engine, readiness: Readiness) -> Supervisor | None:
    """Of the local Triton, where there is one."""
    if not isinstance(engine, TritonEngine) or options.triton:
        return None
    from .local_triton import home
    from .triton_process import LocalTriton

    # one folder for all: a server that was killed is cleaned up after by the next
    record = platformdirs.user_log_path("ganforge") / f"triton-{os.getpid()}.log"
    triton = LocalTriton(
        options.repository, home=home(), log=record, traces=traces_url(options.otlp_endpoint)
    )
    return Supervisor(triton, engine, options.repository, readiness)


@contextlib.asynccontextmanager
async def _supervised(supervisor: Supervisor | None) -> AsyncIterator[None]:
    if supervisor is None:
        yield
        return
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
    supervisor.triton.log.unlink(missing_ok=True)  # kept where something went wrong


def _operator(options: Options, engine: Engine, supervisor: Supervisor | None) -> Operator:
    async def follow(model: str) -> None:
        if supervisor is not None:
            await supervisor.follow()
        elif isinstance(engine, TritonEngine):
            if (options.repository / model / "config.pbtxt").exists():
                await engine.load(model)
            else:
                await engine.unload(model)

    return Operator(options.repository if options.repository.is_dir() else None, follow)


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
        # named as TCP, or event loops leave Nagle's algorithm on: 40 ms for every answer
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()  # bound alone, it wouldn't keep a second server from the port
    except (OSError, OverflowError, ValueError) as error:
        if listening is not None:
            listening.close()
        raise ConfigError(
            f"can't listen on {host}:{port}: {error}; choose another --host or port"
        ) from error
    return listening


class _Server(uvicorn.Server):
    """Uvicorn, but for signals: what comes after it must still run, and probes go first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to ``_signalled``."""
        yield


def _http(app: object, tls: Certificates | None) -> uvicorn.Server:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]  # uvicorn's own alias of an ASGI application
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_S,
    )
    config.load()
    config.ssl = tls.context() if tls else None
    return _Server(config)
