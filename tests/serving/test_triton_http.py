"""Calls through Triton's socket: what an answer may look like, and connections that break."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from gan_core.latents import draw
from gan_serving.engine import Inference
from gan_serving.triton_engine import SOCKET, TritonEngine
from gan_serving.triton_http import TritonHttp
from gan_serving.triton_process import LocalTriton
from tests.serving.graphs import WATERMARK_INPUTS, watermarked

PIXELS = bytes(range(12))
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer_of(version: str = "3") -> bytes:
    output = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3]}
    about = json.dumps({"model_version": version, "outputs": [output]}).encode()
    length = len(about) + len(PIXELS)
    head = f"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: {len(about)}\r\n"
    return f"{head}Content-Length: {length}\r\n\r\n".encode() + about + PIXELS


async def ask(http: TritonHttp, wait_s: float = 5) -> Inference:
    inputs = {"z": np.zeros((1, 2), np.float32)}
    return await http.infer("m", 3, inputs, timeout_s=1, wait_s=wait_s, headers=None)


async def drain(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
    return head + await reader.readexactly(length)


def against(
    folder: Path, answer: Answer, work: Callable[[TritonHttp], Awaitable[Any]]
) -> tuple[Any, int]:
    """What ``work`` gives beside a server of one's own, and how many connections it had."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            await answer(reader, writer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def run() -> Any:
        path = str(folder / "s")
        server = await asyncio.start_unix_server(serve, path)
        async with server:
            http = TritonHttp(path)
            try:
                return await work(http)
            finally:
                http.close()
                await asyncio.sleep(0.01)

    return asyncio.run(run()), connections


def test_calls_after_each_other_share_a_connection_and_calls_at_once_do_not(
    tmp_path: Path,
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await drain(reader):
            for byte in answer_of():  # however it comes
                writer.write(bytes([byte]))
            await writer.drain()

    async def work(http: TritonHttp) -> list[Inference]:
        first = [await ask(http) for _ in range(3)]
        return first + list(await asyncio.gather(*(ask(http) for _ in range(4))))

    answers, connections = against(tmp_path, answer, work)
    assert connections == 4
    for one in answers:
        assert one.version == 3
        assert one.image.tobytes() == PIXELS
        assert one.image.shape == (1, 2, 2, 3)


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (b"", "UNAVAILABLE", "closed the connection"),
        (answer_of()[:-1], "UNAVAILABLE", "closed the connection"),
        (b"220 mail.example ESMTP\r\n", "UNAVAILABLE", "Expected HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "INTERNAL", "'outputs'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", "INTERNAL", "no answer of Triton's"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}", "INTERNAL", "'error'"),
        (
            b'HTTP/1.1 404 No\r\nContent-Length: 17\r\n\r\n{"error":"where"}',
            "NOT_FOUND",
            "where",
        ),
    ],
    ids=["nothing", "half", "mail", "empty", "no-json", "no-reason", "refusal"],
)
def test_what_is_no_answer_is_an_error_and_the_next_call_is_unharmed(
    tmp_path: Path, sent: bytes, status: str, said: str
) -> None:
    answers = iter([sent, answer_of("4")])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await drain(reader):
            given = next(answers)
            writer.write(given)
            if status == "UNAVAILABLE" and given == sent:
                return

    async def work(http: TritonHttp) -> Inference:
        with pytest.raises(InferenceServerException) as raised:
            await ask(http)
        assert raised.value.status() == status
        assert said in raised.value.message()
        return await ask(http)

    assert against(tmp_path, answer, work)[0].version == 4


def test_an_answer_that_comes_too_late_is_nobodys(tmp_path: Path) -> None:
    waits = iter([0.3, 0])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await drain(reader):
            wait_s = next(waits)
            await asyncio.sleep(wait_s)
            writer.write(answer_of("1" if wait_s else "2"))

    async def work(http: TritonHttp) -> Inference:
        with pytest.raises(InferenceServerException) as raised:
            await ask(http, wait_s=0.1)
        assert raised.value.status() == "DEADLINE_EXCEEDED"
        return await ask(http)

    found, connections = against(tmp_path, answer, work)
    assert (found.version, connections) == (2, 2)


def test_a_connection_that_was_closed_meanwhile_is_not_used(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await drain(reader)
        writer.write(answer_of())

    async def work(http: TritonHttp) -> None:
        for _ in range(3):
            await ask(http)
            await asyncio.sleep(0.01)

    assert against(tmp_path, answer, work)[1] == 3


def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    async def work() -> None:
        with pytest.raises(InferenceServerException) as raised:
            await ask(TritonHttp(str(tmp_path / "nobody")))
        assert raised.value.status() == "UNAVAILABLE"

    asyncio.run(work())


def test_triton_survives_callers_that_go_away(triton: LocalTriton) -> None:
    """By gRPC, 2.51 may die of that."""
    inputs = draw(WATERMARK_INPUTS, [5])

    async def work() -> Inference:
        http = TritonHttp(triton.endpoints.partition(SOCKET)[2])
        for turn in range(300):
            calls = [
                asyncio.create_task(
                    http.infer("marked", 1, inputs, timeout_s=5, wait_s=5, headers=None)
                )
                for _ in range(4)
            ]
            await asyncio.sleep(turn % 10 / 2000)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        http.close()
        engine = TritonEngine(triton.endpoints)
        try:
            return await engine.infer("marked", inputs, None, 5)
        finally:
            await engine.close()

    np.testing.assert_array_equal(asyncio.run(work()).image, watermarked([5]))
    assert triton.alive()
