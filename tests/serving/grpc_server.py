"""A gRPC gateway on a port of its own, and calls to it without any generated stub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from gan_serving.gatekeeper import Gatekeeper
from gan_serving.grpc_api.image_service_pb2_grpc import ImageServiceStub
from gan_serving.grpc_gateway import GrpcGateway
from gan_serving.readiness import Readiness
from gan_serving.service import ImageService

if TYPE_CHECKING:
    from gan_serving.engine import Engine
    from gan_serving.telemetry import Telemetry

__all__ = ["asked", "raw_call", "raw_stream", "running"]

T = TypeVar("T")


@asynccontextmanager
async def running(
    engine: Engine,
    gatekeeper: Any = None,
    telemetry: Telemetry | None = None,
    *,
    timeout_s: float = 30.0,
) -> AsyncIterator[tuple[GrpcGateway, str]]:
    """The gateway and its address."""
    service = ImageService(engine, max_n=200, timeout_s=timeout_s)
    gateway = GrpcGateway(service, Readiness(service), gatekeeper or Gatekeeper(None), telemetry)
    try:
        yield gateway, f"127.0.0.1:{await gateway.start()}"
    finally:
        await gateway.stop(0)
        await engine.close()


def asked(engine: Engine, ask: Callable[[Any], Awaitable[T]], **options: Any) -> T:
    """What a coroutine makes of a stub of a running gateway."""

    async def run() -> T:
        async with running(engine, **options) as (_, address):
            limits = [("grpc.max_receive_message_length", -1), ("grpc.max_metadata_size", 1 << 20)]
            async with grpc.aio.insecure_channel(address, limits) as channel:
                return await ask(ImageServiceStub(channel))  # type: ignore[no-untyped-call]

    return asyncio.run(run())


def raw_call(channel: grpc.aio.Channel, method: str) -> Callable[..., Any]:
    """A unary call of bytes to bytes, by the method's full name."""
    return channel.unary_unary(f"/{method}")


def raw_stream(channel: Any, method: str, message: bytes) -> Any:
    """A call of bytes that is answered with a stream of bytes."""
    return channel.unary_stream(f"/{method}")(message)
