"""A Triton that dies, hangs, or loses its backend: typed errors, no wrong picture, and it heals."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.faults.asking import Asker, answered, refused, seconds_until
from tests.serving.processes import Load, Serving, wait_until

pytestmark = pytest.mark.usefixtures("has_triton")

CALLERS = 8
WAITS_S = 2.0
"""What the callers say that they wait."""
REFUSALS = (429, 503, 504)


def stubs_of_marked(serving: Serving) -> list[psutil.Process]:
    return [one for one in serving.stubs() if "/marked/" in str(one.cmdline())]


VICTIMS: dict[str, Callable[[Serving], list[psutil.Process]]] = {
    "tritonserver": lambda serving: [serving.triton()],
    "stubs": stubs_of_marked,
    "one of two stubs": stubs_of_marked,
}


def killed(serving: Serving, victim: str) -> float:
    """Seconds until others have taken the victims' places, and serve."""
    before = VICTIMS[victim](serving)
    for process in before[:1] if victim.startswith("one of") else before:
        process.kill()

    def is_back() -> bool:
        try:
            now = VICTIMS[victim](serving)
        except (ValueError, psutil.NoSuchProcess):  # no tritonserver, or not for long
            return False
        return len(now) == len(before) and not {*now} & {*before} and serving.ready()

    return seconds_until(is_back, 15)


@pytest.mark.parametrize(
    "victim",
    ["tritonserver", pytest.param("stubs", marks=pytest.mark.faults), "one of two stubs"],
)
def test_after_kill_9_under_load_it_heals(
    own: Path, asking: Callable[..., Asker], victim: str, note: Callable[..., None]
) -> None:
    with Serving(own, "triton") as serving:
        asker = asking(serving.url)
        with Load(CALLERS, asker.ask):
            assert wait_until(lambda: len(asker.statuses) > 50)
            healed = killed(serving, victim)
            answered(asker)
    note(f"kill -9 of {victim}", healed_s=healed, refused=refused(asker))


def test_a_triton_that_stops_for_a_while_goes_on(
    marked: Path, asking: Callable[..., Asker], note: Callable[..., None]
) -> None:
    with Serving(marked, "triton") as serving:
        asker = asking(serving.url, REFUSALS, WAITS_S / 2)
        triton = serving.triton()
        with Load(CALLERS, asker.ask):
            assert wait_until(lambda: len(asker.statuses) > 50)
            triton.send_signal(signal.SIGSTOP)
            assert wait_until(lambda: 504 in asker.statuses)
            triton.send_signal(signal.SIGCONT)
            healed = answered(asker)
        assert serving.triton() == triton, "it was started again for nothing"
        assert wait_until(serving.ready, 10)
    assert max(asker.seconds) < WAITS_S
    note("SIGSTOP of tritonserver, SIGCONT", healed_s=healed, refused=refused(asker))


@pytest.mark.faults
def test_a_triton_that_stops_for_good_is_started_again(
    marked: Path, asking: Callable[..., Asker], note: Callable[..., None]
) -> None:
    with Serving(marked, "triton") as serving:
        asker = asking(serving.url, REFUSALS, WAITS_S)
        triton = serving.triton()
        with Load(CALLERS, asker.ask):
            assert wait_until(lambda: len(asker.statuses) > 50)
            triton.send_signal(signal.SIGSTOP)
            told = seconds_until(lambda: not serving.ready(), 15)
            healed = told + seconds_until(serving.ready, 30)
            answered(asker)
        assert not triton.is_running()
    assert max(asker.seconds) < WAITS_S + 1
    note("SIGSTOP of tritonserver for good", told_s=told, healed_s=healed, refused=refused(asker))


@pytest.mark.faults
@pytest.mark.parametrize("victim", VICTIMS)
def test_it_heals_as_often_as_it_is_killed(
    own: Path, asking: Callable[..., Asker], victim: str, note: Callable[..., None]
) -> None:
    healed = []
    with Serving(own, "triton") as serving:
        asker = asking(serving.url)
        with Load(CALLERS, asker.ask):
            for _ in range(5):
                answered(asker)
                healed.append(killed(serving, victim))
    note(f"kill -9 of {victim}, five times", healed_s=max(healed), refused=refused(asker))
