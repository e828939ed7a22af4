"""Service errors as gRPC statuses and back: what one face says, the other understands."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from gan_core.errors import (
    SERVICE_ERRORS,
    ConnectionFailed,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    PayloadTooLarge,
    PermissionDenied,
    QueueFull,
    RouteNotFound,
    ServiceError,
    Unauthenticated,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator

__all__ = ["DOMAIN", "REQUEST_ID", "as_ended", "details_of", "error_of", "text_of"]

T = TypeVar("T")

DOMAIN = "ganforge"
REQUEST_ID = "x-request-id"
DETAILS = "grpc-status-details-bin"
MESSAGE_BYTES = 1024
"""Of an error's text: it travels twice, escaped, in trailers of which clients take 8 KiB."""
OF_STATUS: dict[str, type[ServiceError]] = {
    "CANCELLED": ConnectionFailed,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "INVALID_ARGUMENT": InvalidRequest,
    "NOT_FOUND": ModelNotFound,
    "PERMISSION_DENIED": PermissionDenied,
    "RESOURCE_EXHAUSTED": QueueFull,
    "UNAUTHENTICATED": Unauthenticated,
    "UNAVAILABLE": ConnectionFailed,
    "UNIMPLEMENTED": RouteNotFound,
}
"""What a bare status means: of a proxy, of gRPC itself, or because there is no server."""
OF_TEXT: dict[str, type[ServiceError]] = {
    "larger than max": PayloadTooLarge,
    "metadata size exceeds": PayloadTooLarge,
    "header with status": Unavailable,
}
"""gRPC's own words, where its status merges what is told apart here."""


def text_of(error: ServiceError) -> str:
    """The error's message, of a length that fits trailers."""
    raw = error.message.encode("utf-8", "replace")
    return raw[:MESSAGE_BYTES].decode("utf-8", "ignore") + ("…" if len(raw) > MESSAGE_BYTES else "")


def details_of(error: ServiceError, request_id: str) -> list[tuple[str, str | bytes]]:
    """Trailing metadata that tells an error's class, field and wait beside its status."""
    metadata = {"request_id": request_id}
    if error.param is not None:
        metadata["param"] = error.param
    code: int = grpc.StatusCode[error.grpc].value[0]
    status = Status(code=code, message=text_of(error))
    status.details.add().Pack(
        ErrorInfo(reason=error.code.upper(), domain=DOMAIN, metadata=metadata)
    )
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(math.ceil(error.retry_after_s * 1e9))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    return [(REQUEST_ID, request_id), (DETAILS, status.SerializeToString())]


@contextmanager
def as_ended(call: Any) -> Iterator[None]:
    """Raises the status that a call ended with first.

    A write that fails because the server has ended the call puts "Internal error from Core" in
    the place of what the server said (https://github.com/grpc/grpc/issues/36066): most files that
    are refused while they are being sent would meet it.
    """
    ends: list[grpc.aio.AioRpcError] = []
    call.add_done_callback(lambda call: ends.append(_at_once(_ended(call))))
    try:
        yield
    except grpc.aio.AioRpcError:
        raise ends[0] from None


async def _ended(call: Any) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        await call.code(),
        await call.initial_metadata(),
        await call.trailing_metadata(),
        details=await call.details(),
    )


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """What it returns; it has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as returned:
        value: T = returned.value
        return value
    raise AssertionError("the call has not ended")


def error_of(failed: grpc.aio.AioRpcError, address: str) -> ServiceError:
    """The exception that a call's status stands for; ``address`` is whom it was made to."""
    trailing = dict(failed.trailing_metadata() or ())
    info, retry_after_s = _unpacked(trailing.get(DETAILS))
    name, text = failed.code().name, failed.details() or ""
    kind = SERVICE_ERRORS.get(info.reason.lower()) if info.domain == DOMAIN else None
    if kind is None:
        kind = next((told for words, told in OF_TEXT.items() if words in text), None)
        kind = kind or OF_STATUS.get(name, InternalError)
        text = f"{address}: {name}: {text}"
    return kind(
        text,
        param=info.metadata.get("param"),
        retry_after_s=retry_after_s,
        request_id=_text(trailing.get(REQUEST_ID)),
    )


def _unpacked(raw: Any) -> tuple[ErrorInfo, float | None]:
    """Error and wait of a status's details; empty ones where it has none, or not ours."""
    info, retry = ErrorInfo(), RetryInfo()
    found: list[Any] = []
    try:
        details: Iterable[Any] = Status.FromString(raw or b"").details
        found = [kind for kind in (info, retry) for one in details if one.Unpack(kind)]
    except DecodeError:
        pass  # what stands before a server may answer anything
    wait_s = retry.retry_delay.ToNanoseconds() / 1e9
    return info, max(0.0, wait_s) if retry in found else None


def _text(value: str | bytes | None) -> str | None:
    return value.decode("latin-1") if isinstance(value, bytes) else value
