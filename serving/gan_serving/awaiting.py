"""A Triton that somebody else starts: whether it is there yet, said in the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .triton_engine import TritonEngine

__all__ = ["awaited"]

log = logging.getLogger(__name__)

ROUND_S = 1.0


@asynccontextmanager
async def awaited(engine: TritonEngine, address: str) -> AsyncIterator[None]:
    """While the block runs, tell that Triton doesn't answer yet, and that it does then."""
    waiting = asyncio.create_task(_tell(engine, address))
    try:
        yield
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def _tell(engine: TritonEngine, address: str) -> None:
    if await engine.live():
        return
    log.warning("no Triton answers at %s yet; requests get 503 until one does", address)
    while not await engine.live():
        await asyncio.sleep(ROUND_S)
    log.warning("Triton answers at %s", address)  # as loud as what it takes back
