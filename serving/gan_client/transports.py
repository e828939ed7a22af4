"""How a client reaches a model: over HTTP or gRPC, on Triton directly, or in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gan_core.errors import ConfigError

from .augmentation import Sample, in_parts
from .images import GeneratedImage, ImageBatch
from .tls import Tls
from .upscaling import within

if TYPE_CHECKING:
    import httpx

    from gan_core.card import ModelCard
    from gan_serving.schema import AugmentRequest, GenerationRequest, UpscaleRequest
    from gan_serving.service import Generation

    from .pictures import Picture

__all__ = ["ServiceTransport", "Transport", "open_transport"]


class Transport(Protocol):
    """Carries a request to a model. Every method raises ``ServiceError`` and nothing else."""

    async def generate(self, request: GenerationRequest, timeout_s: float) -> ImageBatch:
        """Images for a request."""

    def stream(
        self, request: GenerationRequest, timeout_s: float
    ) -> AsyncGenerator[GeneratedImage, None]:
        """The same images, each as soon as it is there."""

    def augment(self, request: AugmentRequest, timeout_s: float) -> AsyncGenerator[Sample, None]:
        """A stream from its offset on, or an error; ``timeout_s`` is for each of its parts."""

    async def upscale(
        self, request: UpscaleRequest, picture: Picture, timeout_s: float
    ) -> GeneratedImage:
        """What a model makes of a picture."""

    def upscale_png(
        self, request: UpscaleRequest, picture: Picture, timeout_s: float
    ) -> AsyncGenerator[bytes, None]:
        """The same as a PNG's pieces; ``timeout_s`` is for each of them."""

    def frames(
        self, request: UpscaleRequest, pictures: AsyncIterator[Picture], timeout_s: float
    ) -> AsyncGenerator[tuple[GeneratedImage, float], None] | None:
        """What a model makes of pictures, in one call, and each one's latency in seconds.

        ``timeout_s`` is for each of them. None where each is a call of its own.
        """

    async def models(self) -> list[ModelCard]:
        """The newest card of every model."""

    async def model(self, name: str, version: int | None = None) -> ModelCard:
        """The card of one model's version; the newest by default."""

    async def close(self) -> None:
        """Let go of connections and threads."""


def open_transport(
    url: str,
    http: httpx.AsyncClient | None = None,
    key: str | None = None,
    tls: Tls | None = None,
) -> Transport:
    """A transport for http(s)://, grpc(s)://, triton://host:port or local:PATH.

    Imports what that one needs: a program pays for the ways that it uses.

    Raises:
        ConfigError: another kind of URL, a key that can't be sent, or ``tls`` that isn't used.
        Unavailable: local: without onnxruntime, or without such a folder.
    """
    scheme, _, rest = url.partition(":")
    tls = tls or Tls()
    if tls != Tls() and (scheme not in ("https", "grpcs") or http is not None):
        given = "an httpx client of your own" if http is not None else repr(url)
        raise ConfigError(f"ca and cert go with https:// and grpcs://, not with {given}")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ConfigError("the API key has characters that no key has: was it cut or quoted?")
    if scheme in ("http", "https"):
        from .http_transport import HttpTransport, http_client

        return HttpTransport(http or http_client(url, tls), key)
    if scheme in ("grpc", "grpcs") and ":" in rest:
        from .grpc_transport import GrpcTransport

        address = rest.removeprefix("//").rstrip("/")
        return GrpcTransport(address, key=key, tls=tls if scheme == "grpcs" else None)
    if scheme == "triton" and ":" in rest:
        from gan_serving.triton_engine import TritonEngine, check_address

        address = rest.removeprefix("//").rstrip("/")
        check_address(address)
        return ServiceTransport(TritonEngine(address))
    if scheme == "local" and rest:
        from gan_serving.ort_engine import OrtEngine

        return ServiceTransport(OrtEngine(Path(rest)))
    raise ConfigError(
        f"{url!r} is not an address: use http://…, grpc://host:port, triton://host:port or "
        "local:PATH"
    )


class ServiceTransport:
    """The image service in this process, over any engine."""

    def __init__(self, engine: Any) -> None:
        from gan_serving.service import ImageService

        self._service = ImageService(engine, max_n=10_000, timeout_s=float("inf"))

    async def generate(self, request: GenerationRequest, timeout_s: float) -> ImageBatch:
        """Images for a request."""
        return _batch(await self._service.generate(request, timeout_s))

    async def upscale(
        self, request: UpscaleRequest, picture: Picture, timeout_s: float
    ) -> GeneratedImage:
        """What a model makes of a picture."""
        from gan_serving.upscaling import enlarge

        made = await (await enlarge(self._service, request, picture, timeout_s)).whole()
        return GeneratedImage(made.images[0], None, made.profile)

    async def upscale_png(
        self, request: UpscaleRequest, picture: Picture, timeout_s: float
    ) -> AsyncGenerator[bytes, None]:
        """The same as a PNG's pieces, each as soon as it is there and within ``timeout_s``."""
        from gan_serving.encode import png_pieces
        from gan_serving.upscaling import enlarge

        made = await within(timeout_s, enlarge(self._service, request, picture))
        async with aclosing(png_pieces(made, lambda *_: None)) as pieces:
            while (piece := await within(timeout_s, anext(pieces, None))) is not None:
                yield piece

    def frames(
        self, request: UpscaleRequest, pictures: AsyncIterator[Picture], timeout_s: float
    ) -> None:
        """Each is a call of its own."""

    async def stream(
        self, request: GenerationRequest, timeout_s: float
    ) -> AsyncGenerator[GeneratedImage, None]:
        """The same images, each as soon as it is there."""
        parts = self._service.stream(request, timeout_s)
        async with aclosing(parts):
            async for part in parts:
                for pixels, seed in zip(part.images, part.seeds, strict=True):
                    yield GeneratedImage(pixels, seed)

    def augment(self, request: AugmentRequest, timeout_s: float) -> AsyncGenerator[Sample, None]:
        """A stream from its offset on, or an error."""
        return in_parts(self, request, timeout_s)

    async def models(self) -> list[ModelCard]:
        """The newest card of every model."""
        return [published.card for published in await self._service.models()]

    async def model(self, name: str, version: int | None = None) -> ModelCard:
        """The card of one model's version; the newest by default."""
        from gan_serving.service import card_of

        return card_of(await self._service.engine.published(name), version)

    async def close(self) -> None:
        """Close the engine."""
        await self._service.engine.close()


def _batch(answer: Generation) -> ImageBatch:
    pairs = zip(answer.images, answer.seeds, strict=True)
    images = tuple(GeneratedImage(pixels, seed) for pixels, seed in pairs)
    return ImageBatch(images, answer.model, answer.version)
