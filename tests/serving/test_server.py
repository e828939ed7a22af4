"""``ganforge serve`` as a whole: its address, its options, and a Triton that is somebody else's."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from gan_client import Client
from gan_core.errors import ConfigError
from gan_serving.server import Options, _listen, serve
from gan_serving.triton_process import LocalTriton
from tests.serving.graphs import watermarked
from tests.serving.processes import Serving, tritons, wait_until


def test_port_0_is_a_free_port_on_loopback(repository: Path) -> None:
    with Serving(repository, "ort") as serving:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", serving.url)
        listening = {
            connection.laddr.ip
            for connection in psutil.Process(serving.process.pid).net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
    assert listening == {"127.0.0.1"}


def test_once_its_address_is_printed_it_answers(repository: Path) -> None:
    with Serving(repository, "ort") as serving:
        assert httpx.get(f"{serving.url}/livez").status_code == 200


def test_its_options_reach_the_service(repository: Path) -> None:
    options = ("--max-n", "2", "--timeout-s", "0.2")
    with Serving(repository, "ort", *options) as serving:
        url = f"{serving.url}/v1/images/generations"
        httpx.post(url, json={"model": "slow", "label": 0})
        slow = httpx.post(url, json={"model": "slow", "label": 9})
        many = httpx.post(url, json={"model": "marked", "n": 3})
    assert slow.status_code == 504
    assert "at most 2 per request" in many.json()["detail"]


def test_a_triton_that_runs_already_is_used_and_left_running(
    triton: LocalTriton, repository: Path, tmp_path: Path
) -> None:
    with Serving(tmp_path / "nothing", "triton", "--triton", triton.address) as serving:
        assert tritons(serving.process.pid) == []
        with Client(serving.url) as client:
            image = client.images.generate(model="marked", seed=3).numpy()
        assert serving.ready()
    np.testing.assert_array_equal(image, watermarked([3]))
    assert triton.alive()


def test_a_port_is_refused_to_a_second_server_from_the_very_start() -> None:
    with _listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"can't listen on 127.0.0.1:{port}"):
            _listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["256.1.1.1", "a b", "\0"])
def test_an_address_that_is_none_is_a_config_error(host: str) -> None:
    with pytest.raises(ConfigError, match="choose another --host"):
        _listen(host, 0)


def test_without_a_repository_nothing_is_started(tmp_path: Path) -> None:
    options = Options(repository=tmp_path / "nothing", engine="ort", http_port=0)
    with pytest.raises(ConfigError, match="is not a model repository: publish a model into it"):
        asyncio.run(serve(options, print))


def test_sigterm_while_triton_starts_ends_cleanly(repository: Path, has_triton: None) -> None:
    command = [sys.executable, "-m", "gan_core.cli", "serve", "--http-port", "0"]
    command += ["--repository", str(repository), "--engine", "triton"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        wait_until(lambda: bool(tritons(process.pid)), timeout_s=20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
