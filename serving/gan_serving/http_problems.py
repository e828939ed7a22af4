"""Every way in which an HTTP request fails, as one kind of answer: RFC 9457 problem+json."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match, Route

from gan_core.errors import (
    BadRequest,
    IdempotencyConflict,
    MethodNotAllowed,
    RouteNotFound,
    ServiceError,
    Unauthenticated,
)

from .answers import hidden, shown
from .schema import PROBLEM_TYPE, explained, problem

__all__ = ["CLIENT_CLOSED_REQUEST", "HANDLERS", "problem_response"]

if TYPE_CHECKING:
    from starlette.requests import Request

log = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499


def problem_response(request: Request, error: ServiceError) -> Response:
    """The answer, with the request's id, and Retry-After where it helps."""
    request_id = request.scope.get("ganforge.request_id", "")
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == Unauthenticated.status:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == IdempotencyConflict.status:
        headers["X-Should-Retry"] = "false"  # OpenAI's clients would
    body = json.dumps(problem(error, request_id))  # ASCII: a lone surrogate must not break it
    return Response(body, error.status, headers, media_type=PROBLEM_TYPE)


async def _on_service_error(request: Request, error: Any) -> Response:
    return problem_response(request, shown(error, request.scope.get("ganforge.request_id", "")))


async def _on_invalid(request: Request, error: Any) -> Response:
    found = error.errors()
    if found[0]["type"] == "json_invalid":
        return problem_response(request, BadRequest(f"not JSON: {found[0]['ctx']['error']}"))
    # FastAPI puts the place before the field: body, path or query
    return problem_response(request, explained({**one, "loc": one["loc"][1:]} for one in found))


async def _on_http(request: Request, error: Any) -> Response:
    route = f"{request.method} {request.url.path}"
    known: dict[int, ServiceError] = {
        404: RouteNotFound(f"no route {route}; see /docs"),
        405: MethodNotAllowed(f"{route} is not allowed; see /docs"),
    }
    found = known.get(error.status_code) or BadRequest(str(error.detail))
    response = problem_response(request, found)
    if error.status_code == MethodNotAllowed.status:
        response.headers["Allow"] = ", ".join(sorted(_methods(request)))
    return response


def _methods(request: Request) -> set[str]:
    """What the path's routes take, all of them."""
    routes = (route for route in request.app.routes if isinstance(route, Route))
    matching = (one for one in routes if one.matches(request.scope)[0] is not Match.NONE)
    return {method for route in matching for method in route.methods or ()}


async def _on_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)  # for the metrics: nobody reads it


async def _on_defect(request: Request, error: Exception) -> Response:
    log.error("request %s", request.scope.get("ganforge.request_id"), exc_info=error)
    response = problem_response(request, hidden())
    # Starlette answers a defect outside of every middleware, so outside of RequestId too
    response.headers["X-Request-Id"] = request.scope.get("ganforge.request_id", "")
    return response


HANDLERS: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    ServiceError: _on_service_error,
    RequestValidationError: _on_invalid,
    HTTPException: _on_http,
    ClientDisconnect: _on_gone,
    Exception: _on_defect,
}
