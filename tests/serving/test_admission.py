"""Admission: turns, not first come first served; and an honest no instead of a late answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_core.errors import DeadlineExceeded, QueueFull
from gan_serving.admission import Admission

T = TypeVar("T")


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Engine:
    """Holds every place until it is told to let go of one."""

    def __init__(self, running: int = 1, waiting: int = 8, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.admission = Admission(running, waiting, self.clock)
        self.order: list[str] = []
        self._done: list[asyncio.Event] = []

    async def ask(self, caller: str, images: int = 1, timeout_s: float = 10) -> None:
        async with self.admission.place(caller, images, timeout_s):
            self.order.append(caller)
            done = asyncio.Event()
            self._done.append(done)
            await done.wait()

    async def asked(self, *callers: str, images: int = 1) -> list[asyncio.Task[None]]:
        tasks = []
        for caller in callers:
            tasks.append(asyncio.create_task(self.ask(caller, images)))
            await settled()
        return tasks

    async def finish(self, after_s: float = 1.0) -> None:
        self.clock.now += after_s
        self._done.pop(0).set()
        await settled()

    async def finish_all(self) -> None:
        while self._done:
            await self.finish()


def run(test: Callable[[Engine], Awaitable[T]], running: int = 1, waiting: int = 8) -> T:
    async def work() -> T:
        engine = Engine(running, waiting)
        found = await test(engine)
        await engine.finish_all()
        assert (engine.admission.running, engine.admission.waiting) == (0, 0)
        return found

    return asyncio.run(work())


def test_what_fits_does_not_wait() -> None:
    async def test(engine: Engine) -> None:
        await engine.asked("a", "b")
        assert (engine.admission.running, engine.admission.waiting) == (2, 0)

    run(test, running=2)


def test_callers_take_turns_however_many_requests_they_have() -> None:
    async def test(engine: Engine) -> list[str]:
        await engine.asked("a", "a", "a", "a", "b", "c", "b")
        await engine.finish_all()
        return engine.order

    assert run(test) == ["a", "a", "b", "c", "a", "b", "a"]


def test_images_are_what_is_counted() -> None:
    async def test(engine: Engine) -> None:
        await engine.asked("a", images=3)
        await engine.asked("b", images=2)
        assert (engine.admission.running, engine.admission.waiting) == (3, 2)

    run(test, running=4)


def test_a_part_larger_than_the_limit_runs_alone() -> None:
    async def test(engine: Engine) -> None:
        await engine.asked("a", images=9)
        assert engine.admission.running == 9

    run(test, running=4)


def test_the_one_who_fills_the_queue_is_turned_away() -> None:
    async def test(engine: Engine) -> str:
        await engine.asked("a", "a", "a")
        with pytest.raises(QueueFull) as caught:
            await engine.ask("a")
        return str(caught.value)

    assert run(test, waiting=2) == "2 images wait"


def test_another_caller_gets_in_at_the_cost_of_the_longest_queue() -> None:
    async def test(engine: Engine) -> list[str]:
        tasks = await engine.asked("a", "a", "a", "b")
        with pytest.raises(QueueFull, match="most of them yours"):
            await tasks[2]
        await engine.finish_all()
        return engine.order

    assert run(test, waiting=2) == ["a", "a", "b"]


def test_nobody_is_turned_away_for_one_who_has_as_much() -> None:
    async def test(engine: Engine) -> None:
        await engine.asked("a", "a", "b")
        with pytest.raises(QueueFull):
            await engine.ask("c", images=1)

    run(test, waiting=2)


def test_who_would_come_too_late_is_told_so_at_once() -> None:
    async def test(engine: Engine) -> float | None:
        await engine.asked(*"aaaaaa")
        await engine.finish(after_s=2)
        await engine.finish(after_s=2)  # 2 s an image; one runs and three wait, 6 s
        with pytest.raises(QueueFull, match="about 10 s") as caught:
            await engine.ask("a", timeout_s=9)
        return caught.value.retry_after_s

    assert run(test) == 6


@pytest.mark.parametrize(("timeout_s", "is_let_in"), [(11, False), (12, True)])
def test_who_would_come_at_the_last_moment_is_turned_away_too(
    timeout_s: float, is_let_in: bool
) -> None:
    """Half of those are late in the end, and the engine has worked for nobody."""

    async def test(engine: Engine) -> bool:
        await engine.asked(*"aaaaaa")
        await engine.finish(after_s=2)
        await engine.finish(after_s=2)  # an answer in 10 s
        late = asyncio.create_task(engine.ask("a", timeout_s=timeout_s))
        await settled()
        let_in = not late.done()
        await engine.finish_all()
        await asyncio.gather(late, return_exceptions=True)
        return let_in

    assert run(test) == is_let_in


def test_the_rate_is_not_measured_while_nobody_waits() -> None:
    async def test(engine: Engine) -> float:
        await engine.asked("a")
        await engine.finish(after_s=100)
        await engine.asked("a", "a")
        return engine.admission.expected_s()

    assert run(test) == 0


def test_a_turn_that_does_not_come_in_time_is_given_up() -> None:
    async def test(engine: Engine) -> None:
        await engine.asked("a")
        with pytest.raises(DeadlineExceeded, match=r"within 0\.01 s"):
            await engine.ask("b", timeout_s=0.01)
        assert engine.admission.waiting == 0

    run(test)


def test_who_gives_up_while_waiting_leaves_no_trace() -> None:
    async def test(engine: Engine) -> list[str]:
        tasks = await engine.asked("a", "b", "c")
        tasks[1].cancel()
        await settled()
        await engine.finish_all()
        return engine.order

    assert run(test) == ["a", "c"]


def test_a_turn_that_comes_as_its_caller_gives_up_is_passed_on() -> None:
    async def test(engine: Engine) -> list[str]:
        tasks = await engine.asked("a", "b", "c")
        engine._done.pop(0).set()
        await asyncio.sleep(0)  # a has left, b's turn has come, and b hasn't run yet
        tasks[1].cancel()
        await settled()
        await engine.finish_all()
        return engine.order

    assert "c" in run(test)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    asked=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.booleans()), max_size=25
    ),
    running=st.integers(1, 6),
    waiting=st.integers(1, 12),
)
def test_no_place_is_ever_lost_or_given_twice(
    asked: list[tuple[str, int, bool]], running: int, waiting: int
) -> None:
    async def test() -> None:
        engine = Engine(running, waiting)
        tasks = []
        for caller, images, gives_up in asked:
            task = asyncio.create_task(engine.ask(caller, images))
            tasks.append(task)
            await settled()
            if gives_up:
                task.cancel()
                await settled()
            assert engine.admission.running <= max(running, 5)
            assert engine.admission.waiting <= max(waiting, 5)  # a large part may wait alone
        while not all(task.done() for task in tasks):
            await engine.finish()
        for task in tasks:
            with suppress(QueueFull, asyncio.CancelledError):
                await task
        assert (engine.admission.running, engine.admission.waiting) == (0, 0)

    asyncio.run(test())
