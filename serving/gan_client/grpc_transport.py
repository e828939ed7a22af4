"""The gateway over gRPC: pixels as they are, in a stream, on one connection."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import grpc

from gan_core.card import ModelCard
from gan_core.errors import (
    ConfigError,
    ConnectionFailed,
    InternalError,
    ServiceError,
)
from gan_serving.grpc_api.chunks import Assembly
from gan_serving.grpc_api.frames import pieces
from gan_serving.grpc_api.image_service_pb2 import ListModelsRequest, OutputFormat
from gan_serving.grpc_api.image_service_pb2_grpc import ImageServiceStub
from gan_serving.grpc_api.messages import message_of, model_message, upscale_message
from gan_serving.grpc_api.statuses import as_ended, error_of

from .augmentation import in_parts
from .frames import through
from .hints import hinted
from .images import GeneratedImage, ImageBatch
from .upscaling import within

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from gan_serving.schema import AugmentRequest, GenerationRequest, UpscaleRequest

    from .augmentation import Sample
    from .pictures import Picture
    from .tls import Tls

__all__ = ["GrpcTransport"]

CONTROL_TIMEOUT_S = 30.0
LONGEST_S = 3600.0
LOOPBACK = frozenset({"127.0.0.1", "[::1]", "localhost"})


class GrpcTransport:
    """The gateway over gRPC.

    Args:
        address: ``host:port``; an IPv6 host in brackets.
        key: API key, sent with every call.
        tls: whom to believe; None for a server without TLS.

    Raises:
        ConfigError: ``address`` isn't one, ``key`` can't be sent, or ``tls`` can't be used.
    """

    def __init__(
        self,
        address: str,
        *,
        key: str | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._host = _checked(address)
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ConfigError("the API key has characters that no key has: was it cut or quoted?")
        self._address = address
        self._metadata = [] if key is None else [("authorization", f"Bearer {key}")]
        self._credentials = None if tls is None else tls.credentials()
        self._connected: grpc.aio.Channel | None = None

    async def generate(self, request: GenerationRequest, timeout_s: float) -> ImageBatch:
        """Images for a request."""
        message = message_of(request)
        chunks = self._stub.GenerateStream(message, **self._options(timeout_s))
        return await self._images(chunks, request.model)

    async def upscale(
        self, request: UpscaleRequest, picture: Picture, timeout_s: float
    ) -> GeneratedImage:
        """What a model makes of a picture."""
        messages = pieces(picture, upscale_message(request))
        chunks = self._stub.Upscale(messages, **self._options(timeout_s))
        with _of_one_frame():
            (image,) = await self._images(chunks, request.model)
        return image

    async def upscale_png(
        self, request: UpscaleRequest, picture: Picture, timeout_s: float
    ) -> AsyncGenerator[bytes, None]:
        """The same as a PNG's pieces, each as soon as it is there and within ``timeout_s``."""
        message = upscale_message(request)
        message.output_format = OutputFormat.OUTPUT_FORMAT_PNG
        call = self._stub.Upscale(pieces(picture, message), metadata=self._metadata)
        received, complete = 0, False
        try:
            with _of_one_frame():
                async with self._told_apart(call):
                    while not complete:
                        chunk = await within(timeout_s, call.read())
                        if chunk is grpc.aio.EOF or chunk.offset != received:
                            raise ValueError(f"the PNG breaks off after {received:,} bytes")
                        received += len(chunk.data)
                        complete = chunk.last
                        yield chunk.data
        finally:
            call.cancel()

    async def frames(
        self, request: UpscaleRequest, pictures: AsyncIterator[Picture], timeout_s: float
    ) -> AsyncGenerator[tuple[GeneratedImage, float], None]:
        """What a model makes of pictures, in one call, and each one's latency in seconds."""
        call = self._stub.Upscale(metadata=self._metadata)
        answers = through(call, upscale_message(request), pictures, timeout_s)
        async with self._told_apart(call), aclosing(answers):
            async for answer in answers:
                yield answer

    async def _images(self, call: Any, model: str) -> ImageBatch:
        assembly = Assembly()
        async with self._told_apart(call):
            async for chunk in call:
                assembly.add(chunk)
            assembly.finish()
        images = tuple(GeneratedImage(*one) for one in assembly.images)
        # the name that was asked for, not the answer's: files are called after it
        return ImageBatch(images, model, assembly.version)

    async def stream(
        self, request: GenerationRequest, timeout_s: float
    ) -> AsyncGenerator[GeneratedImage, None]:
        """The same images, each as soon as it is there."""
        message = message_of(request)
        assembly = Assembly()
        async with self._told_apart():
            call = self._stub.GenerateStream(message, **self._options(timeout_s))
            try:
                async for chunk in call:
                    assembly.add(chunk)
                    if chunk.last:
                        yield GeneratedImage(*assembly.images[-1])
            finally:
                call.cancel()
            assembly.finish()

    def augment(self, request: AugmentRequest, timeout_s: float) -> AsyncGenerator[Sample, None]:
        """A stream from its offset on, or an error."""
        return in_parts(self, request, timeout_s)

    async def models(self) -> list[ModelCard]:
        """The newest card of every model."""
        async with self._told_apart():
            answer = await self._stub.ListModels(ListModelsRequest(), **self._options())
            return [ModelCard.model_validate_json(info.card_json) for info in answer.models]

    async def model(self, name: str, version: int | None = None) -> ModelCard:
        """The card of one model's version; the newest by default."""
        asked = model_message(name, version)
        async with self._told_apart():
            answer = await self._stub.GetModel(asked, **self._options())
            return ModelCard.model_validate_json(answer.card_json)

    async def close(self) -> None:
        """Close the connection."""
        channel, self._connected = self._connected, None
        if channel is not None:
            await channel.close()

    @property
    def _stub(self) -> Any:
        if self._connected is None:
            self._connected = self._channel()
        return ImageServiceStub(self._connected)  # type: ignore[no-untyped-call]  # generated

    def _channel(self) -> grpc.aio.Channel:
        options = [
            # no proxy of the environment lies between a machine and itself
            ("grpc.enable_http_proxy", int(self._host not in LOOPBACK)),
            ("grpc.max_receive_message_length", -1),  # a list of many models
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._address, options)
        return grpc.aio.secure_channel(self._address, self._credentials, options)

    def _options(self, timeout_s: float = CONTROL_TIMEOUT_S) -> dict[str, Any]:
        return {"timeout": min(timeout_s, LONGEST_S), "metadata": self._metadata}

    def _explained(self, error: ServiceError) -> ServiceError:
        if not isinstance(error, ConnectionFailed):
            return error
        scheme = "grpc" if self._credentials is None else "grpcs"
        return ConnectionFailed(hinted(scheme, error.message), request_id=error.request_id)

    @asynccontextmanager
    async def _told_apart(self, call: Any = None) -> AsyncIterator[None]:
        """Raises what a failed call stands for."""
        try:
            with nullcontext() if call is None else as_ended(call):
                yield
        except grpc.aio.AioRpcError as error:
            raise self._explained(error_of(error, self._address)) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # a call that ends because its channel was closed
            raise ConnectionFailed(f"the connection to {self._address} was closed") from error
        except ValueError as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise InternalError(
                f"{self._address} doesn't answer as a ganforge gateway does: {first}"
            ) from error


@contextmanager
def _of_one_frame() -> Iterator[None]:
    """Errors don't say which frame they are of: there is no other."""
    try:
        yield
    except ServiceError as error:
        error.message = error.message.removeprefix("frame 0: ")
        error.args = (error.message,)
        raise


def _checked(address: str) -> str:
    """The host of ``host:port``."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"{address!r} is not HOST:PORT of a ganforge server's gRPC endpoint")
    return host
