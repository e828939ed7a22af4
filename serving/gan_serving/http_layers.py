"""What lies round every HTTP route: request ids, the body's limit, and a client that went away."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gan_core.errors import PayloadTooLarge, ServiceError

from . import tracing
from .answers import request_id_of
from .http_problems import CLIENT_CLOSED_REQUEST, HANDLERS, problem_response
from .telemetry import Seen

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from typing import Any

    from fastapi.routing import APIRoute
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .telemetry import Telemetry

__all__ = ["MAX_BODY_BYTES", "BodyLimit", "Direct", "Observed", "RequestId", "unless_gone"]

MAX_BODY_BYTES = 1 << 20


async def unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The answer, or none: when the client closes the connection, the work is cancelled."""
    working, is_gone = cast("asyncio.Task[Any]", asyncio.current_task()), False

    def leave(watching: asyncio.Task[None]) -> None:
        nonlocal is_gone
        if not watching.cancelled():
            is_gone = True
            working.cancel()

    watching = asyncio.create_task(_disconnected(request))
    watching.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if not is_gone or working.uncancel():
            raise
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    finally:
        watching.remove_done_callback(leave)
        watching.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Direct:
    """Answers one route before FastAPI looks for it, which costs as much as all the rest here.

    Args:
        app: answers the others.
        route: whose endpoint takes a request and gives a response.
    """

    def __init__(self, app: ASGIApp, route: APIRoute) -> None:
        self._app = app
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        is_its = scope["type"] == "http" and scope["path"] == self._route.path
        if not is_its or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = self._route
        request = Request(scope, receive, send)
        try:
            response = await self._route.endpoint(request)
        except ServiceError as error:
            response = await HANDLERS[ServiceError](request, error)
        except ClientDisconnect as error:
            response = await HANDLERS[ClientDisconnect](request, error)
        await response(scope, receive, send)


class RequestId:
    """Gives every request an id (the caller's, where it sent a sane one) and returns it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = request_id_of(given)
        scope["ganforge.request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                header = (b"x-request-id", request_id.encode())
                message["headers"] = [*message.get("headers", []), header]
            await send(message)

        await self._app(scope, receive, send_with_id)


class Observed:
    """Tells telemetry of every request, once its answer is sent."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not scope["path"].startswith("/v1/"):  # probes would bury what is asked for
            await self._observe(scope, receive, send)
            return
        with tracing.request(scope["method"], scope["headers"]):
            await self._observe(scope, receive, send)

    async def _observe(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.perf_counter(), CLIENT_CLOSED_REQUEST

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception:
            status = 500  # Starlette answers a defect outside of every middleware
            raise
        finally:
            route = scope.get("route")
            self._telemetry.seen(
                Seen(
                    protocol="http",
                    route=route.path if route else "",
                    model=scope.get("ganforge.model", ""),
                    caller=scope.get("ganforge.caller", ""),
                    code=str(status),
                    seconds=time.perf_counter() - began,
                    request_id=scope["ganforge.request_id"],
                    method=scope["method"],
                )
            )


class BodyLimit:
    """Refuses a body that is too large: by its header, or while it comes in.

    Args:
        app: what it lies round.
        larger: bytes that routes take which take more than MAX_BODY_BYTES, by path.
    """

    def __init__(self, app: ASGIApp, larger: Mapping[str, int]) -> None:
        self._app = app
        self._larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._larger.get(scope["path"], MAX_BODY_BYTES)
        refusal = PayloadTooLarge(f"the body is larger than {limit:,} bytes")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            response = problem_response(Request(scope), refusal)
            response.headers["Connection"] = "close"  # the rest of the body isn't read
            await response(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise refusal
            return message

        await self._app(scope, limited, send)
