"""Calls on the server's side: a service from its descriptor, and no failure without its status."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from gan_core.errors import BadRequest, ServiceError
from gan_serving import tracing
from gan_serving.answers import hidden, request_id_of, shown
from gan_serving.telemetry import Seen

from .statuses import REQUEST_ID, details_of, text_of

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor
    from google.protobuf.message import Message

__all__ = ["About", "Context", "Method", "Observer", "about", "handler_of", "metadata_of"]

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Any, Context], Awaitable[Any]]
"""Takes a message, or an iterator of a stream's; returns the answer, or writes a stream's to the
context."""
KINDS: dict[tuple[bool, bool], Any] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
"""By what is a stream: the request, the answer."""
Observer = Callable[[Seen], None]
"""Told of each call, once it is over."""


Call = Callable[[Any, Context], Awaitable[Any]]


@dataclass(slots=True)
class About:
    """Who calls, for which model and how it ended, as far as that is known yet."""

    request_id: str
    caller: str = ""
    model: str = ""
    code: str = "OK"


_about: ContextVar[About] = ContextVar("about")


def about() -> About:
    """What is known of the call that is being answered, to be filled in."""
    return _about.get()


def handler_of(
    service: ServiceDescriptor, methods: Mapping[str, Method], observer: Observer | None = None
) -> grpc.GenericRpcHandler:
    """What a server calls for a service. A method may raise ``ServiceError``.

    Without an observer, as for probes, calls are neither told nor traced.

    Raises:
        KeyError: a method of the service is missing.
    """
    handlers = {}
    for one in service.methods:
        make = KINDS[one.client_streaming, one.server_streaming]
        # read within the method: gRPC answers UNKNOWN to what its own reading refuses
        read = _read_all if one.client_streaming else _read
        guarded = _guarded(methods[one.name], partial(read, GetMessageClass(one.input_type)))
        if observer is not None:
            guarded = _observed(guarded, f"{service.full_name}/{one.name}", observer)
        handlers[one.name] = make(guarded, response_serializer=_serialised)
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def metadata_of(context: Context, key: str) -> str | None:
    """A value of the caller's metadata, by its lower-case key."""
    value = dict(context.invocation_metadata() or ()).get(key)
    return value if isinstance(value, str) else None


def _guarded(method: Method, read: Callable[[Any], Any]) -> Call:
    async def guarded(raw: Any, context: Context) -> Any:
        _about.set(About(request_id_of(metadata_of(context, REQUEST_ID) or "")))
        async with _answered(context):
            return await method(read(raw), context)

    return guarded


def _observed(call: Call, route: str, observer: Observer) -> Call:
    async def observed(raw: Any, context: Context) -> Any:
        began = time.perf_counter()
        with tracing.request(route, context.invocation_metadata() or ()):
            try:
                return await call(raw, context)
            finally:
                seconds = time.perf_counter() - began
                observer(Seen(protocol="grpc", route=route, seconds=seconds, **asdict(about())))

    return observed


@asynccontextmanager
async def _answered(context: Context) -> AsyncIterator[None]:
    """Gives the call its id, and an error its status."""
    known = about()
    context.set_trailing_metadata(((REQUEST_ID, known.request_id),))
    try:
        yield
    except asyncio.CancelledError:
        known.code = _given_up(context)
        raise
    except Exception as error:  # noqa: BLE001  the server's last line
        refusal = _refusal(error, known.request_id)
        known.code = refusal.grpc
        details = tuple(details_of(refusal, known.request_id))
        await context.abort(grpc.StatusCode[refusal.grpc], text_of(refusal), details)


def _refusal(error: Exception, request_id: str) -> ServiceError:
    """What the caller is told; what a defect says stays in the log."""
    if isinstance(error, ServiceError):
        return shown(error, request_id)
    log.error("request %s", request_id, exc_info=error)
    return hidden()


def _given_up(context: Context) -> str:
    """Why gRPC ended a call: at its deadline, or because the caller cancelled it."""
    left_s = context.time_remaining()
    return "CANCELLED" if left_s is None or left_s > 0 else "DEADLINE_EXCEEDED"


def _read(kind: type[Message], raw: bytes) -> Message:
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise BadRequest(f"the message is no {kind.DESCRIPTOR.full_name}: {error}") from error


async def _read_all(kind: type[Message], raw: AsyncIterator[bytes]) -> AsyncIterator[Message]:
    async for one in raw:
        yield _read(kind, one)


def _serialised(message: Message) -> bytes:
    return message.SerializeToString()
