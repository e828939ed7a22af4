"""The clients: ``AsyncClient``, and ``Client`` with the same names for code that doesn't await."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar

from gan_core.errors import DeadlineExceeded, ServiceError

from .imaging import AsyncImages, Images
from .models import AsyncModels, Models
from .runner import Runner
from .tls import Tls
from .transports import Transport, open_transport

if TYPE_CHECKING:
    import httpx

    from .jobs import AsyncJobs, Jobs
    from .tls import AnyPath

__all__ = ["AsyncClient", "Client"]

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8080"
BACKOFF_S = 0.25


class AsyncClient:
    """Talks to models, whoever runs them; for ``async`` code.

    Args:
        url: ``http://host:port`` or ``grpc://host:port`` of a gateway (``https``, ``grpcs`` with
            TLS), ``triton://host:port`` of a Triton's gRPC endpoint, or ``local:PATH`` of a
            repository to serve in this process. All give the same pixels for the same seed.
        key: API key for a gateway that asks for one; the environment's ``GANFORGE_API_KEY`` by
            default.
        ca: PEM file of who signed the server's certificate, over https and grpcs; that of the
            environment's ``SSL_CERT_FILE``, else the public authorities by default.
        cert: PEM files of this client's certificate and its key, where the server asks for one.
        timeout_s: for a call with all its retries, unless the call says otherwise.
        max_retries: after an overloaded, unavailable or unreachable server.
        http: an httpx client of your own, with its ``base_url``.

    Raises:
        ConfigError: ``url`` is no such address, or ``ca`` or ``cert`` can't be used.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        ca: AnyPath | None = None,
        cert: tuple[AnyPath, AnyPath] | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 2,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        key = key or os.environ.get("GANFORGE_API_KEY")
        self.transport = open_transport(url, http, key, Tls(ca, cert))
        self.timeout_s = timeout_s
        self.max_retries = max_retries
        self.images = AsyncImages(self)
        self.models = AsyncModels(self)

    @cached_property
    def jobs(self) -> AsyncJobs:
        """Requests whose images are fetched later, from a gateway over HTTP."""
        from .jobs import AsyncJobs

        return AsyncJobs(self)

    async def close(self) -> None:
        """Close connections; the client can't be used any more."""
        await self.transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def call(
        self, attempt: Callable[[Transport, float], Awaitable[T]], timeout_s: float | None = None
    ) -> T:
        """Attempt, and again where it may help and time is left; obeys Retry-After."""
        budget_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + budget_s
        retries = 0
        while True:
            left_s = max(deadline - time.monotonic(), 0.001)
            try:
                async with asyncio.timeout(left_s):  # a transport's own watches single reads
                    return await attempt(self.transport, left_s)
            except TimeoutError as error:
                raise DeadlineExceeded(f"no answer within {budget_s:g} s") from error
            except ServiceError as error:
                backoff = BACKOFF_S * 2**retries * random.uniform(0.5, 1.5)  # noqa: S311 no secret
                wait_s = max(error.retry_after_s or 0.0, backoff)
                late = time.monotonic() + wait_s > deadline
                if not error.retryable or retries >= self.max_retries or late:
                    raise
                retries += 1
                await asyncio.sleep(wait_s)


class Client:
    """``AsyncClient`` for code that doesn't await; usable from any thread, not across a fork.

    Takes the same arguments and raises the same errors. Its I/O runs on a thread of its own.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        ca: AnyPath | None = None,
        cert: tuple[AnyPath, AnyPath] | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 2,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._runner = Runner()
        try:
            self._client = self._runner.call(
                _made(
                    url,
                    key=key,
                    ca=ca,
                    cert=cert,
                    timeout_s=timeout_s,
                    max_retries=max_retries,
                    http=http,
                )
            )
        except BaseException:
            self._runner.close()
            raise
        self.images = Images(self._client.images, self._runner)
        self.models = Models(self._client.models, self._runner)

    @cached_property
    def jobs(self) -> Jobs:
        """Requests whose images are fetched later, from a gateway over HTTP."""
        from .jobs import Jobs

        return Jobs(self._client.jobs, self._runner)

    def close(self) -> None:
        """Close connections and end the thread; the client can't be used any more."""
        self._runner.close(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


async def _made(url: str, **options: Any) -> AsyncClient:
    return AsyncClient(url, **options)  # on the loop that will use it
