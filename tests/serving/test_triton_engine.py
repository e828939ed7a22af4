"""What the Triton engine does beyond the contract: loading, and connections that break."""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from gan_core.errors import DeadlineExceeded, ModelNotFound, Unavailable
from gan_core.latents import draw
from gan_serving.local_triton import home
from gan_serving.repository import publish
from gan_serving.triton_engine import TritonEngine
from gan_serving.triton_process import LocalTriton
from tests.serving.graphs import WATERMARK_INPUTS, watermark, write_export

INPUTS = draw(WATERMARK_INPUTS, [0])


@pytest.fixture(scope="module")
def own(
    has_triton: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LocalTriton, Path]]:
    """A Triton without any model loaded, and its repository with ``marked``."""
    folder = tmp_path_factory.mktemp("own")
    publish(write_export(folder / "1", "marked"), folder / "own")
    triton = LocalTriton(folder / "own", home=home(), log=folder / "log" / "triton.log")
    triton.start()
    yield triton, folder / "own"
    triton.stop()


def using(address: str, work: Callable[[TritonEngine], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        engine = TritonEngine(address)
        try:
            return await work(engine)
        finally:
            await engine.close()

    return asyncio.run(run())


def test_a_model_is_there_once_it_is_loaded_and_gone_once_it_is_not(
    own: tuple[LocalTriton, Path],
) -> None:
    async def work(engine: TritonEngine) -> None:
        with pytest.raises(ModelNotFound):
            await engine.infer("marked", INPUTS, None, 5)
        await engine.load("marked")
        assert (await engine.infer("marked", INPUTS, None, 5)).version == 1
        assert await engine.models() == ["marked"]
        await engine.unload("marked")
        with pytest.raises(ModelNotFound):
            await engine.infer("marked", INPUTS, None, 5)

    using(own[0].address, work)


def test_loading_again_brings_a_new_version(own: tuple[LocalTriton, Path], tmp_path: Path) -> None:
    triton, repository = own
    newer = write_export(tmp_path / "2", "marked", watermark(shade=10))

    async def work(engine: TritonEngine) -> None:
        await engine.load("marked")
        before = (await engine.published("marked")).version
        publish(newer, repository)
        await engine.load("marked")
        assert (await engine.published("marked")).version == before + 1
        answer = await engine.infer("marked", INPUTS, None, 5)
        assert (answer.version, answer.image[0, 0, 0, 2]) == (before + 1, 80)

    using(triton.address, work)


def test_a_model_that_triton_refuses_is_unavailable_in_its_words(
    own: tuple[LocalTriton, Path],
) -> None:
    triton, repository = own
    shutil.copytree(repository / "marked", repository / "broken")
    config = repository / "broken" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "marked"', 'name: "broken"'))
    for graph in (repository / "broken").glob("*/model.onnx"):
        graph.write_bytes(b"broken")
    with pytest.raises(Unavailable, match=r"Triton can't load 'broken': .*can't load model\.onnx"):
        using(triton.address, lambda engine: engine.load("broken"))


def test_a_model_without_a_card_is_unavailable(own: tuple[LocalTriton, Path]) -> None:
    triton, repository = own
    shutil.copytree(repository / "marked", repository / "foreign")
    config = repository / "foreign" / "config.pbtxt"
    text = config.read_text().replace('name: "marked"', 'name: "foreign"')
    config.write_text(text.replace("ganforge.card", "somebody.else"))

    async def work(engine: TritonEngine) -> None:
        await engine.load("foreign")
        with pytest.raises(Unavailable, match="'foreign' was not published by ganforge"):
            await engine.published("foreign")
        await engine.unload("foreign")

    using(triton.address, work)


def test_it_tells_whether_triton_lives(own: tuple[LocalTriton, Path]) -> None:
    assert using(own[0].address, lambda engine: engine.live())


def test_no_triton_is_not_live_and_unavailable() -> None:
    async def work(engine: TritonEngine) -> None:
        assert not await engine.live()
        with pytest.raises(Unavailable, match="Triton is not available now"):
            await engine.models()
        with pytest.raises(Unavailable, match="marked is not available now") as raised:
            await engine.infer("marked", INPUTS, None, 5)
        assert raised.value.retry_after_s

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        using(f"127.0.0.1:{unused.getsockname()[1]}", work)


@pytest.mark.parametrize(
    "call",
    [
        lambda engine: engine.models(),
        lambda engine: engine.published("marked"),
        lambda engine: engine.infer("marked", INPUTS, None, 5),
        lambda engine: engine.load("marked"),
        lambda engine: engine.unload("marked"),
        lambda engine: engine.executions(30),
    ],
    ids=["models", "published", "infer", "load", "unload", "executions"],
)
def test_a_call_whose_connection_is_closed_under_it_is_unavailable(
    call: Callable[[TritonEngine], Coroutine[Any, Any, Any]],
) -> None:
    async def work(engine: TritonEngine) -> None:
        calling = asyncio.create_task(call(engine))
        await asyncio.sleep(0.1)
        await engine.reconnect("127.0.0.1:1")
        with pytest.raises(Unavailable):
            await calling

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        using(f"127.0.0.1:{silent.getsockname()[1]}", work)


def test_a_triton_that_hangs_is_not_waited_for_when_it_is_asked_what_it_did() -> None:
    async def work(engine: TritonEngine) -> None:
        began = time.monotonic()
        with pytest.raises((DeadlineExceeded, Unavailable)):
            await engine.executions(0.2)
        assert time.monotonic() - began < 2

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        using(f"127.0.0.1:{silent.getsockname()[1]}", work)


def test_a_proxy_of_the_environment_is_not_asked(
    triton: LocalTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    async def live() -> bool:
        engine = TritonEngine(triton.address)
        try:
            return await engine.live()
        finally:
            await engine.close()

    assert asyncio.run(live())
