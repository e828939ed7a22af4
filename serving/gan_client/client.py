"""The clients: ``AsyncClient``, and ``Client`` with the same names for code that doesn't await."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterator,
    Sequence,
)
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from gan_core.errors import DeadlineExceeded, ServiceError

from .asking import Asked, request_of
from .augmentation import AsyncAugmentation, Augmentation, PerClass, augment_request
from .jobs import AsyncJobs, Jobs
from .pictures import opened
from .runner import Runner, next_of
from .transports import Transport, open_transport

if TYPE_CHECKING:
    import httpx
    from numpy.typing import ArrayLike

    from gan_core.card import ModelCard

    from .images import GeneratedImage, ImageBatch
    from .pictures import AnyPicture

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
        self.transport = open_transport(url, http, key or os.environ.get("GANFORGE_API_KEY"))
        self.timeout_s = timeout_s
        self.max_retries = max_retries
        self.images = AsyncImages(self)
        self.jobs = AsyncJobs(self)
        self.models = AsyncModels(self)

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
        request = request_of(
            model=model,
            n=n,
            version=version,
            seed=seed,
            label=label,
            labels=labels,
            truncation=truncation,
            latents=latents,
        )
        return await self._client.call(lambda t, left_s: t.generate(request, left_s), timeout_s)

    async def stream(
        self, *, timeout_s: float | None = None, **asked: Unpack[Asked]
    ) -> AsyncGenerator[GeneratedImage, None]:
        """The images of ``generate``, which takes the same arguments, each as soon as it is there.

        Tried again like any call before the first image, and not after it.

        Raises:
            ServiceError: the subclass says why; also after some of the images.
        """
        request = request_of(**asked)

        async def opened(
            transport: Transport, left_s: float
        ) -> tuple[GeneratedImage, AsyncGenerator[GeneratedImage, None]]:
            images = transport.stream(request, left_s)
            return await anext(images), images

        first, others = await self._client.call(opened, timeout_s)
        async with aclosing(others):
            yield first
            async for image in others:
                yield image

    def augment(
        self,
        *,
        model: str,
        count: int | None = None,
        per_class: PerClass | None = None,
        seed: int | None = None,
        version: int | None = None,
        offset: int = 0,
        truncation: float | None = None,
        timeout_s: float | None = None,
    ) -> AsyncAugmentation:
        """A long stream of samples, which goes on by itself where a connection was cut.

        Args:
            model: name of a published model.
            count: how many; of a model with classes, classes go round with the seeds.
            per_class: instead, how many of each class, by index or name.
            seed: sample i is a function of the version, seed + i and its class; random by default.
            version: one of those that serve; the newest at the start by default.
            offset: samples that are there already; a stream's own, to resume it elsewhere.
            truncation: ψ; less is more typical and less varied.
            timeout_s: longest without a sample, whatever is tried meanwhile; the client's by
                default.

        Raises:
            InvalidRequest: an argument is missing or out of range.
        """
        request = augment_request(
            model=model,
            count=count,
            per_class=per_class,
            seed=seed,
            version=version,
            offset=offset,
            truncation=truncation,
        )
        limit_s = self._client.timeout_s if timeout_s is None else timeout_s
        return AsyncAugmentation(self._client.transport, request, limit_s)

    async def upscale(
        self,
        image: AnyPicture,
        *,
        model: str,
        version: int | None = None,
        timeout_s: float | None = None,
    ) -> ImageBatch:
        """Make a picture larger: a batch of one image.

        Args:
            image: path or bytes of a PNG, JPEG or WebP; a Pillow image; uint8 [H, W] or [H, W, C].
            model: name of a published model that takes a picture.
            version: one of those that serve; the newest by default.
            timeout_s: for this call with its retries.

        Raises:
            OSError: there is no such file.
            ServiceError: the subclass says why; the same one over every transport.
        """
        from gan_serving.schema import UpscaleRequest, validated

        request = validated(UpscaleRequest, {"model": model, "version": version})
        picture = await asyncio.to_thread(opened, image)
        return await self._client.call(
            lambda t, left_s: t.upscale(request, picture, left_s), timeout_s
        )


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
        self._runner = Runner()
        try:
            self._client = self._runner.call(
                _made(url, key=key, timeout_s=timeout_s, max_retries=max_retries, http=http)
            )
        except BaseException:
            self._runner.close()
            raise
        self.images = Images(self._client.images, self._runner)
        self.jobs = Jobs(self._client.jobs, self._runner)
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

    def __init__(self, images: AsyncImages, runner: Runner) -> None:
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

    def stream(
        self, *, timeout_s: float | None = None, **asked: Unpack[Asked]
    ) -> Iterator[GeneratedImage]:
        """As ``AsyncImages.stream``."""
        images = self._images.stream(timeout_s=timeout_s, **asked)
        while (image := self._runner.call(next_of(images))) is not None:
            yield image

    def augment(
        self,
        *,
        model: str,
        count: int | None = None,
        per_class: PerClass | None = None,
        seed: int | None = None,
        version: int | None = None,
        offset: int = 0,
        truncation: float | None = None,
        timeout_s: float | None = None,
    ) -> Augmentation:
        """As ``AsyncImages.augment``."""
        stream = self._images.augment(
            model=model,
            count=count,
            per_class=per_class,
            seed=seed,
            version=version,
            offset=offset,
            truncation=truncation,
            timeout_s=timeout_s,
        )
        return Augmentation(stream, self._runner)

    def upscale(
        self,
        image: AnyPicture,
        *,
        model: str,
        version: int | None = None,
        timeout_s: float | None = None,
    ) -> ImageBatch:
        """As ``AsyncImages.upscale``."""
        return self._runner.call(
            self._images.upscale(image, model=model, version=version, timeout_s=timeout_s)
        )


class Models:
    """``client.models``."""

    def __init__(self, models: AsyncModels, runner: Runner) -> None:
        self._models = models
        self._runner = runner

    def list(self) -> list[ModelCard]:
        """The newest card of every model."""
        return self._runner.call(self._models.list())

    def retrieve(self, model: str, version: int | None = None) -> ModelCard:
        """As ``AsyncModels.retrieve``."""
        return self._runner.call(self._models.retrieve(model, version))


async def _made(url: str, **options: Any) -> AsyncClient:
    return AsyncClient(url, **options)  # on the loop that will use it
