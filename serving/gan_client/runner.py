"""A thread for I/O: what lets code that doesn't await use an asynchronous client."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

__all__ = ["Runner", "next_of"]

T = TypeVar("T")

CLOSED = "this client is closed: make a Client where it is used"


class Runner:
    """An event loop on a daemon thread: a program that forgets to close still ends."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._process = os.getpid()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="gan_client", daemon=True
        )
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine gives, once it has.

        Raises:
            RuntimeError: the client was closed, or made by another process.
        """
        if os.getpid() != self._process:
            work.close()
            raise RuntimeError("this client is of another process: make a Client where it is used")
        with self._lock:
            if self._closed:
                work.close()
                raise RuntimeError(CLOSED)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError as error:
            raise RuntimeError(CLOSED) from error
        except BaseException:
            future.cancel()  # Ctrl-C must not leave the request running
            raise

    def close(self, last: Coroutine[Any, Any, None] | None = None) -> None:
        """End what is running, then ``last``, then the thread."""
        with self._lock:
            if self._closed or os.getpid() != self._process:
                if last is not None:
                    last.close()
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        if last is not None:
            asyncio.run_coroutine_threadsafe(last, self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


async def next_of(items: AsyncIterator[T]) -> T | None:
    """The next one; None after the last."""
    return await anext(items, None)
