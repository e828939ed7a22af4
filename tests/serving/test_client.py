"""The SDK's clients: retries, errors, threads, forks and ends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gan_client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    QueueFull,
    ServiceError,
    Unavailable,
)
from gan_core.errors import SERVICE_ERRORS, ConfigError, ModelNotFound
from gan_serving.encode import png
from gan_serving.gatekeeper import Gatekeeper
from gan_serving.gateway import create_app
from gan_serving.readiness import Readiness
from gan_serving.schema import problem
from gan_serving.service import ImageService
from tests.serving.fake_engine import FakeEngine
from tests.serving.graphs import watermarked
from tests.serving.processes import wait_until

Handler = Callable[[httpx.Request], httpx.Response]
GATEWAY = "http://gateway"


def mocked(handler: Handler) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(handler), base_url=GATEWAY)


def over(engine: FakeEngine) -> httpx.AsyncClient:
    """A real gateway over a fake engine, without a socket."""
    service = ImageService(engine)
    app = create_app(service, Readiness(service), Gatekeeper(None))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=GATEWAY)


def refused(error: ServiceError, retry_after: str | None = None) -> httpx.Response:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return httpx.Response(error.status, json=problem(error, "id"), headers=headers)


def attempts(*answers: httpx.Response, **options: float) -> tuple[int, ServiceError | None, float]:
    """How often a client asked, what it raised at the end, and how many seconds it took."""
    asked: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answers[min(len(asked), len(answers)) - 1]

    async def ask() -> ServiceError | None:
        async with AsyncClient(GATEWAY, http=mocked(handler), **options) as client:  # type: ignore[arg-type]  # options are numbers alone
            try:
                await client.models.list()
            except ServiceError as error:
                return error
            return None

    started = time.monotonic()
    raised = asyncio.run(ask())
    return len(asked), raised, time.monotonic() - started


NO_MODELS = httpx.Response(200, json={"object": "list", "data": []})
BUSY = QueueFull("full")


def test_what_may_pass_is_tried_again() -> None:
    count, raised, _ = attempts(refused(BUSY), refused(Unavailable("healing")), NO_MODELS)
    assert (count, raised) == (3, None)


def test_retry_after_is_obeyed() -> None:
    count, raised, took_s = attempts(refused(BUSY, "1"), NO_MODELS)
    assert (count, raised) == (2, None)
    assert 1 <= took_s < 2


def test_a_retry_after_beyond_the_budget_is_not_waited_for() -> None:
    count, raised, took_s = attempts(refused(BUSY, "30"), NO_MODELS, timeout_s=2)
    assert count == 1
    assert isinstance(raised, QueueFull)
    assert raised.retry_after_s == 30
    assert took_s < 0.5


def test_attempts_are_max_retries_and_one() -> None:
    count, raised, _ = attempts(refused(BUSY), max_retries=1)
    assert count == 2
    assert isinstance(raised, QueueFull)


@pytest.mark.parametrize("kind", [k for k in SERVICE_ERRORS.values() if not k.retryable])
def test_what_no_retry_helps_is_tried_once(kind: type[ServiceError]) -> None:
    count, raised, _ = attempts(refused(kind("why")))
    assert count == 1
    assert type(raised) is kind


@pytest.mark.parametrize("header", ["soon", "", "Wed, 21 Oct 2026 07:28:00 GMT", "-3", "nan"])
def test_a_retry_after_that_is_no_number_of_seconds_does_no_harm(header: str) -> None:
    count, raised, took_s = attempts(refused(BUSY, header), NO_MODELS, timeout_s=5)
    assert took_s < 2
    assert count == 2 or isinstance(raised, QueueFull)


@pytest.mark.parametrize("kind", SERVICE_ERRORS.values())
def test_an_error_is_the_same_class_over_http_as_in_process(kind: type[ServiceError]) -> None:
    engine = FakeEngine()
    engine.error = kind("why", param="n", retry_after_s=7)

    async def ask() -> ServiceError:
        async with AsyncClient(GATEWAY, http=over(engine), max_retries=0) as client:
            with pytest.raises(ServiceError) as raised:
                await client.images.generate(model="marked")
            return raised.value

    error = asyncio.run(ask())
    assert type(error) is kind
    if kind is not InternalError:  # whose text stays in the log
        assert (error.message, error.param, error.retry_after_s) == ("why", "n", 7)
    assert error.request_id


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, html="<h1>It works!</h1>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"data": [{"id": "gpt"}]}),
        httpx.Response(200, json={"data": 3}),
        httpx.Response(404, html="<h1>Not found</h1>"),
        httpx.Response(500, json={"error": "text"}),
        httpx.Response(400, json=["error"]),
        httpx.Response(301, headers={"Location": "http://elsewhere"}),
    ],
    ids=["html", "list", "openai", "number", "404", "text", "json list", "redirect"],
)
def test_another_kind_of_server_is_an_internal_error_that_names_it(answer: httpx.Response) -> None:
    count, raised, _ = attempts(answer)
    assert count == 1
    assert isinstance(raised, InternalError)
    assert "gateway" in str(raised)


def test_a_broken_picture_is_an_internal_error() -> None:
    body = {"data": [{"b64_json": "AAAA", "seed": 1}], "model": "m", "version": 1}

    async def ask() -> None:
        http = mocked(lambda _: httpx.Response(200, json=body))
        async with AsyncClient(GATEWAY, http=http) as client:
            await client.images.generate(model="m")

    with pytest.raises(InternalError, match="doesn't answer as a ganforge gateway does"):
        asyncio.run(ask())


def test_a_proxys_503_is_tried_again() -> None:
    count, raised, _ = attempts(httpx.Response(503, html="<h1>Bad gateway</h1>"), NO_MODELS)
    assert (count, raised) == (2, None)


def test_an_unreachable_host_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: refused at once
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with (
            Client(url, max_retries=0) as client,
            pytest.raises(ConnectionFailed, match=f"can't reach {url}"),
        ):
            client.models.list()


def test_an_unreachable_triton_is_unavailable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"triton://127.0.0.1:{unused.getsockname()[1]}"
        with Client(url, max_retries=0) as client, pytest.raises(Unavailable):
            client.images.generate(model="marked")


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a server that accepts and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["http", "triton"])
@pytest.mark.parametrize("call", ["generate", "list"])
def test_a_server_that_never_answers_is_given_up_in_time(
    silent: str, scheme: str, call: str
) -> None:
    started = time.monotonic()
    with Client(f"{scheme}://{silent}", timeout_s=0.3) as client:
        ask = client.models.list if call == "list" else partial(client.images.generate, model="m")
        with pytest.raises((DeadlineExceeded, Unavailable)):
            ask()
        assert time.monotonic() - started < 1.5


def test_a_server_that_drips_its_answer_is_given_up_in_time() -> None:
    over = threading.Event()

    def drip(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not over.wait(0.05):
                connection.sendall(b" ")

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = threading.Thread(target=drip, args=(listening,))
        server.start()
        started = time.monotonic()
        with Client(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_s=0.3) as client:
            with pytest.raises(DeadlineExceeded):
                client.images.generate(model="marked")
            took_s = time.monotonic() - started
            over.set()
        server.join()
    assert took_s < 2


def test_a_calls_own_timeout_is_used(silent: str) -> None:
    started = time.monotonic()
    with Client(f"http://{silent}") as client:
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.2 s"):
            client.images.generate(model="marked", timeout_s=0.2)
        assert time.monotonic() - started < 1


@pytest.mark.parametrize("url", ["ftp://x", "", "127.0.0.1:8080", "triton:", "local:"])
def test_no_address_is_a_config_error_that_leaves_no_thread(url: str) -> None:
    before = set(threading.enumerate())
    with pytest.raises(ConfigError, match=r"use http://…, grpc://host:port, triton://host:port or"):
        Client(url)
    assert wait_until(lambda: before.issuperset(threading.enumerate()), 2)


def test_a_missing_repository_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no such folder"):
        Client(f"local:{tmp_path / 'nothing'}")


def test_a_closed_client_says_so() -> None:
    client = Client(GATEWAY)
    client.close()
    with pytest.raises(RuntimeError, match="this client is closed"):
        client.models.list()


def test_closing_twice_does_nothing() -> None:
    client = Client(GATEWAY)
    client.close()
    client.close()


def test_numpys_integers_are_integers() -> None:
    sent: list[dict[str, Any]] = []
    asked: dict[str, Any] = {"labels": np.array([3, 1]), "seed": np.int64(4)}

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return refused(InvalidRequest("enough"))

    async def ask() -> None:
        async with AsyncClient(GATEWAY, http=mocked(handler)) as client:
            with pytest.raises(InvalidRequest, match="enough"):
                await client.images.generate(model="m", n=2, **asked)

    asyncio.run(ask())
    assert (sent[0]["labels"], sent[0]["seed"]) == ([3, 1], 4)


def test_threads_may_share_a_client(repository: Path) -> None:
    with Client(f"local:{repository}") as client, ThreadPoolExecutor(8) as pool:
        ask = partial(client.images.generate, model="marked")
        found = pool.map(lambda seed: ask(seed=seed).numpy(), range(64))
        np.testing.assert_array_equal(np.concatenate(list(found)), watermarked(range(64)))


def test_several_latents_need_no_n(repository: Path) -> None:
    with Client(f"local:{repository}") as client:
        batch = client.images.generate(model="marked", latents=np.zeros((3, 4)))
    assert len(batch) == 3


def test_a_single_latent_may_be_a_vector(repository: Path) -> None:
    with Client(f"local:{repository}") as client:
        batch = client.images.generate(model="marked", latents=np.zeros(4))
    assert len(batch) == 1


def test_a_misspelt_argument_is_refused_before_it_is_sent() -> None:
    with Client(GATEWAY) as client, pytest.raises(InvalidRequest, match="n: "):
        client.images.generate(model="marked", n=0)


def child(program: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_in_a_forked_child_a_client_says_that_it_is_of_another_process(repository: Path) -> None:
    with Client(f"local:{repository}") as client:
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: a fork beside threads
            pid = os.fork()
        if not pid:  # the child
            try:
                client.models.list()
            except RuntimeError as error:
                os.write(writing, str(error).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        os.close(writing)
        with os.fdopen(reading) as told:
            assert told.read().startswith("this client is of another process: make a Client")


@pytest.mark.parametrize("way", ["local", "http"])
def test_a_program_that_forgets_to_close_ends(way: str, repository: Path) -> None:
    program = (
        "import sys; from gan_client import Client, ConnectionFailed\n"
        "client = Client(sys.argv[1], max_retries=0)\n"
        "try: client.models.list()\n"
        "except ConnectionFailed: pass\n"
        "print('end')"
    )
    url = f"local:{repository}" if way == "local" else "http://127.0.0.1:9"
    with child(program, url) as process:
        out, errors = process.communicate(timeout=20)
    assert (process.returncode, out, errors) == (0, "end\n", "")


def test_ctrl_c_in_a_call_ends_it_at_once(silent: str) -> None:
    program = (
        "import sys; from gan_client import Client\n"
        "with Client(sys.argv[1]) as client:\n"
        "    print('asking', flush=True)\n"
        "    try: client.models.list()\n"
        "    except KeyboardInterrupt: print('interrupted', flush=True)\n"
    )
    with child(program, f"http://{silent}") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=5)
    assert (process.returncode, out, errors) == (0, "interrupted\n", "")


def test_ctrl_c_during_a_local_inference_ends_the_program_in_order(repository: Path) -> None:
    program = (
        "import sys; from gan_client import Client\n"
        "with Client(sys.argv[1]) as client:\n"
        "    client.images.generate(model='slow', label=0)\n"
        "    print('asking', flush=True)\n"
        "    try: client.images.generate(model='slow', label=9)\n"
        "    except KeyboardInterrupt: print('interrupted', flush=True)\n"
    )
    with child(program, f"local:{repository}") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        time.sleep(0.15)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=10)
    assert (process.returncode, out, errors) == (0, "interrupted\n", "")


def test_closing_ends_the_calls_of_other_threads(silent: str) -> None:
    client = Client(f"http://{silent}", timeout_s=60)
    raised: list[BaseException] = []

    def call() -> None:
        try:
            client.models.list()
        except RuntimeError as error:
            raised.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    time.sleep(0.3)
    client.close()
    caller.join(5)
    assert not caller.is_alive()
    assert "this client is closed" in str(raised[0])


@pytest.mark.parametrize(
    "url",
    ["http://host:notaport", "http://", "http://host:99999", "triton://host:0", "triton://:1"],
)
def test_an_address_that_is_none_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match=r"not an address|is not HOST:PORT"):
        Client(url)


def test_files_are_named_after_what_was_asked_and_not_after_the_answer(tmp_path: Path) -> None:
    image = base64.b64encode(png(np.zeros((4, 4, 1), np.uint8))).decode()
    answer = {
        "created": 0,
        "data": [{"b64_json": image, "seed": 7}],
        "model": "../../evil",
        "version": 1,
        "size": "4x4",
        "usage": {"images": 1, "compute_ms": 1.0},
    }
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=answer))
    http = httpx.AsyncClient(base_url="http://gateway", transport=transport)
    with Client(http=http) as client:
        batch = client.images.generate(model="marked")
    assert batch.save(tmp_path / "out") == [tmp_path / "out" / "marked-7.png"]


def test_one_model_is_retrieved_over_every_transport(repository: Path) -> None:
    with Client(f"local:{repository}") as client:
        assert client.models.retrieve("marked").model == "marked"
        with pytest.raises(ModelNotFound):
            client.models.retrieve("nope")
