"""Admission: how much of a model's work runs at once, who is next, and who is turned away.

An engine batches what it is given; a queue inside it would be first come, first served, and
would be found too long only by those whose deadline has passed. So the queue is here: one per
caller, served in turn, and closed to whoever couldn't be answered in time anyway.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gan_core.errors import DeadlineExceeded, QueueFull

from . import tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["Admission"]

SMOOTHING = 0.1
"""Weight of the newest completion in the drain rate."""
SURE = 0.85
"""Of its time that a part may be expected to take: an estimate of all of it is too short for half
of them, and what comes too late was work for nobody."""


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class _Waiting:
    """A part of a request that waits for its turn."""

    caller: str
    images: int
    turn: asyncio.Future[None] = field(default_factory=_future)


class Admission:
    """The gate before one model's engine. For one event loop.

    Args:
        running: most images in the engine at once; enough to fill its next batch too.
        waiting: most images that wait.
        clock: seconds that never go back.
    """

    def __init__(
        self, running: int, waiting: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._longest = running, waiting
        self._clock = clock
        self._queues: OrderedDict[str, deque[_Waiting]] = OrderedDict()
        self._drained_at: float | None = None
        self._images_per_s: float | None = None
        self.running = 0
        """Images in the engine now."""
        self.waiting = 0
        """Images that wait now."""

    @asynccontextmanager
    async def place(self, caller: str, images: int, timeout_s: float) -> AsyncIterator[None]:
        """A place in the engine for a part of a request, held while the block runs.

        Callers take turns, however many requests each of them has.

        Raises:
            QueueFull: too many images wait, or so many that this part would come too late;
                ``retry_after_s`` is how long they take at the rate of late.
            DeadlineExceeded: its turn didn't come in time.
        """
        with tracing.span("queue", images=images):
            await self._enter(caller, images, timeout_s)
        try:
            yield
        finally:
            self._leave(images)

    def expected_s(self) -> float:
        """How long what waits now will take, in seconds; 0 where nobody knows yet."""
        return self.waiting / self._images_per_s if self._images_per_s else 0.0

    async def _enter(self, caller: str, images: int, timeout_s: float) -> None:
        if not self.waiting and self._fits(images):
            self.running += images
            return
        if (answer_s := self._answer_s(images)) > SURE * timeout_s:
            raise self._full(f"the answer would take about {answer_s:.2g} s to come")
        self._make_room(caller, images)
        mine = _Waiting(caller, images)
        self._queues.setdefault(caller, deque()).append(mine)
        self.waiting += images
        try:
            async with asyncio.timeout(timeout_s):
                await mine.turn
        except BaseException as error:
            if mine.turn.done() and not mine.turn.cancelled() and not mine.turn.exception():
                self._leave(images)  # its turn came while it gave up
            else:
                self._forget(mine)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(f"no place in the queue within {timeout_s:.3g} s") from error
            raise

    def _answer_s(self, images: int) -> float:
        """When the next to come would be answered: after all that runs and waits."""
        ahead = self.running + self.waiting
        return (ahead + images) / self._images_per_s if self._images_per_s else 0.0

    def _fits(self, images: int) -> bool:
        return not self.running or self.running + images <= self._limit

    def _make_room(self, caller: str, images: int) -> None:
        """Turn away the newest of the longest queue, which may be the caller's own."""
        while self.waiting and self.waiting + images > self._longest:
            longest = max(self._queues, key=lambda name: _images(self._queues[name]))
            own = images + _images(self._queues.get(caller, ()))
            if own >= _images(self._queues[longest]):
                raise self._full(f"{self.waiting} images wait")
            last = self._queues[longest][-1]
            last.turn.set_exception(self._full(f"{self.waiting} images wait, most of them yours"))
            self._forget(last)

    def _full(self, why: str) -> QueueFull:
        return QueueFull(why, retry_after_s=max(1.0, math.ceil(self.expected_s())))

    def _forget(self, one: _Waiting) -> None:
        queue = self._queues.get(one.caller)
        if queue is None or one not in queue:
            return
        queue.remove(one)
        self.waiting -= one.images
        if not queue:
            del self._queues[one.caller]
        self._admit()

    def _leave(self, images: int) -> None:
        self.running -= images
        self._measure(images)
        self._admit()

    def _measure(self, images: int) -> None:
        """The rate at which images come out while others wait: only then is it the engine's."""
        now = self._clock()
        if self._drained_at is not None and self.waiting:
            rate = images / max(now - self._drained_at, 1e-6)
            known = self._images_per_s
            # of times, not of rates: parts come out in bursts
            self._images_per_s = 1 / ((1 - SMOOTHING) / known + SMOOTHING / rate) if known else rate
        self._drained_at = now if self.waiting else None

    def _admit(self) -> None:
        """Give a turn to one caller after another while there is room."""
        while self._queues:
            caller, queue = next(iter(self._queues.items()))
            if not self._fits(queue[0].images):
                return
            one = queue.popleft()
            self.waiting -= one.images
            self._queues.move_to_end(caller)
            if not queue:
                del self._queues[caller]
            if not one.turn.done():
                self.running += one.images
                one.turn.set_result(None)


def _images(queue: deque[_Waiting] | tuple[()]) -> int:
    return sum(one.images for one in queue)
