"""Several gateway processes behind the same ports."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from gan_client import Client
from gan_core.errors import ConnectionFailed
from gan_serving.keys import Caller, add_key
from gan_serving.siblings import merged
from tests.serving.graphs import watermarked
from tests.serving.processes import Load, Serving, ganforge, wait_until


@pytest.fixture(params=["ort", pytest.param("triton", marks=pytest.mark.faults)])
def serving(request: pytest.FixtureRequest, repository: Path) -> Iterator[Serving]:
    """A server of two workers over each engine."""
    if request.param == "triton":
        request.getfixturevalue("has_triton")
    with Serving(repository, request.param, "--workers", "2", "--admin-port", "0") as serving:
        assert wait_until(serving.ready, 30)
        yield serving


def workers(serving: Serving) -> list[psutil.Process]:
    children = psutil.Process(serving.process.pid).children()
    return [one for one in children if "gan_serving.worker" in one.cmdline()]


def ask(url: str, seed: int) -> None:
    """A picture over a connection of its own, which any of the workers may get."""
    with Client(url, max_retries=0) as client:
        images = client.images.generate(model="marked", seed=seed, n=2)
    np.testing.assert_array_equal(images.numpy(), watermarked([seed, seed + 1]))


def images_made(serving: Serving) -> float:
    text = httpx.get(f"{serving.admin}/metrics").text
    lines = [one for one in text.splitlines() if one.startswith("ganforge_part_images_count")]
    return sum(float(one.split()[-1]) for one in lines)


def test_they_share_the_ports_and_tell_the_numbers_of_all(serving: Serving) -> None:
    assert len(workers(serving)) == 2
    before = images_made(serving)
    for seed in range(20):
        ask(serving.url, seed)
        ask(serving.grpc, seed)
    assert {images_made(serving) - before for _ in range(4)} == {40}


def test_one_that_is_killed_is_replaced_and_the_others_answer(serving: Serving) -> None:
    first, second = workers(serving)
    first.kill()
    for seed in range(20):
        with suppress(ConnectionFailed):  # what it had accepted goes with it
            ask(serving.url, seed)
    assert wait_until(lambda: len(workers(serving)) == 2 and first not in workers(serving), 20)
    assert second in workers(serving)
    ask(serving.url, 7)


def test_the_end_answers_what_is_in_flight_and_leaves_no_process(serving: Serving) -> None:
    family = psutil.Process(serving.process.pid).children(recursive=True)
    answered = []

    def call(seed: int) -> None:
        try:
            ask(serving.url, seed)
        except ConnectionFailed:  # refused once nobody listens; never cut off
            return
        answered.append(seed)

    with Load(4, call):
        assert wait_until(lambda: len(answered) > 20, 10)
        assert serving.stop() == 0
    assert not [one for one in family if one.is_running()]
    assert "Traceback" not in serving.errors()


def test_workers_end_with_who_started_them(serving: Serving) -> None:
    family = psutil.Process(serving.process.pid).children(recursive=True)
    serving.stop(signal.SIGKILL)
    assert wait_until(lambda: not [one for one in family if one.is_running()], 15)


@pytest.mark.usefixtures("has_triton")
def test_they_follow_a_triton_that_was_started_again(repository: Path) -> None:
    with Serving(repository, "triton", "--workers", "2") as serving:
        assert wait_until(serving.ready, 30)
        serving.triton().kill()
        assert wait_until(lambda: all(serving.ready() for _ in range(8)), 30)
        for seed in range(8):
            ask(serving.url, seed)


def test_a_worker_that_cannot_start_ends_the_server(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("{{{")
    (tmp_path / "keys.yaml").chmod(0o600)
    options = ("--http-port", "0", "--workers", "2", "--keys", tmp_path / "keys.yaml")
    done = ganforge("serve", "--engine", "ort", "--repository", repository, *options)
    assert (done.returncode, done.stderr.count("keys.yaml")) == (1, 1)


@pytest.mark.parametrize(("rate", "lines"), [("60/minute", 1), (None, 0)])
def test_rates_that_each_counts_for_itself_are_warned_of(
    repository: Path, tmp_path: Path, rate: str | None, lines: int
) -> None:
    add_key(tmp_path / "keys.yaml", Caller("ours", rate=rate))
    options = ("--workers", "2", "--keys", str(tmp_path / "keys.yaml"))
    with Serving(repository, "ort", *options) as serving:
        assert serving.errors().count("each of 2 workers counts rates for itself") == lines


def test_numbers_of_processes_are_summed_but_for_those_they_have_in_common() -> None:
    one = '# TYPE a counter\na_total{m="x"} 1.0\n# TYPE e gauge\ne 5.0\n'
    other = '# TYPE a counter\na_total{m="x"} 2.0\na_total{m="y"} 4.0\n# TYPE e gauge\ne 3.0\n'
    lines = merged([one, "", other], ("e",)).decode().splitlines()
    assert 'a_total{m="x"} 3.0' in lines
    assert 'a_total{m="y"} 4.0' in lines
    assert "e 5.0" in lines
