"""What came of a load, in numbers: pace, latencies, errors, and whether each picture is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .lines import OK

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .load import Exchange

__all__ = ["Latency", "Level", "level_of", "wrong_pictures"]

TOLERANCE = 1
"""Levels of 255 by which batch sizes and engines may differ."""


@dataclass(frozen=True, slots=True)
class Latency:
    """In ms, of the answers that came."""

    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What came of one level of load."""

    concurrency: int | None
    """Callers; None for an open loop."""
    rate: float | None
    """Requests per second that were due; None for a closed loop."""
    requests: int
    """Sent, whatever came of them."""
    images: int
    """Received."""
    seconds: float
    """From the first request to the last answer."""
    images_per_s: float
    requests_per_s: float
    """Answered with images."""
    goodput_images_per_s: float
    """Of answers within the deadline."""
    latency_ms: Latency | None
    """None where nothing was answered."""
    late_ms: float
    """The 99th percentile of how late requests left this process, which latency includes."""
    errors: dict[str, int]
    """How often, by code."""
    retry_after_s: tuple[float, float] | None
    """Shortest and longest that the server asked for."""
    interrupted: bool = False
    """Whether Ctrl-C ended it: the numbers are of what was answered by then."""
    wrong: int | None = None
    """Pictures that aren't those of their seeds; None where nobody looked."""
    cpu_ms_per_image: float | None = None
    """Of the server's processes."""
    peak_rss_mib: float | None = None
    """Of the server's processes, since they were started."""


def level_of(
    exchanges: Sequence[Exchange],
    n: int,
    deadline_s: float,
    *,
    concurrency: int | None = None,
    rate: float | None = None,
) -> Level:
    """The numbers of a load whose requests were each for n images."""
    answered = [one for one in exchanges if one.reply.code == OK]
    seconds = max(one.ended for one in exchanges) - min(one.due for one in exchanges)
    waited_s = np.array([one.ended - one.due for one in answered])
    waits = [one.reply.retry_after_s for one in exchanges if one.reply.retry_after_s is not None]
    return Level(
        concurrency=concurrency,
        rate=rate,
        requests=len(exchanges),
        images=n * len(answered),
        seconds=seconds,
        images_per_s=n * len(answered) / seconds,
        requests_per_s=len(answered) / seconds,
        goodput_images_per_s=n * int((waited_s <= deadline_s).sum()) / seconds,
        latency_ms=_latency(waited_s * 1000) if answered else None,
        late_ms=float(np.percentile([one.sent - one.due for one in exchanges], 99)) * 1000,
        errors=dict(Counter(one.reply.code for one in exchanges if one.reply.code != OK)),
        retry_after_s=(min(waits), max(waits)) if waits else None,
    )


def _latency(ms: NDArray[np.float64]) -> Latency:
    p50, p90, p99 = np.percentile(ms, [50, 90, 99])
    return Latency(float(p50), float(p90), float(p99), float(ms.max()))


def wrong_pictures(
    exchanges: Sequence[Exchange],
    expected: Sequence[Sequence[NDArray[np.uint8]]],
    pictures: Callable[[bytes], list[NDArray[np.uint8]]],
) -> int:
    """How many pictures aren't those that were expected of each distinct request.

    An answer that can't be read, or holds another number of pictures, is wrong as a whole.
    """
    judged: dict[tuple[int, int], int] = {}  # equal answers are one object
    wrong = 0
    for one in exchanges:
        if one.reply.code != OK:
            continue
        key = one.which, id(one.reply.body)
        if key not in judged:
            judged[key] = _wrong(one.reply.body, expected[one.which], pictures)
        wrong += judged[key]
    return wrong


def _wrong(
    body: bytes,
    expected: Sequence[NDArray[np.uint8]],
    pictures: Callable[[bytes], list[NDArray[np.uint8]]],
) -> int:
    try:
        found = pictures(body)
    except ValueError:
        found = []
    if len(found) != len(expected):
        return len(expected)
    return sum(not _alike(a, b) for a, b in zip(found, expected, strict=True))


def _alike(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> bool:
    return a.shape == b.shape and bool((np.abs(a.astype(int) - b) <= TOLERANCE).all())
