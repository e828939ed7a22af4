"""Ten times more than it can do: what it takes on comes in time, the rest hears so at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gan_serving.bench.lines import OK, HttpLine
from gan_serving.bench.load import Exchange, Load, turns
from tests.faults.asking import PATH, Asker, pictures
from tests.serving.processes import Load as Callers
from tests.serving.processes import Serving

TIMES = 10
WAITS_S = 2.0
CALLERS = 4
SECONDS = 10
REQUEST = json.dumps({"model": "slow", "label": 1, "n": 32})


class Crowd:
    """Requests over connections that are kept; each answer is checked when the load is over."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def closed(self, seconds: float) -> float:
        """Good answers per second when a few callers ask without pause."""
        load = self._load()
        await load.closed_loop(CALLERS, turns(None, seconds))
        return goodput(self._checked(load), seconds)

    async def open(self, per_s: float, seconds: float) -> list[Exchange]:
        """What becomes of so many requests per second, however many are still waited for."""
        load = self._load()
        await load.open_loop(per_s, turns(None, seconds))
        return self._checked(load)

    def _load(self) -> Load:
        lines = [
            f"POST {PATH} HTTP/1.1",
            "Host: gateway",
            "Content-Type: application/json",
            f"Content-Length: {len(REQUEST)}",
            f"X-Timeout-S: {WAITS_S}",
            "",
            REQUEST,
        ]
        return Load(lambda: HttpLine(self._url), ["\r\n".join(lines).encode()], WAITS_S)

    def _checked(self, load: Load) -> list[Exchange]:
        for one in load.exchanges:
            if one.reply.code == OK:
                assert not pictures(json.loads(one.reply.body)).any()  # black, as this model's are
            else:
                assert one.reply.code in ("429 queue_full", "504 deadline_exceeded"), one.reply
                if one.reply.code.startswith("429"):
                    assert (one.reply.retry_after_s or 0) >= 1, one.reply
        return load.exchanges


def goodput(exchanges: list[Exchange], seconds: float) -> float:
    """Good answers per second of the load: not those that come when it is over."""
    end = min(one.due for one in exchanges) + seconds
    return sum(one.reply.code == OK and one.ended <= end for one in exchanges) / seconds


@pytest.mark.faults
@pytest.mark.parametrize("engine", ["triton", "ort"])
def test_ten_times_too_many_requests_cost_no_goodput(
    own: Path,
    asking: Callable[..., Asker],
    engine: str,
    request: pytest.FixtureRequest,
    note: Callable[..., None],
) -> None:
    if engine == "triton":
        request.getfixturevalue("has_triton")

    async def run(url: str) -> tuple[float, list[Exchange]]:
        crowd = Crowd(url)
        await crowd.closed(1)
        capacity = await crowd.closed(SECONDS)
        return capacity, await crowd.open(TIMES * capacity, SECONDS)

    with Serving(own, engine) as serving:
        asker = asking(serving.url, (429, 504), WAITS_S)
        with Callers(1, asker.ask):  # of another model: no crowd stands in its way
            capacity, answers = asyncio.run(run(serving.url))
    took = [one.ended - one.due for one in answers if one.reply.code == OK]
    turned_away = [one.ended - one.due for one in answers if one.reply.code.startswith("429")]
    good_per_s = goodput(answers, SECONDS)
    note(
        f"10 × overload ({engine})",
        capacity_per_s=capacity,
        goodput=good_per_s / capacity,
        accepted_p99_s=float(np.quantile(took, 0.99)),
        refused_p50_s=float(np.quantile(turned_away, 0.5)),
        refused_p99_s=float(np.quantile(turned_away, 0.99)),
    )
    assert good_per_s >= 0.9 * capacity
    assert np.quantile(took, 0.99) <= WAITS_S
    assert np.quantile(turned_away, 0.5) < 0.1
    assert asker.statuses.count(200) > 0.9 * len(asker.statuses)
