"""Measuring a server: what is counted, from when, and that a wrong picture doesn't pass."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import typer

from gan_serving.bench import Accept
from gan_serving.bench.command import bench as command
from gan_serving.bench.levels import Level, level_of, wrong_pictures
from gan_serving.bench.lines import OK, TIMEOUT, TRANSPORT, HttpLine, Reply
from gan_serving.bench.load import Exchange, Load, turns
from gan_serving.bench.measure import Plan, measure
from gan_serving.bench.targets import target_of
from gan_serving.bench.usage import usage_of
from tests.serving.fake_engine import FakeEngine
from tests.serving.graphs import HEIGHT, WIDTH
from tests.serving.grpc_server import running
from tests.serving.processes import Serving, ganforge, wait_until

if TYPE_CHECKING:
    from numpy.typing import NDArray

REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
PROBLEM = json.dumps({"error": {"code": "queue_full"}}).encode()
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def serving(repository: Path) -> Iterator[Serving]:
    with Serving(repository, "ort") as serving:
        yield serving


@asynccontextmanager
async def scripted(serve: Serve) -> AsyncIterator[str]:
    """The URL of a server that does with each connection what it is told."""
    handling: list[asyncio.Task[None] | None] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handling.append(asyncio.current_task())
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await asyncio.gather(*filter(None, handling))


def saying(*answers: bytes, closing: bool = False) -> Serve:
    """Gives an answer per request of a connection, then waits for its end, or ends it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readexactly(len(REQUEST))
            writer.write(answer)
        if not closing:
            await reader.read()

    return serve


def replies(serve: Serve, calls: int = 1, timeout_s: float = 5.0) -> list[Reply]:
    async def run() -> list[Reply]:
        async with scripted(serve) as url:
            line = HttpLine(url)
            found = [await line.call(REQUEST, timeout_s) for _ in range(calls)]
            await line.close()
            return found

    return asyncio.run(run())


