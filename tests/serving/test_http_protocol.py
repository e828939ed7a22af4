"""A connection whose client never finishes, or isn't speaking HTTP at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
import uvloop

from gan_serving import http_protocol
from gan_serving.http_protocol import MAX_HEAD_BYTES, BoundedProtocol

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"


@asynccontextmanager
async def connected(
    monkeypatch: pytest.MonkeyPatch, read_s: float
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server that answers with the body's length, late at /slow, not at /wait."""
    monkeypatch.setattr(http_protocol, "READ_S", read_s)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        if scope["path"] == "/wait":
            await receive()
            return
        await asyncio.sleep(0.4 if scope["path"] == "/slow" else 0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(len(body)).encode()})

    config = uvicorn.Config(app, port=0, http=BoundedProtocol, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        server.should_exit = True
        await serving


def sent(monkeypatch: pytest.MonkeyPatch, *pieces: bytes, read_s: float = 0.2) -> bytes:
    """What comes back until the connection ends, with a pause before each further piece."""

    async def run() -> bytes:
        async with connected(monkeypatch, read_s) as (reader, writer):
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.03)
            async with asyncio.timeout(8):
                return await reader.read()

    return asyncio.run(run())


def problem_in(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.rpartition(b"\r\n\r\n")
    assert b"Content-Type: application/problem+json" in head
    assert b"Connection: close" in head
    found: dict[str, Any] = json.loads(body)
    assert head.split()[1] == str(found["status"]).encode()
    return found


@pytest.mark.parametrize(
    "pieces",
    [(b"POST / HT",), (HEAD,), (*[b"X: y\r\n"] * 5,), (HEAD + b"\r\n", b"a"), (b"GET / HTTP/1.1",)],
)
def test_a_request_that_never_ends_is_refused(
    monkeypatch: pytest.MonkeyPatch, pieces: tuple[bytes, ...]
) -> None:
    first = b"" if pieces[0].startswith((b"POST", b"GET")) else HEAD
    problem = problem_in(sent(monkeypatch, first + pieces[0], *pieces[1:]))
    assert problem["detail"] == "the request didn't come in within 0.2 s"


def test_trickling_buys_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> float:
        loop = asyncio.get_running_loop()
        async with connected(monkeypatch, 0.2) as (reader, writer):
            began = loop.time()
            writer.write(HEAD)
            while not reader.at_eof() and not writer.is_closing():
                writer.write(b"X: y\r\n")
                await asyncio.sleep(0.02)
                if await _has_answer(reader):
                    break
            return loop.time() - began

    assert asyncio.run(run()) < 1


async def _has_answer(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(0.001):
            return bool(await reader.read(1))
    except TimeoutError:
        return False


def test_an_idle_connection_is_closed_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sent(monkeypatch) == b""


def test_a_head_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    more = b"X: " + b"a" * MAX_HEAD_BYTES
    problem = problem_in(sent(monkeypatch, HEAD, more, read_s=8))
    assert problem["detail"] == "the head is larger than 65,536 bytes"


HEAD_BYTES = len("/") + len("Host") + len("x") + len("X") + 3 * 4


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("where", ["url", "header"])
def test_a_head_that_comes_at_once_is_measured_as_well(
    monkeypatch: pytest.MonkeyPatch, where: str, over: int
) -> None:
    filler = "a" * (MAX_HEAD_BYTES - HEAD_BYTES - len("Connectionclose") - 4 + over)
    url, header = (filler, "") if where == "url" else ("", filler)
    request = f"GET /{url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: {header}\r\n\r\n"
    answer = sent(monkeypatch, request.encode(), read_s=8)
    if over:
        assert problem_in(answer)["error"]["code"] == "payload_too_large"
    else:
        assert answer.startswith(b"HTTP/1.1 200 OK")


def test_a_head_without_end_behind_an_early_answer_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = sent(monkeypatch, slow, b"GET / HTTP/1.1\r\nX: " + b"a" * MAX_HEAD_BYTES, read_s=8)
    assert b"the head is larger than 65,536 bytes" in answer


def test_of_pipelined_requests_each_learns_that_its_client_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        async with asyncio.timeout(8), connected(monkeypatch, 8) as (_, writer):
            writer.write(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
            await asyncio.sleep(0.1)

    asyncio.run(run())  # ends once no request is left


def test_of_a_client_that_pipelines_and_hangs_up_the_log_says_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with connected(monkeypatch, 8) as (_, writer):
            writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
            await asyncio.sleep(0.1)

    uvloop.run(run())  # it alone raises where a closed connection is written to
    assert caplog.records == []


def test_what_is_no_http_is_a_bad_request(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_in(sent(monkeypatch, b"\x16\x03\x01\x00\xa5", read_s=8))
    assert problem["error"]["code"] == "bad_request"


def test_a_request_in_pieces_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = sent(monkeypatch, HEAD, b"\r\n", b"ab", b"cd", last, read_s=8)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert b"\r\n4\r\n" in answer  # the first's body, as a chunk


def test_the_time_to_answer_is_not_the_time_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert sent(monkeypatch, slow).startswith(b"HTTP/1.1 200 OK")
