"""The gRPC gateway: ganforge.v1 over an ImageService, with health and reflection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import grpc

from gan_core.errors import ConfigError, DeadlineExceeded

from . import health
from .grpc_api.calls import Context, Method, about, handler_of, metadata_of
from .grpc_api.chunks import split
from .grpc_api.image_service_pb2 import (
    DESCRIPTOR,
    GenerateRequest,
    GenerateResponse,
    GetModelRequest,
    Image,
    ImageChunk,
    ListModelsRequest,
    ListModelsResponse,
    ModelInfo,
    Usage,
)
from .grpc_api.made import data_of, fields_of
from .grpc_api.messages import request_of
from .grpc_api.reflection import reflecting
from .grpc_api.upscale import Upscaling
from .health import Health
from .service import card_of
from .sockets import listen
from .telemetry import Telemetry
from .upscaling import MAX_IMAGE_BYTES

if TYPE_CHECKING:
    from .gatekeeper import Gatekeeper
    from .keys import Caller
    from .published import Published
    from .readiness import Readiness
    from .schema import GenerationRequest
    from .service import Generation, ImageService

__all__ = ["MAX_MESSAGE_BYTES", "SERVICE", "GrpcGateway"]

SERVICE = DESCRIPTOR.services_by_name["ImageService"]
MAX_MESSAGE_BYTES = 1 << 20
METADATA_BYTES = 1 << 14


class GrpcGateway:
    """A gRPC server over an image service.

    Args:
        service: generates the images.
        readiness: answers health checks.
        gatekeeper: knows who may ask for what.
        telemetry: counts and times what goes on.
        credentials: of TLS; None serves in the clear.
        max_message_bytes: largest message that is read.
        max_image_bytes: largest frame, of several messages.
        shared_port: other processes listen on the same port.
    """

    def __init__(
        self,
        service: ImageService,
        readiness: Readiness,
        gatekeeper: Gatekeeper,
        telemetry: Telemetry | None = None,
        *,
        credentials: grpc.ServerCredentials | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_image_bytes: int = MAX_IMAGE_BYTES,
        shared_port: bool = False,
    ) -> None:
        self._credentials = credentials
        self._health = Health(readiness, SERVICE.full_name)
        watched = telemetry or Telemetry(service)
        images = _Images(service, gatekeeper, watched)
        upscaling = Upscaling(service, gatekeeper, watched.encoded, max_image_bytes)
        methods: dict[str, Method] = {
            "Generate": images.generate,
            "GenerateStream": images.generate_stream,
            "Upscale": upscaling.upscale,
            "ListModels": images.list_models,
            "GetModel": images.get_model,
        }
        self._handlers = [
            handler_of(SERVICE, methods, watched.seen),
            self._health.handler,
            *reflecting([SERVICE.full_name, health.SERVICE.full_name]),
        ]
        self._options = [
            ("grpc.max_receive_message_length", max_message_bytes),
            # one limit, not a range in which requests are refused at random
            ("grpc.max_metadata_size", METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", METADATA_BYTES),
            # elsewhere a port that is taken is an error, not half a port
            ("grpc.so_reuseport", int(shared_port)),
        ]
        self._shared_port = shared_port
        self._server: grpc.aio.Server | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen, and return the port; 0 is any free one.

        Raises:
            ConfigError: the port is taken, or the host isn't this machine's.
        """
        if not self._shared_port:
            listen(host, port).close()  # gRPC would write lines of its own where it is taken
        server = grpc.aio.server(handlers=self._handlers, options=self._options)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._credentials is None:
                bound = server.add_insecure_port(address)
            else:
                bound = server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise ConfigError(
                f"can't listen on {address}: {error}; choose another --host or --grpc-port"
            ) from error
        await server.start()
        self._server = server
        return bound

    def drain(self) -> None:
        """Tell health checks that no more requests should come; those that do are answered."""
        self._health.drain()

    async def stop(self, grace_s: float) -> None:
        """Take no more requests, and answer those in flight within ``grace_s``."""
        self.drain()
        if self._server is not None:
            await self._server.stop(grace_s)


