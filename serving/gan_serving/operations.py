"""What operators change about a running server: its models' releases, and which of them serve."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

from gan_core.errors import NotSupported, ServiceError

from . import releases

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from .published import Published

__all__ = ["Operator"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class Operator:
    """Changes the repository of a server, and sees to it that its engine follows at once.

    Args:
        repository: what the server serves; None where it can't be reached from here.
        follow: told of a model that has changed.
    """

    def __init__(self, repository: Path | None, follow: Callable[[str], Awaitable[None]]) -> None:
        self._repository = repository
        self._follow = follow
        self._ending: set[asyncio.Task[None]] = set()

    async def promote(self, model: str, version: int | None = None) -> Published:
        """As ``releases.promote``."""
        return await self._change(model, lambda at: releases.promote(at, model, version))

    async def roll_back(self, model: str) -> Published:
        """As ``releases.roll_back``."""
        return await self._change(model, lambda at: releases.roll_back(at, model))

    async def try_out(self, model: str, weight: float, version: int | None = None) -> Published:
        """As ``releases.try_out``."""
        return await self._change(model, lambda at: releases.try_out(at, model, weight, version))

    async def load(self, model: str) -> Published:
        """As ``releases.load``."""
        return await self._change(model, lambda at: releases.load(at, model))

    async def unload(self, model: str) -> None:
        """As ``releases.unload``."""
        await self._change(model, lambda at: releases.unload(at, model))

    def end_trial(self, model: str, canary: int, why: str) -> None:
        """End a canary's release in the background, where this server can."""
        if self._repository is None:
            log.error("end the trial of %s version %d where it is published", model, canary)
            return
        task = asyncio.create_task(self._end_trial(model, canary, why))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end_trial(self, model: str, canary: int, why: str) -> None:
        try:
            await self._change(model, lambda at: releases.end_trial(at, model, canary))
        except ServiceError:
            log.exception("the trial of %s version %d can't be ended (%s)", model, canary, why)

    async def _change(self, model: str, change: Callable[[Path], T]) -> T:
        if self._repository is None:
            raise NotSupported(
                "this server has no repository of its own: change it where it is published"
            )
        found = await asyncio.to_thread(change, self._repository)
        await self._follow(model)
        return found
