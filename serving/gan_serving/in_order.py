"""Work on a few at once, and what comes of it in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["in_order"]

T = TypeVar("T")
U = TypeVar("U")


async def in_order(
    given: AsyncIterator[T], work: Callable[[T], Coroutine[Any, Any, U]], at_once: int
) -> AsyncGenerator[U, None]:
    """What ``work`` makes of each, in their order.

    The next is read once fewer than ``at_once`` are worked on or wait to be taken.
    """
    places = asyncio.Semaphore(at_once)
    due: asyncio.Queue[asyncio.Task[U] | None] = asyncio.Queue()
    tasks: set[asyncio.Task[U]] = set()

    async def read() -> None:
        try:
            await places.acquire()
            async for one in given:
                task = asyncio.create_task(work(one))
                tasks.add(task)
                due.put_nowait(task)
                await places.acquire()
        finally:
            due.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await due.get()) is not None:
            yield await task
            tasks.discard(task)
            places.release()
        await reader  # fails if reading did
    finally:
        for left in (reader, *tasks):
            left.cancel()
        await asyncio.gather(reader, *tasks, return_exceptions=True)
