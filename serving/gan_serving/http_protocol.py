"""HTTP/1.1 as uvicorn speaks it, but not for ever, and what isn't HTTP gets a problem too.

Uvicorn waits without end for the rest of a request, and reads a head of any size.
"""

from __future__ import annotations

import json
import uuid
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gan_core.errors import BadRequest, PayloadTooLarge

from .schema import PROBLEM_TYPE, problem

if TYPE_CHECKING:
    import asyncio

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from gan_core.errors import ServiceError

__all__ = ["MAX_HEAD_BYTES", "BoundedProtocol"]

READ_S = 30.0
"""Longest that a request may take to come in."""
MAX_HEAD_BYTES = 1 << 16
"""Largest head: what is asked for and the headers, each with a separator and a line's end."""
SEPARATOR_BYTES = 4
HEAD_TOO_LARGE = PayloadTooLarge(f"the head is larger than {MAX_HEAD_BYTES:,} bytes")


class BoundedProtocol(HttpToolsProtocol):
    """One connection, closed if a request doesn't come in within READ_S or is no HTTP."""

    _head_bytes = 0
    _in_body = False
    _patience: asyncio.TimerHandle | None = None
    _cycles: deque[RequestResponseCycle]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Wait for the first request."""
        super().connection_made(transport)
        self._cycles = deque()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read on, within bounds."""
        before, was_in_body = self.cycle, self._in_body
        super().data_received(data)
        if self.cycle is not before:
            self._head_bytes = 0
        elif not was_in_body:
            self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(HEAD_TOO_LARGE)
        self._watch()

    def on_headers_complete(self) -> None:
        """Begin a request, unless its head is too large."""
        lengths = (len(name) + len(value) + SEPARATOR_BYTES for name, value in self.headers)
        size = len(self.url) + SEPARATOR_BYTES + sum(lengths)
        if size > MAX_HEAD_BYTES:
            self._head_bytes = size
            raise HEAD_TOO_LARGE  # the parser stops, and uvicorn calls send_400_response
        self._in_body = True
        super().on_headers_complete()
        while self._cycles and self._cycles[0].response_complete:
            self._cycles.popleft()
        self._cycles.append(self.cycle)

    def on_message_complete(self) -> None:
        """What comes next is another head."""
        self._in_body = False
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting; tell every request, of which uvicorn tells the last alone."""
        self._forget()
        super().connection_lost(exc)
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for what it can't parse."""
        self._refuse(HEAD_TOO_LARGE if self._head_bytes > MAX_HEAD_BYTES else BadRequest(msg))

    def _watch(self) -> None:
        cycle = self.cycle
        if cycle is not None and not cycle.more_body and not cycle.response_complete:
            self._forget()  # a whole request, which is being answered
        elif self._patience is None and not self.transport.is_closing():
            self._patience = self.loop.call_later(READ_S, self._give_up)

    def _forget(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        cycle = self.cycle
        asked = self._head_bytes or (cycle is not None and not cycle.response_started)
        if asked:
            self._refuse(BadRequest(f"the request didn't come in within {READ_S:g} s"))
        else:
            self.transport.close()

    def _refuse(self, error: ServiceError) -> None:
        request_id = uuid.uuid4().hex
        body = json.dumps(problem(error, request_id)).encode()
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
            f"Content-Type: {PROBLEM_TYPE}\r\nContent-Length: {len(body)}\r\n"
            f"X-Request-Id: {request_id}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