class _Images:
    """The methods of ganforge.v1.ImageService."""

    def __init__(self, service: ImageService, gatekeeper: Gatekeeper, telemetry: Telemetry) -> None:
        self._service = service
        self._gatekeeper = gatekeeper
        self._telemetry = telemetry

    async def generate(self, message: GenerateRequest, context: Context) -> GenerateResponse:
        async with self._admitted(message, context) as (caller, request):
            timeout_s = self._timeout_s(context)
            generation = await self._service.generate(request, timeout_s, caller.name)
            files = await self._data(generation, request, message)
        pairs = zip(files, generation.seeds, strict=True)
        return GenerateResponse(
            images=[Image(data=file, seed=seed) for file, seed in pairs],
            usage=Usage(images=len(files), compute_ms=generation.compute_ms),
            **fields_of(generation, message.output_format),
        )

    async def generate_stream(self, message: GenerateRequest, context: Context) -> None:
        async with self._admitted(message, context) as (caller, request):
            timeout_s = self._timeout_s(context)
            # alone, for a first message that is given up would take it along, and the status too
            await context.send_initial_metadata(())
            try:
                async with asyncio.timeout(timeout_s):  # a client may stop reading
                    parts = self._service.stream(request, timeout_s, caller.name)
                    async with aclosing(parts):
                        await self._send(parts, request, message, context)
            except TimeoutError as error:
                raise DeadlineExceeded(
                    f"not all images could be sent within {timeout_s:.3g} s"
                ) from error

    async def list_models(self, message: ListModelsRequest, context: Context) -> ListModelsResponse:
        caller = await self._caller(context)
        found = [one for one in await self._service.models() if caller.may_use(one.name)]
        return ListModelsResponse(models=map(_info, found))

    async def get_model(self, message: GetModelRequest, context: Context) -> ModelInfo:
        caller = await self._caller(context)
        self._gatekeeper.check_model(caller, message.model)
        version = message.version if message.HasField("version") else None
        return _info(await self._service.engine.published(message.model), version)

    async def _caller(self, context: Context) -> Caller:
        caller = await self._gatekeeper.caller(metadata_of(context, "authorization"))
        about().caller = caller.name
        return caller

    @asynccontextmanager
    async def _admitted(
        self, message: GenerateRequest, context: Context
    ) -> AsyncIterator[tuple[Caller, GenerationRequest]]:
        """Who asks and for what, once it is known that they may."""
        caller = await self._caller(context)
        request = request_of(message)
        about().model = request.model
        self._gatekeeper.check_model(caller, request.model)
        async with self._gatekeeper.admitted(caller, self._service.count(request)):
            yield caller, request

    def _timeout_s(self, context: Context) -> float:
        left_s: float | None = context.time_remaining()
        longest_s = self._service.timeout_s
        return longest_s if left_s is None else max(min(left_s, longest_s), 0.001)

    async def _send(
        self,
        parts: AsyncIterator[Generation],
        request: GenerationRequest,
        message: GenerateRequest,
        context: Context,
    ) -> None:
        index = 0
        async for part in parts:
            made = await self._data(part, request, message)
            for file, seed in zip(made, part.seeds, strict=True):
                head = ImageChunk(index=index, seed=seed, **fields_of(part, message.output_format))
                for chunk in split(file, head):
                    await context.write(chunk)
                index += 1

    async def _data(
        self, generation: Generation, request: GenerationRequest, message: GenerateRequest
    ) -> list[bytes]:
        quality, encoded = request.output_compression, self._telemetry.encoded
        return await data_of(generation, message.output_format, quality, encoded)


def _info(published: Published, version: int | None = None) -> ModelInfo:
    return ModelInfo(
        name=published.name,
        versions=sorted(published.cards),
        card_json=card_of(published, version).model_dump_json(),
    )
