"""What isn't a request, or never becomes one: refused or dropped, while others are served."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import NamedTuple

import grpc
import httpx
import psutil
import pytest

from gan_serving.repository import publish
from tests.faults.asking import PATH, Asker, seconds_until
from tests.serving.graphs import write_export
from tests.serving.processes import Serving

IDLE = 1000
HEADERS = b"Host: x\r\nContent-Type: application/json\r\n"
POST = b"POST " + PATH.encode() + b" HTTP/1.1\r\n" + HEADERS
BODY = b'{"model": "marked", "seed": 3}'
HIDDEN = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
"""What a smuggler wants to be answered."""
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("sockets")
    publish(write_export(folder / "marked", "marked"), folder / "own")
    with Serving(folder / "own", "ort") as serving:
        yield serving


@pytest.fixture(autouse=True)
def _others_are_served(serving: Serving, asking: Callable[..., Asker]) -> Iterator[None]:
    """After each test the server gives right pictures, and nothing has gone wrong inside."""
    yield
    assert asking(serving.url, ()).ask(3) == 200
    assert serving.errors() == ""


def connected(url: str, timeout_s: float = 5) -> socket.socket:
    port = int(url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=timeout_s)


class Said(NamedTuple):
    statuses: list[int]
    closed: bool
    text: bytes


def said(serving: Serving, data: bytes, *, hang_up: bool = False) -> Said:
    """What the server answers until it has nothing more to say."""
    answer, closed = b"", True
    with connected(serving.url, 0.3) as connection:
        try:
            connection.sendall(data)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(1 << 16):
                answer += more
        except TimeoutError:
            closed = False
        except OSError:
            pass  # reset: it didn't read to the end
    statuses = [int(found) for found in re.findall(rb"^HTTP/1.1 (\d{3}) ", answer, re.MULTILINE)]
    return Said(statuses, closed, answer)


NO_HTTP: dict[str, bytes] = {
    "noise": b"\x00\xff\x13noise\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303") + b"x" * 160,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version": b"GET /livez HTTP/3.7\r\nHost: x\r\n\r\n",
    "method": b"G3T /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "bare line feeds": b"GET /livez HTTP/1.1\nHost: x\n\n",
    "folded header": b"GET /livez HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "NUL in the path": b"GET /v1/models/a\0b HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL in a header": b"GET /livez HTTP/1.1\r\nHost: x\r\nA: a\0b\r\n\r\n",
    "path of raw bytes": b"GET /v1/models/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "response splitting": b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\rb\r\n\r\n",
    "tunnel": b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "length below 0": POST + b"Content-Length: -1\r\n\r\n" + BODY,
    "length with a sign": POST + b"Content-Length: +30\r\n\r\n" + BODY,
    "length in words": POST + b"Content-Length: thirty\r\n\r\n" + BODY,
    "endless length": POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n" + BODY,
    "chunk without a size": POST + CHUNKED + b"\r\nZZ\r\nhello\r\n0\r\n\r\n",
    "chunk below 0": POST + CHUNKED + b"\r\n-1\r\nhello\r\n0\r\n\r\n",
    "endless chunk": POST + CHUNKED + b"\r\n" + b"F" * 18 + b"\r\nhello\r\n0\r\n\r\n",
}
SMUGGLED: dict[str, bytes] = {
    "length and chunks": POST + b"Content-Length: 30\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "chunks and length": POST + CHUNKED + b"Content-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 30\r\nContent-Length: 0\r\n\r\n",
    "list of lengths": POST + b"Content-Length: 0, 0\r\n\r\n",
    "unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n",
    "coding before a space": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "two codings": POST + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("data", NO_HTTP.values(), ids=NO_HTTP)
def test_what_is_no_http_is_refused_with_a_problem(serving: Serving, data: bytes) -> None:
    found = said(serving, data)
    assert (found.statuses, found.closed) == ([400], True)
    problem = json.loads(found.text.rpartition(b"\r\n\r\n")[2])
    assert problem["error"]["code"] == "bad_request"


@pytest.mark.parametrize("data", SMUGGLED.values(), ids=SMUGGLED)
def test_a_request_within_a_request_is_never_answered(serving: Serving, data: bytes) -> None:
    found = said(serving, data + HIDDEN)
    assert (found.statuses, found.closed) == ([400], True)


@pytest.mark.parametrize(
    "path",
    ["models/a%00b", "models/%ff%fe", "models/%ed%a0%80", "jobs/%00", "jobs/%ed%a0%80", "%2e%2e/a"],
)
def test_a_path_of_strange_bytes_is_not_found(serving: Serving, path: str) -> None:
    found = said(serving, f"GET /v1/{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert found.statuses == [404]
    assert b"application/problem+json" in found.text


@pytest.mark.parametrize(
    "data",
    [
        b"POST /v1/ima",
        POST,
        POST + b"Content-Length: 300\r\n\r\n" + BODY,
        POST + CHUNKED + b"\r\n1e\r\n" + BODY,
    ],
    ids=["line", "head", "body", "chunk"],
)
def test_half_a_request_is_dropped_when_its_client_goes(serving: Serving, data: bytes) -> None:
    found = said(serving, data, hang_up=True)
    assert (found.statuses, found.closed) == ([], True)


def test_requests_in_one_piece_are_answered_in_order(serving: Serving) -> None:
    ask = POST + b"Content-Length: 30\r\n\r\n" + BODY
    found = said(serving, (HIDDEN + ask) * 3 + b"nonsense\r\n\r\n")
    assert found.statuses[:-1] == [200] * len(found.statuses[:-1])
    assert found.statuses[-1] == 400
    assert found.closed


def test_a_head_of_10_mb_takes_no_memory(serving: Serving) -> None:
    before = psutil.Process(serving.process.pid).memory_info().rss
    found = said(serving, b"GET /livez HTTP/1.1\r\nX: " + b"a" * 10_000_000)
    assert found.closed
    assert psutil.Process(serving.process.pid).memory_info().rss - before < 5_000_000


@pytest.mark.parametrize("seed", range(5))
def test_noise_on_the_grpc_port_ends_that_connection_alone(serving: Serving, seed: int) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if seed % 2 else b""
    with (
        grpc.insecure_channel(serving.grpc.removeprefix("grpc://")) as channel,
        connected(serving.grpc) as connection,
    ):
        call: Callable[..., bytes] = channel.unary_unary("/ganforge.v1.ImageService/ListModels")
        call(b"", timeout=5)
        with suppress(OSError):
            connection.sendall(preface + os.urandom(4096))
            while connection.recv(4096):
                pass
        call(b"", timeout=5)


def test_clients_that_trickle_keep_nobody_waiting(
    serving: Serving, asking: Callable[..., Asker]
) -> None:
    asker = asking(serving.url, ())
    with ExitStack() as connections:
        slow = [connections.enter_context(connected(serving.url)) for _ in range(200)]
        for i, one in enumerate(slow):
            one.sendall(POST[: 20 + i] if i % 2 else POST + b"Content-Length: 300\r\n\r\n{")
        for seed in range(20):
            asker.ask(seed)
            slow[seed].sendall(b"x")
    assert max(asker.seconds) < 1


@pytest.mark.faults
def test_clients_that_trickle_are_dropped(serving: Serving, note: Callable[..., None]) -> None:
    with connected(serving.url) as head, connected(serving.url) as body:
        body.sendall(POST + b"Content-Length: 900\r\n\r\n")
        head.sendall(POST)
        head.setblocking(False)
        body.setblocking(False)

        def trickled(connection: socket.socket, piece: bytes) -> bool:
            try:
                connection.send(piece)
                return bool(connection.recv(1 << 16))
            except BlockingIOError:
                return False

        began = time.monotonic()
        seconds_until(lambda: trickled(head, b"X: y\r\n"), 40)
        dropped = time.monotonic() - began
        seconds_until(lambda: trickled(body, b" "), 5)
    note("slow-loris, head and body", dropped_s=dropped)


def test_a_client_that_never_reads_keeps_nobody_waiting(
    serving: Serving, asking: Callable[..., Asker]
) -> None:
    asker = asking(serving.url, ())
    body = b'{"model": "marked", "n": 32}'
    ask = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with ExitStack() as connections:
        for _ in range(10):
            connections.enter_context(connected(serving.url)).sendall(ask)
        for seed in range(10):
            asker.ask(seed)
    assert max(asker.seconds) < 5


def test_a_thousand_idle_connections_cost_little(
    serving: Serving, asking: Callable[..., Asker], note: Callable[..., None]
) -> None:
    asker = asking(serving.url, ())
    process = psutil.Process(serving.process.pid)
    before = process.memory_info().rss
    with ExitStack() as connections:
        for _ in range(IDLE):
            connections.enter_context(connected(serving.url))
        for _ in range(IDLE // 10):
            connections.enter_context(connected(serving.grpc))
        for seed in range(20):
            asker.ask(seed)
        grown = process.memory_info().rss - before
        assert httpx.get(f"{serving.url}/readyz").status_code == 200
    assert grown < 50_000_000
    note("1,000 idle connections", longest_s=max(asker.seconds), grown_mb=grown / 1e6)
