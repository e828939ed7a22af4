"""Calls on the server's side: a service from its descriptor, and no failure without its status."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from gan_core.errors import BadRequest, ServiceError
from gan_serving.answers import hidden, request_id_of, shown

from .statuses import REQUEST_ID, details_of, text_of

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor
    from google.protobuf.message import Message

__all__ = ["Context", "Method", "handler_of", "metadata_of"]

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Any, Context], Awaitable[Any]]
"""Takes a message; returns the answer, or writes a stream's to the context."""


def handler_of(service: ServiceDescriptor, methods: Mapping[str, Method]) -> grpc.GenericRpcHandler:
    """What a server calls for a service. A method may raise ``ServiceError``.

    Raises:
        KeyError: a method of the service is missing.
    """
    handlers = {}
    for one in service.methods:
        make: Any = (
            grpc.unary_stream_rpc_method_handler
            if one.server_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        # read within the method: gRPC answers UNKNOWN to what its own reading refuses
        guarded = _guarded(methods[one.name], GetMessageClass(one.input_type))
        handlers[one.name] = make(guarded, response_serializer=_serialised)
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def metadata_of(context: Context, key: str) -> str | None:
    """A value of the caller's metadata, by its lower-case key."""
    value = dict(context.invocation_metadata() or ()).get(key)
    return value if isinstance(value, str) else None


def _guarded(method: Method, kind: type[Message]) -> Callable[[bytes, Context], Awaitable[Any]]:
    async def guarded(raw: bytes, context: Context) -> Any:
        async with _answered(context):
            return await method(_read(kind, raw), context)

    return guarded


@asynccontextmanager
async def _answered(context: Context) -> AsyncIterator[None]:
    """Gives the call its id, and an error its status; what a defect says stays in the log."""
    given = metadata_of(context, REQUEST_ID) or ""
    request_id = request_id_of(given)
    context.set_trailing_metadata(((REQUEST_ID, request_id),))
    try:
        yield
        return
    except ServiceError as error:
        refusal = shown(error, request_id)
    except Exception:  # the server's last line
        log.exception("request %s", request_id)
        refusal = hidden()
    code = grpc.StatusCode[refusal.grpc]
    await context.abort(code, text_of(refusal), tuple(details_of(refusal, request_id)))


def _read(kind: type[Message], raw: bytes) -> Message:
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise BadRequest(f"the message is no {kind.DESCRIPTOR.full_name}: {error}") from error


def _serialised(message: Message) -> bytes:
    return message.SerializeToString()
