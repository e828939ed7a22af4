"""Ten times more than it can do: what it takes on comes in time, the rest hears so at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.faults.asking import PATH, Asker, assert_typed, pictures
from tests.serving.processes import Load, Serving

TIMES = 10
WAITS_S = 2.0
CALLERS = 4
SECONDS = 10
REQUEST = {"model": "slow", "label": 1, "n": 32}


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request ended."""

    status: int
    seconds: float


class Crowd:
    """Requests over connections that are kept, each answer checked."""

    def __init__(self, url: str) -> None:
        limits = httpx.Limits(max_connections=400, max_keepalive_connections=400)
        self._http = httpx.AsyncClient(base_url=url, limits=limits, timeout=60)
        self.answers: list[Answer] = []

    async def ask(self) -> None:
        began = time.monotonic()
        response = await self._http.post(PATH, json=REQUEST, headers={"X-Timeout-S": str(WAITS_S)})
        self.answers.append(Answer(response.status_code, time.monotonic() - began))
        if response.status_code == 200:
            assert not pictures(response.json()).any()  # black, as this model's are
        else:
            assert response.status_code in (429, 504), response.text
            assert_typed(response)

    async def closed(self, callers: int, seconds: float) -> float:
        """Answered requests per second when so many ask without pause."""
        began = time.monotonic()

        async def caller() -> None:
            while time.monotonic() < began + seconds:
                await self.ask()

        before = len(self.answers)
        await asyncio.gather(*(caller() for _ in range(callers)))
        return (len(self.answers) - before) / (time.monotonic() - began)

    async def open(self, per_s: float, seconds: float) -> list[Answer]:
        """Answers when so many come per second, however many are still waited for."""
        began, before = time.monotonic(), len(self.answers)
        sent: list[asyncio.Task[None]] = []
        while (now := time.monotonic() - began) < seconds:
            sent += [asyncio.create_task(self.ask()) for _ in range(int(now * per_s) - len(sent))]
            await asyncio.sleep(0.005)
        await asyncio.gather(*sent)
        return self.answers[before:]

    async def close(self) -> None:
        await self._http.aclose()


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

    async def run(url: str) -> tuple[float, list[Answer]]:
        crowd = Crowd(url)
        await crowd.closed(CALLERS, 1)
        capacity = await crowd.closed(CALLERS, SECONDS)
        answers = await crowd.open(TIMES * capacity, SECONDS)
        await crowd.close()
        return capacity, answers

    with Serving(own, engine) as serving:
        asker = asking(serving.url, (429, 504), WAITS_S)
        with Load(1, asker.ask):  # of another model: no crowd stands in its way
            capacity, answers = asyncio.run(run(serving.url))
    took = [one.seconds for one in answers if one.status == 200]
    turned_away = [one.seconds for one in answers if one.status == 429]
    goodput = len(took) / SECONDS
    note(
        f"10 × overload ({engine})",
        capacity_per_s=capacity,
        goodput=goodput / capacity,
        accepted_p99_s=float(np.quantile(took, 0.99)),
        refused_p50_s=float(np.quantile(turned_away, 0.5)),
        refused_p99_s=float(np.quantile(turned_away, 0.99)),
    )
    assert goodput >= 0.9 * capacity
    assert np.quantile(took, 0.99) <= WAITS_S
    assert np.quantile(turned_away, 0.5) < 0.1
    assert asker.statuses.count(200) > 0.9 * len(asker.statuses)
