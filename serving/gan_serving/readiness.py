"""Whether each model really answers: one inference each, shared by everybody who asks."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from gan_core.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .service import ImageService

__all__ = ["Readiness"]

FRESH_S = 1.0
PROBE_TIMEOUT_S = 5.0


class Readiness:
    """Runs a real inference per model, at most one round a second however many probes come.

    Args:
        service: whose models are asked.
        remarks: what else there is to say, by model.
    """

    def __init__(
        self, service: ImageService, remarks: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        self._service = service
        self.remarks = remarks
        self._lock = asyncio.Lock()
        self._began_at = self._checked_at = float("-inf")
        self._problems: dict[str, ServiceError | None] = {}
        self.draining = False
        """The server is about to stop: probes say no, whatever ``check`` finds."""

    async def check(self, since: float = float("-inf")) -> dict[str, ServiceError | None]:
        """Each model's problem, None where it serves.

        Args:
            since: what was found before this moment, of ``time.monotonic``, doesn't count.

        Raises:
            ServiceError: the engine can't even say which models there are.
        """
        async with self._lock:
            now = time.monotonic()
            if now - self._checked_at > FRESH_S or self._began_at < since:
                self._began_at = now
                names = await self._service.engine.models()
                found = await asyncio.gather(*map(self._probe, names))
                self._problems = dict(zip(names, found, strict=True))
                self._checked_at = time.monotonic()
            return self._problems

    async def _probe(self, model: str) -> ServiceError | None:
        try:
            await self._service.check(model, PROBE_TIMEOUT_S)
        except ServiceError as error:
            return error
        return None
