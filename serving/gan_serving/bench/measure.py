"""One level of load from its warm-up to its verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .levels import level_of, wrong_pictures
from .load import Load, turns
from .usage import usage_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .levels import Level
    from .targets import Target

__all__ = ["Plan", "loop_factory", "measure"]

PICTURES = 256
"""Most that are asked for by distinct requests, of the seeds from 0 on."""
WARM_UP = 32
"""Requests before the clock starts; as many as there are callers, where that is more."""
OPEN_LOOP_CALLERS = 8
"""Who warm up for an open loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What every level has in common."""

    requests: int | None
    """How many; None for as many as ``duration_s`` holds."""
    duration_s: float | None
    n: int = 1
    """Images per request."""
    timeout_s: float = 30.0
    """How long an answer is of use."""
    pid: int | None = None
    """The server's process, whose tree's CPU and memory are read; None reads none."""

    @property
    def distinct(self) -> int:
        """Requests that differ: request i is for the n seeds from i · n on, modulo this many."""
        most = PICTURES // self.n
        return most if self.requests is None else min(most, self.requests)


async def measure(
    target: Target,
    plan: Plan,
    *,
    concurrency: int | None = None,
    rate: float | None = None,
    expected: Sequence[NDArray[np.uint8]] | None = None,
    on_start: Callable[[Load], None] = lambda load: None,
) -> Level:
    """What comes of a closed loop of so many callers, or an open one of so many requests/s.

    Args:
        target: whom to ask, and how.
        plan: how long, and for what.
        concurrency: of a closed loop.
        rate: of an open loop; one of both is given.
        expected: pictures of the seeds from 0 on, n for each distinct request; None compares
            none. Compared is what was received, when the load is over.
        on_start: told of the load once it is being timed.

    Cancelled while it is being timed, it gives what came until then.
    """
    requests = [target.request(i * plan.n, plan.n) for i in range(plan.distinct)]
    callers = concurrency or OPEN_LOOP_CALLERS
    warm_up = Load(target.line, requests, plan.timeout_s)
    await warm_up.closed_loop(callers, turns(max(WARM_UP, callers), None))
    load = Load(target.line, requests, plan.timeout_s)
    before = plan.pid and usage_of(plan.pid)
    on_start(load)
    due = turns(plan.requests, plan.duration_s)
    interrupted = False
    try:
        await (load.open_loop(rate, due) if rate else load.closed_loop(callers, due))
    except asyncio.CancelledError:
        if not load.exchanges:
            raise
        interrupted = True
    level = level_of(load.exchanges, plan.n, plan.timeout_s, concurrency=concurrency, rate=rate)
    level = replace(level, interrupted=interrupted)
    if plan.pid and before:
        after = usage_of(plan.pid)
        level = replace(
            level,
            cpu_ms_per_image=1000 * (after.cpu_s - before.cpu_s) / max(level.images, 1),
            peak_rss_mib=after.peak_rss_bytes / 2**20,
        )
    if expected is None:
        return level
    each = [expected[i * plan.n : (i + 1) * plan.n] for i in range(plan.distinct)]
    return replace(level, wrong=wrong_pictures(load.exchanges, each, target.pictures))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Of the fastest event loop that is installed; None is asyncio's own."""
    if not find_spec("uvloop"):
        return None
    import uvloop

    return uvloop.new_event_loop
