"""What the log says of a Triton that somebody else starts."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING, cast

from gan_serving import awaiting
from gan_serving.awaiting import awaited
from gan_serving.triton_engine import TritonEngine
from tests.serving.processes import Serving, wait_until

if TYPE_CHECKING:
    import pytest


class Late:
    """Lives from the third time on that it is asked, or sooner."""

    def __init__(self, *lives: bool) -> None:
        self._lives = list(lives)
        self.seen = asyncio.Event()

    async def live(self) -> bool:
        alive = self._lives.pop(0)
        if alive:
            self.seen.set()
        return alive


def said(caplog: pytest.LogCaptureFixture, *lives: bool) -> list[str]:
    async def run() -> None:
        late = Late(*lives)
        async with awaited(cast("TritonEngine", late), "triton:8001"):
            await late.seen.wait()
            await asyncio.sleep(0)

    asyncio.run(run())
    return [record.getMessage() for record in caplog.records]


def test_it_is_told_once_that_none_answers_and_once_that_one_does(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awaiting, "ROUND_S", 0.0)
    assert said(caplog, False, False, True) == [
        "no Triton answers at triton:8001 yet; requests get 503 until one does",
        "Triton answers at triton:8001",
    ]


def test_of_one_that_is_there_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, True) == []


def test_a_server_starts_without_its_triton_and_says_so_once(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{unused.getsockname()[1]}"
        options = ("--triton", at, "--workers", "2")
        with Serving(tmp_path / "nothing", "triton", *options) as serving:
            assert wait_until(lambda: f"no Triton answers at {at} yet" in serving.errors())
            assert not serving.ready()
            assert serving.stop() == 0
            assert serving.errors().count("no Triton answers") == 1
