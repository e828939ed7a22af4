"""Load on a server: callers that take turns, or requests that come whether it keeps up or not."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .lines import Line, Reply

__all__ = ["Exchange", "Load", "turns"]

MOST_LINES = 1000
"""Of an open loop: what comes while so many are in use waits, and that counts as latency."""


class Exchange(NamedTuple):
    """One request and what came of it; times in seconds of ``time.perf_counter``."""

    which: int
    """Of the distinct requests."""
    due: float
    """When it should have been sent: latency counts from here."""
    sent: float
    ended: float
    reply: Reply


class Load:
    """Sends requests in rotation, and keeps what came of them.

    Args:
        open_line: a new caller's way to the server.
        requests: distinct ones, each in the line's form.
        timeout_s: how long each one's answer is of use.
    """

    def __init__(
        self, open_line: Callable[[], Line], requests: Sequence[bytes], timeout_s: float
    ) -> None:
        self._open_line = open_line
        self._requests = requests
        self._timeout_s = timeout_s
        self._first: dict[int, bytes] = {}
        self.exchanges: list[Exchange] = []

    async def closed_loop(self, concurrency: int, turns: Iterator[int]) -> None:
        """So many callers, each of whom sends its next request when it has its answer."""

        async def caller(line: Line) -> None:
            for turn in turns:
                await self._exchange(line, turn, time.perf_counter())
            await line.close()

        await asyncio.gather(*(caller(self._open_line()) for _ in range(concurrency)))

    async def open_loop(self, rate: float, turns: Iterator[int]) -> None:
        """Requests per second at random times (Poisson), however long their answers take.

        Latency counts from the time at which a request was due, so what waits in this process
        behind a slow answer isn't hidden (coordinated omission).
        """
        gaps = np.random.default_rng(0)
        idle: list[Line] = []
        lines = asyncio.Semaphore(MOST_LINES)

        async def send(turn: int, due: float) -> None:
            async with lines:
                line = idle.pop() if idle else self._open_line()
                await self._exchange(line, turn, due)
                idle.append(line)

        due = time.perf_counter()
        async with asyncio.TaskGroup() as sending:
            for turn in turns:
                due += gaps.exponential(1 / rate)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                sending.create_task(send(turn, due))
        for line in idle:
            await line.close()

    async def _exchange(self, line: Line, turn: int, due: float) -> None:
        which = turn % len(self._requests)
        sent = time.perf_counter()
        reply = await line.call(self._requests[which], self._timeout_s)
        ended = time.perf_counter()
        # what comes again and again is kept once
        if (first := self._first.setdefault(which, reply.body)) == reply.body:
            reply = reply._replace(body=first)
        self.exchanges.append(Exchange(which, due, sent, ended, reply))


def turns(requests: int | None, duration_s: float | None) -> Iterator[int]:
    """0, 1, 2, …: so many, or as long as so many seconds aren't over."""
    if requests is not None:
        yield from range(requests)
    if duration_s is not None:
        end = time.perf_counter() + duration_s
        yield from itertools.takewhile(lambda _: time.perf_counter() < end, itertools.count())
