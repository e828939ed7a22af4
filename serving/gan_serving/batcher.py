"""Requests of many callers as batches for one graph, run in threads of this process.

Nobody waits for a batch to fill: whenever a thread is free it takes its share of what is there.
Who is alone, with a graph that takes a few milliseconds, doesn't wait for a thread either.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gan_core.errors import InternalError, QueueFull, Unavailable

from .tally import Tally
from .triton_config import MAX_QUEUE_SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .engine import Executions, Inputs

__all__ = ["Batcher", "Plan", "Run"]

log = logging.getLogger(__name__)

LONE_RUNS = 4
"""After so many requests that nobody else's came beside, the next is run by all cores."""
LONE_GAP_S = 0.01
"""Unless there was so long a pause before: to wake the others then takes longer than it saves."""
BRIEF_S = 0.004
"""Such a run may hold up the event loop: handing it to a thread and back takes 0.3 ms."""
LOOK_ROUND = 64
"""While the event loop runs a graph it sees nobody else: one run in so many is a thread's."""

Run = Callable[["Inputs"], "NDArray[Any]"]
"""The graph: named arrays [N, …] to images [N, H, W, C]."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run a graph."""

    together: Run
    """With all cores, for a caller who is alone."""
    beside: Run
    """With one core, beside others that do the same."""
    workers: int
    """Threads, each of which runs a batch at a time."""
    rows: int
    """Most rows of a batch."""


@dataclass(slots=True, eq=False)
class _Request:
    inputs: Inputs
    rows: int
    answer: asyncio.Future[NDArray[Any]]
    came_at: float = field(default_factory=time.perf_counter)

    def shapes(self) -> list[tuple[int, ...]]:
        return [array.shape[1:] for array in self.inputs.values()]


