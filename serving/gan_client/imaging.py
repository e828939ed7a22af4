"""``client.images``: what a client asks models to draw."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from numpy.typing import NDArray
from PIL import Image

from .asking import Asked, request_of
from .augmentation import AsyncAugmentation, Augmentation, PerClass, augment_request
from .runner import Runner, next_of
from .upscaling import enlarged, made_of, upscale_request, write

if TYPE_CHECKING:
    import os

    from numpy.typing import ArrayLike

    from .client import AsyncClient
    from .images import GeneratedImage, ImageBatch
    from .pictures import AnyPicture
    from .transports import Transport

__all__ = ["AsyncImages", "Images"]

P = TypeVar("P", bytes, Image.Image, NDArray[Any])


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

    @overload
    async def upscale(
        self, image: P, *, model: str, version: int | None = None, timeout_s: float | None = None
    ) -> P: ...
    @overload
    async def upscale(
        self,
        image: AnyPicture,
        *,
        model: str,
        out: str | os.PathLike[str],
        version: int | None = None,
        timeout_s: float | None = None,
    ) -> Path: ...
    async def upscale(
        self,
        image: AnyPicture,
        *,
        model: str,
        out: str | os.PathLike[str] | None = None,
        version: int | None = None,
        timeout_s: float | None = None,
    ) -> bytes | Image.Image | NDArray[Any] | Path:
        """Make a picture larger: of the kind that was given, or a file.

        Args:
            image: path or bytes of a PNG, JPEG, WebP or TIFF; a Pillow image; uint8 or uint16
                [H, W] or [H, W, C]. Bytes become those of a PNG; a path needs ``out``.
            model: name of a published model that takes a picture.
            out: a .png, .tif, .jpg or .webp, which is written over once all is there; its path is
                returned. Unless it is a .webp, no more of it than a few rows is in memory.
            version: one of those that serve; the newest by default.
            timeout_s: for this call with its retries; of bytes and files until the first bytes,
                and longest without any.

        Raises:
            OSError: there is no such file, or ``out`` can't be written.
            ServiceError: the subclass says why; the same one over every transport.
        """
        request = upscale_request(model, version)
        if out is None:
            return await made_of(self._client, request, image, timeout_s)
        await write(self._client, request, image, Path(out), timeout_s)
        return Path(out)

    async def upscale_stream(
        self,
        frames: Iterable[AnyPicture] | AsyncIterable[AnyPicture],
        *,
        model: str,
        version: int | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[tuple[GeneratedImage, float], None]:
        """Make pictures larger, in order: each, and its seconds from being sent to being there.

        Four are on their way at once, and the next frame is read once there is room for it. Over
        gRPC all are one call, which isn't tried again; elsewhere each is a call of its own.

        Args:
            frames: pictures as ``upscale`` takes them; what isn't async is read in a thread.
            model: name of a published model that takes a picture.
            version: one of those that serve; the newest by default.
            timeout_s: for each frame.

        Raises:
            OSError: there is no such file.
            ServiceError: a frame failed, which the message names; those before it were given.
        """
        request = upscale_request(model, version)
        results = enlarged(self._client, request, frames, timeout_s)
        async with aclosing(results):
            async for result in results:
                yield result


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

    @overload
    def upscale(
        self, image: P, *, model: str, version: int | None = None, timeout_s: float | None = None
    ) -> P: ...
    @overload
    def upscale(
        self,
        image: AnyPicture,
        *,
        model: str,
        out: str | os.PathLike[str],
        version: int | None = None,
        timeout_s: float | None = None,
    ) -> Path: ...
    def upscale(
        self,
        image: Any,
        *,
        model: str,
        out: str | os.PathLike[str] | None = None,
        version: int | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """As ``AsyncImages.upscale``."""
        options: dict[str, Any] = {"model": model, "version": version, "timeout_s": timeout_s}
        if out is not None:
            options["out"] = out
        return self._runner.call(self._images.upscale(image, **options))

    def upscale_stream(
        self,
        frames: Iterable[AnyPicture],
        *,
        model: str,
        version: int | None = None,
        timeout_s: float | None = None,
    ) -> Generator[tuple[GeneratedImage, float], None, None]:
        """As ``AsyncImages.upscale_stream``; ``frames`` are read in another thread."""
        results = self._images.upscale_stream(
            frames, model=model, version=version, timeout_s=timeout_s
        )
        try:
            while (result := self._runner.call(next_of(results))) is not None:
                yield result
        finally:
            with suppress(RuntimeError):  # the client may be closed
                self._runner.call(results.aclose())
