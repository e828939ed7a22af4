"""``ganforge serve``: an engine, the gateway over it, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import uvicorn

from gan_core.errors import ConfigError

from .admin import create_admin_app
from .awaiting import awaited
from .cores import usable_cores
from .gatekeeper import Gatekeeper
from .gateway import create_app
from .grpc_gateway import GrpcGateway
from .http_jobs import JobRunner
from .http_protocol import BoundedProtocol
from .jobs import JobStore
from .keys import Keyring
from .operations import Operator
from .options import Doors, Listening, Options
from .ort_engine import OrtEngine
from .readiness import Readiness
from .remarks import Remarks
from .repository import model_names, not_found
from .service import ImageService
from .sockets import bracketed, listen, reserved, url_of
from .supervisor import Supervisor
from .telemetry import Telemetry
from .tls import Certificates
from .tracing import exporting, traces_url
from .triton_engine import TritonEngine, no_model
from .workers import Workers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from .engine import Engine
    from .siblings import Siblings

__all__ = ["answer", "engine_of", "serve", "signalled"]

log = logging.getLogger(__name__)

DRAIN_S = 30


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
    with (
        _opened(options) as doors,
        signalled() as stopping,
        _jobs(options.jobs) as jobs,
    ):
        options = replace(options, jobs=jobs)
        async with engine_of(options) as engine, _awaited(options, engine):
            if options.workers == 1:
                await answer(options, engine, doors, stopping, on_start)
            else:
                await _share(options, engine, doors, stopping, on_start)


async def answer(
    options: Options,
    engine: Engine,
    doors: Doors,
    stopping: asyncio.Event,
    on_start: Callable[[Listening], None],
    siblings: Siblings | None = None,
) -> None:
    """Serve from this process, until ``stopping`` is set.

    Args:
        options: how; ``jobs`` names a file.
        engine: runs the graphs.
        doors: where requests come in.
        stopping: ends it.
        on_start: told where it listens, once it does.
        siblings: other processes that do the same, for numbers that are of all.
    """
    gatekeeper = await _gatekeeper(options)
    service = ImageService(
        engine,
        max_n=options.max_n,
        timeout_s=options.timeout_s,
        max_waiting=options.max_waiting,
    )
    readiness = Readiness(service, Remarks(options.repository))
    telemetry = Telemetry(service)
    supervisor = _supervisor(options, engine, readiness)
    operator = _operator(options, engine, supervisor)
    service.on_run, service.canaries.on_failed = telemetry.ran, operator.end_trial
    runner = JobRunner(JobStore(options.jobs or Path()), service)
    app = create_app(
        service,
        readiness,
        gatekeeper,
        telemetry,
        runner,
        options.max_image_mb << 20,
        options.cors_origins,
    )
    exposition = siblings.together(telemetry.exposition) if siblings else telemetry.exposition
    admin = create_admin_app(service, readiness, exposition, gatekeeper, operator)
    tls = Certificates(options.tls) if options.tls else None
    calls = GrpcGateway(
        service,
        readiness,
        gatekeeper,
        telemetry,
        credentials=tls.credentials() if tls else None,
        max_image_bytes=options.max_image_mb << 20,
        shared_port=siblings is not None,
    )
    faces = _Faces(_http(app, tls), calls, _http(admin, None), doors, options)
    with exporting(options.otlp_endpoint):
        async with _supervised(supervisor), _running(runner):
            await faces.run(stopping, readiness, on_start)


async def _share(
    options: Options,
    engine: Engine,
    doors: Doors,
    stopping: asyncio.Event,
    on_start: Callable[[Listening], None],
) -> None:
    """Serve from several processes; Triton stays with this one."""
    # what is wrong with the keys is said once, and before anything runs
    if (await _gatekeeper(options)).counts_apart:
        log.warning(
            "each of %d workers counts rates for itself: a caller may get as many times its rate; "
            "--quota-storage redis://HOST:PORT/DB counts them in common",
            options.workers,
        )
    supervisor = _supervisor(options, engine, Readiness(ImageService(engine)))
    async with _supervised(supervisor):
        with contextlib.ExitStack() as ports:
            if options.grpc_port is not None:
                port = ports.enter_context(reserved(options.host, options.grpc_port))
                options = replace(options, grpc_port=port)
            await Workers(options, doors, supervisor).run(stopping, on_start)


async def _gatekeeper(options: Options) -> Gatekeeper:
    keyring = Keyring(options.keys) if options.keys else None
    gatekeeper = Gatekeeper(keyring, options.quota_storage)
    await gatekeeper.check()
    return gatekeeper


@dataclass(slots=True)
class _Faces:
    """Both protocols, from the first request to the last."""

    http: uvicorn.Server
    grpc: GrpcGateway
    admin: uvicorn.Server
    doors: Doors
    options: Options

    async def run(
        self, stopping: asyncio.Event, readiness: Readiness, on_start: Callable[[Listening], None]
    ) -> None:
        if stopping.is_set():
            return
        doors, faces = self.doors, {self.http: self.doors.http}
        if doors.admin is not None:
            faces[self.admin] = doors.admin
        grpc_at = await self._start_grpc()
        serving = [asyncio.create_task(one.serve([at])) for one, at in faces.items()]
        stopped = asyncio.create_task(stopping.wait())
        try:
            while not self.http.started and not serving[0].done():
                await asyncio.sleep(0.01)
            if self.http.started:
                scheme = "https" if self.options.tls else "http"
                admin_at = url_of("http", doors.admin) if doors.admin else None
                on_start(Listening(url_of(scheme, doors.http), grpc_at, admin_at))
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
        return f"{'grpcs' if options.tls else 'grpc'}://{bracketed(options.host)}:{port}"


@contextlib.contextmanager
def signalled() -> Iterator[asyncio.Event]:
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
def _opened(options: Options) -> Iterator[Doors]:
    with contextlib.ExitStack() as sockets:
        http = sockets.enter_context(listen(options.host, options.http_port))
        admin = None
        if options.admin_port is not None:
            admin = sockets.enter_context(listen(options.admin_host, options.admin_port))
        yield Doors(http, admin)


@contextlib.contextmanager
def _jobs(path: Path | None) -> Iterator[Path]:
    """The jobs' file; one that lasts as long as the server, where none is named."""
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ganforge-") as folder:
        yield Path(folder) / "jobs.sqlite"


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
async def engine_of(options: Options) -> AsyncIterator[Engine]:
    """The engine that the options name; Triton itself is started by ``answer``."""
    if options.engine == "ort":
        engine: Engine = OrtEngine(options.repository, max(1, usable_cores() // options.workers))
    else:
        repository = options.repository
        unknown = partial(not_found, repository) if repository.is_dir() else no_model
        engine = TritonEngine(options.triton or "", lambda: model_names(repository), unknown)
    try:
        yield engine
    finally:
        await engine.close()


def _awaited(options: Options, engine: Engine) -> AbstractAsyncContextManager[None]:
    """Of a Triton elsewhere, where there is one."""
    if options.triton and isinstance(engine, TritonEngine):
        return awaited(engine, options.triton)
    return contextlib.nullcontext()


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
    if not supervisor.restarted:  # kept where something went wrong
        supervisor.triton.log.unlink(missing_ok=True)


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


class _Server(uvicorn.Server):
    """Uvicorn, but for signals: what comes after it must still run, and probes go first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to ``_signalled``."""
        yield


def _http(app: object, tls: Certificates | None) -> uvicorn.Server:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]  # uvicorn's own alias of an ASGI application
        http=BoundedProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_S,
    )
    config.load()
    config.ssl = tls.context() if tls else None
    return _Server(config)