class Batcher:
    """One graph, one queue, and the threads that empty it.

    Args:
        plan: what runs, and how wide.
        name: for threads and errors.
    """

    def __init__(self, plan: Plan, name: str) -> None:
        self._plan = plan
        self._name = name
        self._queue: deque[_Request] = deque()
        self._wake = threading.Condition()
        self._idle = plan.workers
        self._lone = 0
        self._together_s = float("inf")
        self._ended_at = float("-inf")
        self._tally = Tally()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"onnxruntime {name}", daemon=True)
            for _ in range(plan.workers)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, inputs: Inputs) -> NDArray[Any]:
        """The graph's answer; many rows are spread over the threads.

        Raises:
            ServiceError: it fails on these inputs, too many wait, or it is being replaced.
        """
        rows = len(next(iter(inputs.values())))
        size = self._plan.rows
        if rows <= size:
            return await self._submit(inputs, rows)
        starts = range(0, rows, size)
        parts = [{name: a[at : at + size] for name, a in inputs.items()} for at in starts]
        sizes = (min(size, rows - at) for at in starts)
        answers = await asyncio.gather(*map(self._submit, parts, sizes))
        return np.concatenate(answers)

    def _submit(self, inputs: Inputs, rows: int) -> asyncio.Future[NDArray[Any]]:
        request = _Request(inputs, rows, asyncio.get_running_loop().create_future())
        with self._wake:
            if self._closed:
                raise Unavailable(f"{self._name} is being replaced", retry_after_s=1)
            if not self._may_run_here():
                self._enqueue(request)
                return request.answer
            self._begin([request])
        _deliver([request], self._answers([request], self._plan.together))
        return request.answer

    def _may_run_here(self) -> bool:
        is_free = self._idle == self._plan.workers and not self._queue
        is_brief = self._together_s < BRIEF_S
        return is_free and is_brief and self._lone > LONE_RUNS and self._lone % LOOK_ROUND != 0

    def _enqueue(self, request: _Request) -> None:
        if len(self._queue) >= MAX_QUEUE_SIZE:  # callers that gave up hold no place
            self._queue = deque(one for one in self._queue if not one.answer.cancelled())
        if len(self._queue) >= MAX_QUEUE_SIZE:
            raise QueueFull(f"{self._name} has {MAX_QUEUE_SIZE} requests waiting", retry_after_s=1)
        self._queue.append(request)
        self._wake.notify()

    def executions(self, model: str, version: int) -> Executions:
        """What was done so far, and what waits."""
        with self._wake:
            return self._tally.executions(model, version, len(self._queue))

    def close(self) -> None:
        """Take no more; what waits is still answered."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    def join(self) -> None:
        """Wait until the last batch is done."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while taken := self._take():
            batch, run = taken
            answers = self._answers(batch, run)
            loop = batch[0].answer.get_loop()
            with suppress(RuntimeError):  # the loop has ended, and with it who asked
                loop.call_soon_threadsafe(_deliver, batch, answers)

    def _take(self) -> tuple[list[_Request], Run] | None:
        """This thread's share of what waits: of one shape, and no more than one run takes."""
        batch: list[_Request] = []
        with self._wake:
            while not batch:
                while not self._queue:
                    if self._closed:
                        return None
                    self._wake.wait()
                share, rows = -(-len(self._queue) // max(self._idle, 1)), 0
                while self._queue and len(batch) < share and self._fits(batch, rows):
                    request = self._queue.popleft()
                    if not request.answer.cancelled():
                        batch.append(request)
                        rows += request.rows
            self._begin(batch)
            # a thread that spins while it waits for others may hold the core that they need
            is_long = self._together_s >= BRIEF_S
            together = self._lone > LONE_RUNS and is_long
            return batch, self._plan.together if together else self._plan.beside

    def _begin(self, batch: list[_Request]) -> None:
        self._idle -= 1
        now = time.perf_counter()
        self._tally.queue_s += sum(now - one.came_at for one in batch)
        nobody_else = self._idle == self._plan.workers - 1 and not self._queue and len(batch) == 1
        is_lone = nobody_else and now - self._ended_at < LONE_GAP_S
        self._lone = self._lone + 1 if is_lone else 0

    def _answers(self, batch: list[_Request], run: Run) -> list[Any]:
        began, runs = time.perf_counter(), 1
        try:
            images = run(_stacked(batch))
            answers: list[Any] = _split(images, [one.rows for one in batch])
        except Exception as error:  # noqa: BLE001 onnxruntime raises what it likes
            answers = [self._alone(one, error, len(batch)) for one in batch]
            runs = len(batch)
        ended = time.perf_counter()
        seconds = ended - began
        with self._wake:
            self._idle += 1
            self._ended_at = ended
            self._count(batch, answers, runs, seconds)
            if run is self._plan.together:
                self._together_s = seconds
        return answers

    def _count(self, batch: list[_Request], answers: list[Any], runs: int, seconds: float) -> None:
        pairs = zip(batch, answers, strict=True)
        rows = [one.rows for one, answer in pairs if not isinstance(answer, Exception)]
        failed = len(batch) - len(rows)
        self._tally.failed += failed
        self._tally.ran(rows, runs - failed, seconds)

    def _fits(self, batch: list[_Request], rows: int) -> bool:
        following = self._queue[0]
        return not batch or (
            rows + following.rows <= self._plan.rows and following.shapes() == batch[0].shapes()
        )

    def _alone(self, request: _Request, error: Exception, of: int) -> Any:
        """Find out whose row failed, so that nobody else's does."""
        try:
            if of == 1:
                raise error
            return self._plan.beside(request.inputs)
        except Exception:
            log.exception("%s failed", self._name)
            return InternalError(f"{self._name} failed")


def _stacked(batch: list[_Request]) -> Inputs:
    if len(batch) == 1:
        return batch[0].inputs
    return {name: np.concatenate([one.inputs[name] for one in batch]) for name in batch[0].inputs}


def _split(images: NDArray[Any], rows: list[int]) -> list[NDArray[Any]]:
    if len(images) != sum(rows):
        raise ValueError(f"{len(images)} images for a batch of {sum(rows)}")
    return [images] if len(rows) == 1 else np.split(images, np.cumsum(rows)[:-1])


def _deliver(batch: list[_Request], answers: list[Any]) -> None:
    for request, answer in zip(batch, answers, strict=True):
        if request.answer.done():
            continue  # who asked has gone
        if isinstance(answer, Exception):
            request.answer.set_exception(answer)
        else:
            request.answer.set_result(answer)