def bench(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and levels of the command."""
    done = ganforge("bench", "tiny_dcgan", *arguments, "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["levels"]


@pytest.mark.parametrize(
    ("face", "options"),
    [
        ("http", ()),
        ("http", ("-n", "3")),
        ("http", ("--accept", "json")),
        ("grpc", ()),
        ("grpc", ("--accept", "raw", "-n", "2")),
    ],
)
def test_every_face_of_a_server_can_be_measured(
    serving: Serving, face: str, options: tuple[str, ...]
) -> None:
    url = serving.url if face == "http" else serving.grpc
    status, (one, four) = bench("--url", url, "--concurrency", "1,4", "--requests", "20", *options)
    assert status == 0
    assert (one["concurrency"], four["concurrency"]) == (1, 4)
    assert one["wrong"] == four["wrong"] == 0
    assert one["errors"] == four["errors"] == {}
    n = int(options[-1]) if "-n" in options else 1
    assert four["images"] == 20 * n


def test_ctrl_c_ends_it_with_what_was_measured_by_then(serving: Serving) -> None:
    options = ("--url", serving.url, "--concurrency", "1,2,4", "--duration", "2", "--json")
    with subprocess.Popen(
        [sys.executable, "-m", "gan_core.cli", "bench", "tiny_dcgan", "--no-verify", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("1 callers: ")
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=20)
    first, *others = json.loads(out)["levels"]
    assert (process.returncode, first["interrupted"], len(others) < 2) == (130, False, True)
    assert "interrupted" in errors
    assert "Traceback" not in errors


def test_the_report_says_what_was_measured_where(serving: Serving, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    options = ("--requests", "8", "--concurrency", "2", "--pid", str(serving.process.pid))
    done = ganforge("bench", "tiny_dcgan", "--url", serving.url, *options, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "images/s" in done.stdout
    report = json.loads(out.read_text())
    assert report["cpus"] == os.cpu_count()
    assert report["command"][1:3] == ["bench", "tiny_dcgan"]
    assert report["levels"][0]["peak_rss_mib"] > 10
    assert report["levels"][0]["cpu_ms_per_image"] >= 0


def test_an_open_loop_sends_at_its_rate(serving: Serving) -> None:
    status, (level,) = bench("--url", serving.url, "--rate", "100", "--requests", "50")
    assert status == 0
    assert (level["rate"], level["images"], level["wrong"]) == (100, 50, 0)
    assert level["seconds"] >= 0.2


def test_an_overloaded_server_is_told_apart_from_a_broken_one(repository: Path) -> None:
    with Serving(repository, "ort", "--max-waiting", "1", "--max-n", "32") as serving:
        options = ("--no-verify", "--concurrency", "24", "--requests", "120", "-n", "32")
        status, (level,) = bench("--url", serving.url, *options)
    assert status == 0
    assert level["errors"].keys() == {"429 queue_full"}
    assert level["images"] == 32 * (120 - level["errors"]["429 queue_full"])
    assert level["retry_after_s"][0] >= 1
    assert level["wrong"] is None


@pytest.mark.parametrize(("callers", "status"), [(1, 0), (4, 1)])
def test_a_server_that_mixes_pictures_up_under_load_is_found_out(
    tmp_path: Path, callers: int, status: int
) -> None:
    answered = itertools.count(1)

    def shades(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
        others = len(engine.asked) - next(answered)  # still in flight
        shade = inputs["label"][:, :, None, None] + min(others, 1)  # of the next class
        return np.broadcast_to(10 * shade, (len(shade), HEIGHT, WIDTH, 3)).astype(np.uint8)

    engine = FakeEngine(answer=shades)
    engine.delay_s = 0.001

    async def run() -> None:
        async with running(engine) as (_, address):
            options: dict[str, Any] = {"requests": 40, "out": tmp_path / "report.json"}
            await asyncio.to_thread(
                command, "marked", url=f"grpc://{address}", concurrency=str(callers), **options
            )

    if status:
        with pytest.raises(typer.Exit) as ended:
            asyncio.run(run())
        assert ended.value.exit_code == status
    else:
        asyncio.run(run())
    (level,) = json.loads((tmp_path / "report.json").read_text())["levels"]
    assert (level["wrong"] > 0) == bool(status)


def test_pictures_may_differ_by_one_level_and_no_more() -> None:
    grey = np.full((2, 2, 3), 100, np.uint8)
    found = {
        b"same": [grey],
        b"one": [grey + 1],
        b"two": [grey - 2],
        b"none": [],
        b"more": [grey] * 2,
    }
    exchanges = [Exchange(0, 0, 0, 1, Reply(OK, body)) for body in (*found, b"two")]
    assert wrong_pictures(exchanges, [[grey]], found.__getitem__) == 4
    assert wrong_pictures(exchanges[:2], [[grey]], found.__getitem__) == 0


def test_an_answer_that_is_no_picture_is_wrong() -> None:
    grey = np.full((2, 2, 3), 100, np.uint8)
    answers = [Exchange(0, 0, 0, 1, Reply(OK, b"<html>"))]
    target = target_of("http://host", "m", None, 1, timeout_s=1, key=None)
    assert wrong_pictures(answers, [[grey]], target.pictures) == 1
    target = target_of("http://host", "m", Accept.JSON, 1, timeout_s=1, key=None)
    assert wrong_pictures(answers, [[grey]], target.pictures) == 1
    target = target_of("grpc://host:1", "m", None, 1, timeout_s=1, key=None)
    assert wrong_pictures(answers, [[grey]], target.pictures) == 1


def test_a_level_counts_answers_latencies_and_errors_apart() -> None:
    exchanges = [
        Exchange(0, 10.0, 10.0, 10.1, Reply(OK)),
        Exchange(1, 10.0, 10.5, 12.0, Reply(OK)),
        Exchange(2, 10.0, 10.0, 10.2, Reply("429 queue_full", retry_after_s=3)),
        Exchange(3, 10.0, 10.0, 10.2, Reply("429 queue_full", retry_after_s=1)),
        Exchange(4, 10.0, 10.0, 10.2, Reply(TRANSPORT)),
    ]
    level = level_of(exchanges, 4, 1.0, concurrency=2)
    assert (level.requests, level.images, level.seconds) == (5, 8, 2.0)
    assert (level.images_per_s, level.requests_per_s, level.goodput_images_per_s) == (4.0, 1.0, 2.0)
    assert level.errors == {"429 queue_full": 2, TRANSPORT: 1}
    assert level.retry_after_s == (1, 3)
    assert level.latency_ms is not None
    assert (level.latency_ms.p50, level.latency_ms.max) == pytest.approx((1050, 2000))


def test_without_an_answer_there_is_no_latency() -> None:
    level = level_of([Exchange(0, 0.0, 0.0, 1.0, Reply(TIMEOUT))], 1, 1.0, rate=1.0)
    assert level.latency_ms is None
    assert level.images_per_s == 0


class SlowLine:
    """Takes a while."""

    async def call(self, request: bytes, timeout_s: float) -> Reply:
        await asyncio.sleep(0.02)
        return Reply(OK, bytes(bytearray(request)))

    async def close(self) -> None: ...


class SlowTarget:
    """A slow line, and no server."""

    def request(self, seed: int, n: int) -> bytes:
        return bytes([seed % 256])

    def line(self) -> SlowLine:
        return SlowLine()

    def pictures(self, body: bytes) -> list[NDArray[np.uint8]]:
        raise ValueError


def test_a_level_that_is_interrupted_is_of_what_was_answered_by_then() -> None:
    loads: list[Load] = []

    async def interrupted() -> Level:
        plan = Plan(requests=None, duration_s=600)
        work = measure(SlowTarget(), plan, concurrency=2, on_start=loads.append)
        measuring = asyncio.create_task(work)
        while not loads or len(loads[0].exchanges) < 4:
            await asyncio.sleep(0.005)
        measuring.cancel()
        return await measuring

    level = asyncio.run(interrupted())
    assert level.interrupted
    assert level.requests == len(loads[0].exchanges)


def test_an_open_loops_latency_counts_from_when_a_request_was_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gan_serving.bench.load.MOST_LINES", 1)
    load = Load(SlowLine, [b"x"], 1.0)
    asyncio.run(load.open_loop(100_000, turns(10, None)))
    last = load.exchanges[-1]
    assert last.ended - last.sent < 0.1
    assert last.ended - last.due >= 0.19


def test_a_closed_loop_has_as_many_in_flight_as_callers_and_rotates_requests() -> None:
    load = Load(SlowLine, [b"a", b"b", b"c"], 1.0)
    began = time.perf_counter()
    asyncio.run(load.closed_loop(5, turns(10, None)))
    assert 0.04 <= time.perf_counter() - began < 0.19
    assert sorted(one.which for one in load.exchanges) == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len({id(one.reply.body) for one in load.exchanges}) == 3


def test_turns_end_with_their_number_or_their_time() -> None:
    assert list(turns(3, None)) == [0, 1, 2]
    began = time.perf_counter()
    assert sum(1 for _ in turns(None, 0.02)) > 1
    assert 0.02 <= time.perf_counter() - began < 1


def test_a_connection_is_used_again_and_made_again() -> None:
    last = ANSWER.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    connections = itertools.count()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        next(connections)
        await saying(ANSWER, last, closing=True)(reader, writer)

    assert replies(serve, calls=4) == [Reply(OK, b"hi")] * 4
    assert next(connections) == 2


def test_an_answer_may_come_in_pieces() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n"
    assert replies(saying(chunked)) == [Reply(OK, b"hi")]


def test_an_error_has_the_servers_code_or_its_status() -> None:
    head = f"HTTP/1.1 429 No\r\nRetry-After: 7\r\nContent-Length: {len(PROBLEM)}\r\n\r\n".encode()
    bare = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
    first, second = replies(saying(head + PROBLEM, bare), calls=2)
    assert (first.code, first.retry_after_s) == ("429 queue_full", 7)
    assert (second.code, second.retry_after_s) == ("503", None)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0\r\n", ANSWER[:-1]])
def test_a_connection_that_breaks_is_an_error_of_the_transport(answer: bytes) -> None:
    assert replies(saying(answer, closing=True), calls=2) == [Reply(TRANSPORT)] * 2


def test_a_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan_serving.bench.lines.GRACE_S", 0.01)
    assert replies(saying(), calls=2, timeout_s=0.01) == [Reply(TIMEOUT)] * 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "grpc://127.0.0.1:9"])
def test_a_server_that_is_not_there_is_an_error_of_the_transport(url: str) -> None:
    async def call() -> Reply:
        target = target_of(url, "m", None, 1, timeout_s=5, key=None)
        line = target.line()
        reply = await line.call(target.request(0, 1), 5)
        await line.close()
        return reply

    assert asyncio.run(call()).code == TRANSPORT


def test_the_usage_of_a_process_is_that_of_its_children_too() -> None:
    program = "import time; x = bytearray(200 << 20); time.sleep(60)"
    alone = usage_of(os.getpid())
    with subprocess.Popen([sys.executable, "-c", program]) as child:
        assert wait_until(lambda: usage_of(child.pid).peak_rss_bytes > 200 << 20)
        both = usage_of(os.getpid())
        child.kill()
    assert both.peak_rss_bytes > alone.peak_rss_bytes + (200 << 20)
    assert both.cpu_s >= alone.cpu_s > 0


FAILURES = {
    "model": (["nobody"], "no model is called 'nobody'"),
    "callers": (["m", "--concurrency", "0,x"], "--concurrency '0,x': give numbers from 1 on"),
    "loops": (["m", "--rate", "5", "--concurrency", "1"], "--rate is an open loop"),
    "ends": (["m", "--requests", "5", "--duration", "1"], "both say when a level is over"),
    "raw": (["m", "--accept", "raw"], "--accept raw with 1 images per request over HTTP"),
    "files": (["m", "--accept", "png", "-n", "2"], "--accept png with 2 images"),
    "json": (["m", "--accept", "json", "--url", "grpc://x:1"], "--accept json over gRPC"),
    "address": (["m", "--url", "local:x"], "is not a gateway's address"),
    "port": (["m", "--no-verify", "--url", "http://x:y"], "'http://x:y' is not an address"),
    "nobody there": (["m", "--url", "http://127.0.0.1:9"], "start a server with 'ganforge serve'"),
    "process": (["tiny_dcgan", "--no-verify", "--pid", str(2**22 + 1)], "no such process"),
}


@pytest.mark.parametrize(("arguments", "reason"), FAILURES.values(), ids=list(FAILURES))
def test_what_can_not_be_measured_is_said_in_one_line(
    serving: Serving, arguments: list[str], reason: str
) -> None:
    url = [] if "--url" in arguments else ["--url", serving.url]
    done = ganforge("bench", *arguments, *url)
    assert done.returncode == 1
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
