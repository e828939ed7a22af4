"""grpc.health.v1, fed by real inferences: for the server, the service and each model by name."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import DESCRIPTOR, HealthCheckRequest, HealthCheckResponse

from gan_core.errors import ModelNotFound, ServiceError

from .grpc_api.calls import handler_of

if TYPE_CHECKING:
    import grpc

    from .grpc_api.calls import Context
    from .readiness import Readiness

__all__ = ["SERVICE", "Health"]

SERVICE = DESCRIPTOR.services_by_name["Health"]
WATCH_S = 2.0
"""How long a change may go unseen by who watches."""

SERVING: int = HealthCheckResponse.SERVING
NOT_SERVING: int = HealthCheckResponse.NOT_SERVING
UNKNOWN: int = HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """The health service.

    Args:
        readiness: knows which models answer.
        services: full names of the gRPC services that need every model. Like the server as a
            whole, which is called "", they don't serve while a model fails or there is none.
    """

    def __init__(self, readiness: Readiness, *services: str) -> None:
        self._readiness = readiness
        self._wholes = ("", *services)
        self._draining = asyncio.Event()

    @property
    def handler(self) -> grpc.GenericRpcHandler:
        """What a server calls."""
        return handler_of(SERVICE, {"Check": self._check, "List": self._list, "Watch": self._watch})

    def drain(self) -> None:
        """Say NOT_SERVING of everything from now on, and let go of those who watch."""
        self._draining.set()

    async def _check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        status = await self._status(request.service)
        if status == UNKNOWN:
            names = ", ".join(map(repr, await self._statuses()))
            raise ModelNotFound(f"nothing is called {request.service!r}; there are: {names}")
        return HealthCheckResponse(status=status)

    async def _list(self, request: object, context: Context) -> Any:
        """Called where grpcio-health-checking is new enough to have it."""
        statuses = await self._statuses()
        return health_pb2.HealthListResponse(
            statuses={name: HealthCheckResponse(status=one) for name, one in statuses.items()}
        )

    async def _watch(self, request: HealthCheckRequest, context: Context) -> None:
        seen: int | None = None
        while True:
            status = await self._status(request.service)
            if status != seen:
                await context.write(HealthCheckResponse(status=status))
                seen = status
            if self._draining.is_set():
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._draining.wait(), WATCH_S)

    async def _status(self, name: str) -> int:
        if self._draining.is_set():
            return NOT_SERVING
        return (await self._statuses()).get(name, UNKNOWN)

    async def _statuses(self) -> dict[str, int]:
        try:
            problems = await self._readiness.check()
        except ServiceError:  # the engine is away, and its models with it
            problems = {}
        well = bool(problems) and not any(problems.values()) and not self._draining.is_set()
        found = dict.fromkeys(self._wholes, SERVING if well else NOT_SERVING)
        for name, problem in problems.items():
            bad = problem is not None or self._draining.is_set()
            found[name] = NOT_SERVING if bad else SERVING
        return found
