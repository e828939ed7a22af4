"""Where the batcher runs a graph: by whom, and with how many cores."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gan_serving import batcher as module
from gan_serving.batcher import BRIEF_S, LONE_GAP_S, LONE_RUNS, LOOK_ROUND, Batcher, Plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gan_serving.engine import Inputs

ONE = {"z": np.zeros((1, 4), np.float32)}


class Runs:
    """Graphs that take so long, and remember who ran them where."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.seen: list[tuple[str, bool]] = []

    def _run(self, how: str, inputs: Inputs) -> NDArray[Any]:
        self.seen.append((how, threading.current_thread() is threading.main_thread()))
        time.sleep(self._seconds)
        return np.zeros((len(inputs["z"]), 1, 1, 3), np.uint8)

    def batcher(self) -> Batcher:
        return Batcher(
            Plan(
                together=lambda inputs: self._run("together", inputs),
                beside=lambda inputs: self._run("beside", inputs),
                workers=2,
                rows=8,
            ),
            "m@1",
        )


async def ask(batcher: Batcher, times: int, pause_s: float = 0.0) -> None:
    for _ in range(times):
        assert (await batcher.run(ONE)).shape == (1, 1, 1, 3)
        await asyncio.sleep(pause_s)


def used(runs: Runs, callers: int, times: int, pause_s: float = 0.0) -> set[tuple[str, bool]]:
    """Graph and place of the second half of the runs."""

    async def main() -> None:
        batcher = runs.batcher()
        await asyncio.gather(*(ask(batcher, times, pause_s) for _ in range(callers)))
        batcher.close()
        batcher.join()

    asyncio.run(main())
    return set(runs.seen[len(runs.seen) // 2 :])


def test_a_lone_caller_of_a_brief_graph_waits_for_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # no pause of the machine makes a run long
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    brief = Runs(0.0)
    assert used(brief, 1, 4 * LOOK_ROUND) == {("together", True), ("beside", False)}
    here = [how for how, is_here in brief.seen if is_here]
    assert len(here) > len(brief.seen) * 0.7
    assert brief.seen[: LONE_RUNS + 1] == [("beside", False)] * (LONE_RUNS + 1)


def test_a_long_graph_never_holds_up_the_event_loop() -> None:
    assert used(Runs(2 * BRIEF_S), 1, 16) == {("together", False)}


@pytest.mark.parametrize("callers", [2, 8])
def test_callers_beside_each_other_have_a_core_each(callers: int) -> None:
    assert used(Runs(BRIEF_S / 4), callers, 40) == {("beside", False)}


def test_who_asks_now_and_then_wakes_one_core_alone() -> None:
    brief = Runs(0.0)
    assert used(brief, 1, 12, 2 * LONE_GAP_S) == {("beside", False)}
