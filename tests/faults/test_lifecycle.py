"""A server's start, its end, and publications while it is asked: nobody notices."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from gan_serving.repository import publish
from tests.faults.asking import Asker
from tests.serving.graphs import watermark, write_export
from tests.serving.processes import Load, Serving, ganforge, shared_memory, unclaimed, wait_until

CALLERS = 8


def connections_to(url: str) -> int:
    """Of this process."""
    port = httpx.URL(url).port
    every = psutil.Process().net_connections("tcp4")
    return sum(one.raddr.port == port and one.status == "ESTABLISHED" for one in every if one.raddr)


@pytest.mark.parametrize("engine", ["triton", "ort"])
def test_sigterm_answers_what_is_in_flight_and_leaves_nothing(
    own: Path, engine: str, request: pytest.FixtureRequest
) -> None:
    if engine == "triton":
        request.getfixturevalue("has_triton")
    before = shared_memory()
    with Serving(own, engine) as serving, httpx.Client(timeout=60) as client:
        body = {"model": "slow", "label": 9, "n": 2}
        httpx.post(f"{serving.url}/v1/images/generations", json={**body, "label": 0}, timeout=60)
        family = psutil.Process(serving.process.pid).children(recursive=True)
        answers: list[int] = []

        def ask() -> None:
            url = f"{serving.url}/v1/images/generations"
            answers.append(client.post(url, json=body).status_code)

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        assert wait_until(lambda: connections_to(serving.url) == 6)
        time.sleep(0.1)  # what they ask follows at once
        assert answers == []
        assert serving.stop() == 0, serving.errors()
        for thread in threads:
            thread.join()
        assert answers == [200] * 6
        assert serving.errors() == ""
    assert [one for one in family if one.is_running()] == []
    assert unclaimed(shared_memory() - before) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_idle_ends_it_with_exit_code_0(own: Path, number: signal.Signals) -> None:
    with Serving(own, "ort") as serving:
        assert serving.stop(number) == 0, serving.errors()


@pytest.mark.usefixtures("has_triton")
def test_kill_9_of_the_server_leaves_no_triton_behind(own: Path) -> None:
    before = shared_memory()
    with Serving(own, "triton") as serving:
        family = psutil.Process(serving.process.pid).children(recursive=True)
        assert len(family) == 5  # tritonserver and two stubs for each model
        serving.process.kill()
        started = time.monotonic()
        assert wait_until(lambda: not [one for one in family if one.is_running()], 10)
        assert time.monotonic() - started < 10
    assert unclaimed(shared_memory() - before) == []


@pytest.mark.parametrize("engine", ["triton", "ort"])
def test_a_publication_under_load_is_picked_up_and_fails_no_request(
    own: Path,
    tmp_path: Path,
    asking: Callable[[str], Asker],
    engine: str,
    request: pytest.FixtureRequest,
) -> None:
    if engine == "triton":
        request.getfixturevalue("has_triton")
    newer = write_export(tmp_path / "newer", "marked", watermark(shade=10))
    with Serving(own, engine) as serving:
        asker = asking(serving.url)
        with Load(CALLERS, asker.ask):
            assert wait_until(lambda: len(asker.statuses) > 50)
            publish(newer, own)
            assert wait_until(lambda: asker.versions == {1, 2}), serving.errors()
            enough = len(asker.statuses) + 50
            assert wait_until(lambda: len(asker.statuses) > enough)
        assert set(asker.statuses) == {200}


@pytest.mark.usefixtures("has_triton")
def test_a_model_published_later_is_served_without_a_restart(own: Path, tmp_path: Path) -> None:
    with Serving(own, "triton") as serving:
        publish(write_export(tmp_path / "later", "later"), own)
        url = f"{serving.url}/v1/images/generations"
        body: dict[str, Any] = {"model": "later", "seed": 1}
        assert wait_until(lambda: httpx.post(url, json=body).status_code == 200)


def test_a_broken_version_leaves_the_other_models_serving_and_readyz_tells(
    own: Path, asking: Callable[[str], Asker]
) -> None:
    (own / "slow" / "1" / "model.onnx").write_bytes(b"broken")
    with Serving(own, "ort") as serving:
        asker = asking(serving.url)
        asker.ask(3)
        assert asker.statuses == [200]
        readiness = httpx.get(f"{serving.url}/readyz")
    assert readiness.status_code == 503
    assert "can't be loaded" in readiness.json()["models"]["slow"]
    assert readiness.json()["models"]["marked"] == "ready"


def one_line(text: str) -> bool:
    return len(text.strip().splitlines()) == 1 and "Traceback" not in text


@pytest.mark.parametrize("engine", ["triton", "ort"])
def test_a_taken_port_is_one_line_and_exit_code_1(own: Path, engine: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        options = ("--repository", str(own), "--engine", engine, "--http-port", port)
        done = ganforge("serve", *options)
    assert done.returncode == 1
    assert one_line(done.stderr), done.stderr
    assert f"can't listen on 127.0.0.1:{port}" in done.stderr


@pytest.mark.parametrize("engine", ["triton", "ort"])
def test_a_missing_repository_is_one_line_and_exit_code_1(tmp_path: Path, engine: str) -> None:
    done = ganforge("serve", "--repository", tmp_path / "nothing", "--engine", engine)
    assert done.returncode == 1
    assert one_line(done.stderr), done.stderr
    assert "nothing is not a model repository" in done.stderr


def test_a_missing_triton_is_one_line_that_says_how_to_install_it(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANFORGE_TRITON_HOME", str(tmp_path / "nothing"))
    port = "--http-port=0"
    done = ganforge("serve", "--repository", own, "--engine", "triton", port)
    assert done.returncode == 1
    assert one_line(done.stderr), done.stderr
    assert "ganforge triton install" in done.stderr
