"""Calls on the server's side: a service from its descriptor, and no failure without its status."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from gan_core.errors import BadRequest, ServiceError
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
"""Takes a message; returns the answer, or writes a stream's to the context."""
Observer = Callable[[Seen], None]
"""Told of each call, once it is over."""


@dataclass(slots=True)
class About:
    """Who calls and for which model, as far as that is known yet."""

    caller: str = ""
    model: str = ""


_about: ContextVar[About] = ContextVar("about")


def about() -> About:
    """What is known of the call that this task answers, to be filled in."""
    return _about.get()


def _unseen(call: Seen) -> None:
    pass


def handler_of(
    service: ServiceDescriptor, methods: Mapping[str, Method], observer: Observer = _unseen
) -> grpc.GenericRpcHandler:
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
        answered = partial(_answered, f"{service.full_name}/{one.name}", observer)
        guarded = _guarded(methods[one.name], GetMessageClass(one.input_type), answered)
        handlers[one.name] = make(guarded, response_serializer=_serialised)
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def metadata_of(context: Context, key: str) -> str | None:
    """A value of the caller's metadata, by its lower-case key."""
    value = dict(context.invocation_metadata() or ()).get(key)
    return value if isinstance(value, str) else None


Answered = Callable[[Context], AbstractAsyncContextManager[None]]


def _guarded(
    method: Method, kind: type[Message], answered: Answered
) -> Callable[[bytes, Context], Awaitable[Any]]:
    async def guarded(raw: bytes, context: Context) -> Any:
        async with answered(context):
            return await method(_read(kind, raw), context)

    return guarded


@asynccontextmanager
async def _answered(route: str, observer: Observer, context: Context) -> AsyncIterator[None]:
    """Gives the call its id, and an error its status; tells the observer how it ended."""
    request_id = request_id_of(metadata_of(context, REQUEST_ID) or "")
    context.set_trailing_metadata(((REQUEST_ID, request_id),))
    began, code, known = time.perf_counter(), "OK", About()
    _about.set(known)
    try:
        yield
    except asyncio.CancelledError:
        code = _given_up(context)
        raise
    except Exception as error:  # noqa: BLE001  the server's last line
        refusal = _refusal(error, request_id)
        code = refusal.grpc
        details = tuple(details_of(refusal, request_id))
        await context.abort(grpc.StatusCode[code], text_of(refusal), details)
    finally:
        seconds = time.perf_counter() - began
        observer(
            Seen(
                protocol="grpc",
                route=route,
                model=known.model,
                caller=known.caller,
                code=code,
                seconds=seconds,
                request_id=request_id,
            )
        )


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


def _serialised(message: Message) -> bytes:
    return message.SerializeToString()
