"""The clients: ``AsyncClient``, and ``Client`` with the same names for code that doesn't await."""

from __future__ import annotations

import asyncio
import base64
import operator
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Self, TypeVar

from gan_core.errors import DeadlineExceeded, InvalidRequest, ServiceError

from .transports import Transport, open_transport

if TYPE_CHECKING:
    import httpx
    from numpy.typing import ArrayLike

    from gan_core.card import ModelCard

    from .images import ImageBatch

__all__ = ["AsyncClient", "Client"]

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8080"
BACKOFF_S = 0.25
CLOSED = "this client is closed: make a Client where it is used"


class AsyncClient:
    """Talks to models, whoever runs them; for ``async`` code.

    Args:
        url: ``http://host:port`` or ``grpc://host:port`` of a gateway (``https``, ``grpcs`` with
            TLS), ``triton://host:port`` of a Triton's gRPC endpoint, or ``local:PATH`` of a
            repository to serve in this process. All give the same pixels for the same seed.
        key: API key for a gateway that asks for one; the environment's ``GANFORGE_API_KEY`` by
            default.
        timeout_s: for a call with all its retries, unless the call says otherwise.
        max_retries: after an overloaded, unavailable or unreachable server.
        http: an httpx client of your own, with its ``base_url``.

    Raises:
        ConfigError: ``url`` is no such address.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 2,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._transport = open_transport(url, http, key or os.environ.get("GANFORGE_API_KEY"))
        self.timeout_s = timeout_s
        self.max_retries = max_retries
        self.images = AsyncImages(self)
        self.models = AsyncModels(self)

    async def close(self) -> None:
        """Close connections; the client can't be used any more."""
        await self._transport.close()

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
                    return await attempt(self._transport, left_s)
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


class AsyncImages:
    """``client.images``."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def generate(
        self,
        *,
        model: str,
        n: int | None = None,
        version: int | None = None,
        seed: int | None = None,
        label: int | str | None = None,
        labels: Sequence[int | str] | None = None,
        truncation: float | None = None,
        latents: ArrayLike | None = None,
        timeout_s: float | None = None,
    ) -> ImageBatch:
        """Generate images.

        Args:
            model: name of a published model.
            n: how many; as many as labels or latents, or 1, by default.
            version: one of those that serve; the newest by default.
            seed: image i is a function of seed + i alone; random by default, and returned.
            label: class of all, by index or name; by default, classes go round with the seeds.
            labels: class of each.
            truncation: ψ; less is more typical and less varied.
            latents: z itself, float32 [n, dim].
            timeout_s: for this call with its retries.

        Raises:
            ServiceError: the subclass says why; the same one over every transport.
        """
        from gan_serving.schema import parsed  # building its validators isn't the import's price

        raw, count = _raw(latents)
        request = parsed(
            model=model,
            n=count if n is None else n,
            version=version,
            seed=_plain(seed),
            label=_plain(label),
            labels=None if labels is None else [_plain(label) for label in labels],
            truncation=truncation,
            latents=raw,
        )
        return await self._client.call(lambda t, left_s: t.generate(request, left_s), timeout_s)


class AsyncModels:
    """``client.models``."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> list[ModelCard]:
        """The newest card of every model."""
        return await self._client.call(lambda transport, _: transport.models())

    async def retrieve(self, model: str, version: int | None = None) -> ModelCard:
        """The card of one model's version; the newest by default.

        Raises:
            ModelNotFound: it isn't published.
        """
        return await self._client.call(lambda transport, _: transport.model(model, version))


class Client:
    """``AsyncClient`` for code that doesn't await; usable from any thread, not across a fork.

    Takes the same arguments and raises the same errors. Its I/O runs on a thread of its own.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 2,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._runner = _Runner()
        try:
            self._client = self._runner.call(
                _made(url, key=key, timeout_s=timeout_s, max_retries=max_retries, http=http)
            )
        except BaseException:
            self._runner.close()
            raise
        self.images = Images(self._client.images, self._runner)
        self.models = Models(self._client.models, self._runner)

    def close(self) -> None:
        """Close connections and end the thread; the client can't be used any more."""
        self._runner.close(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Images:
    """``client.images``."""

    def __init__(self, images: AsyncImages, runner: _Runner) -> None:
        self._images = images
        self._runner = runner

    def generate(
        self,
        *,
        model: str,
        n: int | None = None,
        version: int | None = None,
        seed: int | None = None,
        label: int | str | None = None,
        labels: Sequence[int | str] | None = None,
        truncation: float | None = None,
        latents: ArrayLike | None = None,
        timeout_s: float | None = None,
    ) -> ImageBatch:
        """As ``AsyncImages.generate``."""
        return self._runner.call(
            self._images.generate(
                model=model,
                n=n,
                version=version,
                seed=seed,
                label=label,
                labels=labels,
                truncation=truncation,
                latents=latents,
                timeout_s=timeout_s,
            )
        )


class Models:
    """``client.models``."""

    def __init__(self, models: AsyncModels, runner: _Runner) -> None:
        self._models = models
        self._runner = runner

    def list(self) -> list[ModelCard]:
        """The newest card of every model."""
        return self._runner.call(self._models.list())

    def retrieve(self, model: str, version: int | None = None) -> ModelCard:
        """As ``AsyncModels.retrieve``."""
        return self._runner.call(self._models.retrieve(model, version))


class _Runner:
    """An event loop on a daemon thread: a program that forgets to close still ends."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._process = os.getpid()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="gan_client", daemon=True
        )
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        if os.getpid() != self._process:
            work.close()
            raise RuntimeError("this client is of another process: make a Client where it is used")
        with self._lock:
            if self._closed:
                work.close()
                raise RuntimeError(CLOSED)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError as error:
            raise RuntimeError(CLOSED) from error
        except BaseException:
            future.cancel()  # Ctrl-C must not leave the request running
            raise

    def close(self, last: Coroutine[Any, Any, None] | None = None) -> None:
        """End what is running, then ``last``, then the thread."""
        with self._lock:
            if self._closed or os.getpid() != self._process:
                if last is not None:
                    last.close()
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        if last is not None:
            asyncio.run_coroutine_threadsafe(last, self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _made(url: str, **options: Any) -> AsyncClient:
    return AsyncClient(url, **options)  # on the loop that will use it


def _plain(value: T) -> T | int:
    """NumPy's integers as Python's: they are what labels and seeds come from."""
    if isinstance(value, str | bool) or not hasattr(value, "__index__"):
        return value
    return operator.index(value)


def _raw(latents: ArrayLike | None) -> tuple[str | None, int | None]:
    """Latents as base64 of little-endian float32, and how many."""
    if latents is None:
        return None, None
    import numpy as np

    try:
        with np.errstate(over="ignore"):  # what is too large for float32 is refused as infinite
            array = np.atleast_2d(np.asarray(latents, dtype="<f4"))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"latents: not an array of numbers: {error}", param="latents") from (
            error
        )
    return base64.b64encode(array.tobytes()).decode(), len(array)
