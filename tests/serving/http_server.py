"""An HTTP gateway on a port of its own, in this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import httpx
import uvicorn

from gan_serving.gatekeeper import Gatekeeper
from gan_serving.gateway import create_app
from gan_serving.http_jobs import JobRunner
from gan_serving.jobs import JobStore
from gan_serving.readiness import Readiness
from gan_serving.service import ImageService

if TYPE_CHECKING:
    from gan_serving.engine import Engine

__all__ = ["Gateway", "asked", "running"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running one."""

    url: str
    readiness: Readiness


@asynccontextmanager
async def running(
    engine: Engine,
    gatekeeper: Gatekeeper | None = None,
    *,
    timeout_s: float = 30.0,
    jobs: Path | None = None,
) -> AsyncIterator[Gateway]:
    """The gateway, until the block ends; ``jobs`` is the file of jobs where there are any."""
    service = ImageService(engine, timeout_s=timeout_s)
    readiness = Readiness(service)
    runner = JobRunner(JobStore(jobs), service) if jobs else None
    app = create_app(service, readiness, gatekeeper or Gatekeeper(None), runner=runner)
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    working = [asyncio.create_task(runner.run())] if runner else []
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started:
            await asyncio.sleep(0.005)
        try:
            yield Gateway(f"http://127.0.0.1:{listening.getsockname()[1]}", readiness)
        finally:
            server.should_exit = server.force_exit = True
            await serving
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
            await engine.close()


def asked(
    engine: Engine,
    work: Callable[[httpx.AsyncClient, Gateway], Awaitable[T]],
    gatekeeper: Gatekeeper | None = None,
    *,
    timeout_s: float = 30.0,
) -> T:
    """What a client makes of a running gateway, within half a minute."""

    async def ask() -> T:
        async with (
            asyncio.timeout(30),
            running(engine, gatekeeper, timeout_s=timeout_s) as gateway,
            httpx.AsyncClient(base_url=gateway.url, timeout=30) as client,
        ):
            return await work(client, gateway)

    return asyncio.run(ask())
