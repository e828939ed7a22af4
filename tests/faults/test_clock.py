"""The wall clock jumps: deadlines, queues, probes and jobs go by clocks that never do.

A machine's clock can't be set here, so it is Python's ``time.time`` in the server that jumps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.faults.asking import PATH, Asker, assert_pictures, seconds_until
from tests.serving.processes import Load, Serving, wait_until

HOUR_S = 3600
JUMPING = """
import os, time
real, offset = time.time, os.environ["CLOCK_OFFSET"]
time.time = lambda: real() + float(open(offset).read())
"""


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the seconds by which the clocks of servers are wrong."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(JUMPING)
    offset = tmp_path / "offset"
    offset.write_text("0")
    paths = [str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("CLOCK_OFFSET", str(offset))
    return offset


@pytest.fixture
def serving(own: Path, clock: Path) -> Iterator[Serving]:
    with Serving(own, "ort") as serving:
        yield serving


def answers(http: httpx.Client, path: str) -> bool:
    return http.get(path).status_code == 200


def jump(clock: Path, seconds: int) -> None:
    whole = clock.with_suffix(".new")
    whole.write_text(str(seconds))
    whole.replace(clock)


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S, 48 * HOUR_S])
def test_nobody_notices(
    serving: Serving, clock: Path, asking: Callable[..., Asker], jump_s: int
) -> None:
    asker = asking(serving.url, ())
    with Load(4, asker.ask):
        assert wait_until(lambda: len(asker.statuses) > 20)
        jump(clock, jump_s)
        enough = len(asker.statuses) + 200
        assert wait_until(lambda: len(asker.statuses) > enough)
        assert serving.ready()
    assert max(asker.seconds) < 1
    with httpx.Client(base_url=serving.url, timeout=10) as http:
        body = {"model": "slow", "label": 9}
        late = http.post(PATH, json=body, headers={"X-Timeout-S": "0.05"})
        assert late.status_code == 504
        assert late.elapsed.total_seconds() < 1


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
def test_a_job_that_runs_meanwhile_is_done_once(
    serving: Serving, clock: Path, jump_s: int, note: Callable[..., None]
) -> None:
    with httpx.Client(base_url=serving.url, headers={"Prefer": "respond-async"}) as http:
        first = http.post(PATH, json={"model": "marked", "seed": 3, "n": 2})
        jump(clock, jump_s)
        second = http.post(PATH, json={"model": "marked", "seed": 5, "n": 2})
        for job, seed in ((first, 3), (second, 5)):
            path = f"{job.headers['location']}/result"
            done = seconds_until(partial(answers, http, path), 20)
            assert_pictures(http.get(path).json(), [seed, seed + 1])
    note(f"clock jumps by {jump_s // HOUR_S:+d} h: a job", done_s=done)
