"""How bytes go to a server and come back.

At as little cost as can be: the client of a measurement often shares its machine with the server.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast
from urllib.parse import urlsplit

import grpc
import httptools

from gan_core.errors import ConfigError
from gan_serving.grpc_api.statuses import error_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["OK", "TIMEOUT", "TRANSPORT", "GrpcLine", "HttpLine", "Line", "Reply"]

OK = "ok"
TIMEOUT = "timeout"
"""No answer, though the deadline and a grace are over."""
TRANSPORT = "transport"
"""No connection, one that closed before the answer was complete, or no HTTP on it."""
GRACE_S = 1.0
"""After its deadline a server may still say that it was missed."""


class Reply(NamedTuple):
    """What came back."""

    code: str
    """OK, TIMEOUT, TRANSPORT, or status and the error's code, such as ``429 queue_full``."""
    body: bytes = b""
    retry_after_s: float | None = None


class Line(Protocol):
    """A caller's way to a server. One call at a time; whatever goes wrong is a reply."""

    async def call(self, request: bytes, timeout_s: float) -> Reply:
        """The reply to a request whose answer is of use for so long."""

    async def close(self) -> None:
        """Hang up."""


class HttpLine:
    """A persistent connection that sends requests as they are, made again where it was closed.

    Args:
        url: whose host it connects to, with TLS for ``https``.

    Raises:
        ConfigError: ``url`` names no host or no such port.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{url!r} is not an address: {error}") from error
        if not parts.hostname:
            raise ConfigError(f"{url!r} is not an address: use http://host:port")
        self._tls = True if parts.scheme == "https" else None
        self._address = parts.hostname, port or (443 if self._tls else 80)
        self._connection: _Connection | None = None

    async def call(self, request: bytes, timeout_s: float) -> Reply:
        """The reply to a request, given as all its bytes."""
        loop = asyncio.get_running_loop()
        try:
            if self._connection is None or self._connection.closing:
                _, self._connection = await loop.create_connection(
                    _Connection, *self._address, ssl=self._tls
                )
        except OSError:
            return Reply(TRANSPORT)
        answer = self._connection.send(request)
        watch = loop.call_later(timeout_s + GRACE_S, self._connection.give_up)
        try:
            return await answer
        finally:
            watch.cancel()

    async def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.give_up()


class _Connection(asyncio.Protocol):
    """One connection, from its first request to its end."""

    transport: asyncio.Transport
    _answer: asyncio.Future[Reply] | None = None

    @property
    def closing(self) -> bool:
        """Whether no more can be sent."""
        return self.transport.is_closing()

    def send(self, request: bytes) -> asyncio.Future[Reply]:
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def give_up(self) -> None:
        self._reply(Reply(TIMEOUT))
        self.transport.abort()

    def _reply(self, reply: Reply) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(reply)

    # called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._reply(Reply(TRANSPORT))

    # called by the parser

    def on_message_begin(self) -> None:
        self._parts: list[bytes] = []
        self._retry_after_s: float | None = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after" and value.isdigit():
            self._retry_after_s = float(value)

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        body, status = b"".join(self._parts), self._parser.get_status_code()
        self._reply(Reply(_code(status, body), body, self._retry_after_s))
        if not self._parser.should_keep_alive():
            self.transport.close()


def _code(status: int, body: bytes) -> str:
    """The status, and the code of a ganforge server's problem."""
    if status < 300:
        return OK
    try:
        return f"{status} {json.loads(body)['error']['code']}"
    except (ValueError, KeyError, TypeError):
        return str(status)


class GrpcLine:
    """A gRPC channel that sends messages as they are; channels to one server share a connection.

    Args:
        address: ``host:port``.
        method: such as ``/ganforge.v1.ImageService/Generate``; one message in, one out.
        metadata: of every call.
        tls: whether the server's certificate is asked for and checked.
    """

    def __init__(
        self,
        address: str,
        method: str,
        metadata: Sequence[tuple[str, str]] = (),
        *,
        tls: bool = False,
    ) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
        self._address = address
        self._metadata = tuple(metadata)
        self._channel = (
            grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(), options)
            if tls
            else grpc.aio.insecure_channel(address, options)
        )
        self._method: Any = self._channel.unary_unary(method)

    async def call(self, request: bytes, timeout_s: float) -> Reply:
        """The reply to a serialised message."""
        try:
            body = await self._method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as failed:
            error = error_of(failed, self._address)
            code = f"{error.status} {error.code}"
            return Reply(
                TRANSPORT if error.code == "connection_failed" else code,
                error.message.encode(),
                error.retry_after_s,
            )
        return Reply(OK, body)

    async def close(self) -> None:
        """Let go of the channel."""
        await self._channel.close()
