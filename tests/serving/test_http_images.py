"""What a generation answers with: files of three kinds, events, and only what is still wanted."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request
from starlette.responses import StreamingResponse

from gan_core.errors import InternalError, QueueFull
from gan_serving.engine import Inference
from gan_serving.gatekeeper import Gatekeeper
from gan_serving.gateway import create_app
from gan_serving.http_images import answer
from gan_serving.keys import Caller, Keyring, add_key
from gan_serving.readiness import Readiness
from gan_serving.schema import parsed
from gan_serving.service import ImageService
from tests.serving.fake_engine import FakeEngine

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")

URL = "/v1/images/generations"


def noise(inputs: Any) -> Any:
    n = len(inputs["z"])
    return np.random.default_rng(0).integers(0, 256, (n, 4, 6, 3), dtype=np.uint8)


def asking(
    work: Callable[[httpx.AsyncClient], Awaitable[T]],
    engine: FakeEngine | None = None,
    gatekeeper: Gatekeeper | None = None,
) -> T:
    """What a client makes of a gateway."""

    async def ask() -> T:
        service = ImageService(engine or FakeEngine(answer=noise), max_n=64)
        app = create_app(service, Readiness(service), gatekeeper or Gatekeeper(None))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await work(client)

    return asyncio.run(ask())


def generate(
    engine: FakeEngine | None = None, headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    body = {"model": "marked", "seed": 1, **fields}
    return asking(lambda client: client.post(URL, json=body, headers=headers), engine)


def opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_file_is_of_the_kind_that_was_asked_for(kind: str) -> None:
    answer = generate(output_format=kind, headers={"Accept": "image/*"})
    assert answer.headers["content-type"] == f"image/{kind}"
    assert (opened(answer.content).format or "").lower() == kind
    in_json = generate(output_format=kind).json()
    assert in_json["output_format"] == kind
    assert base64.b64decode(in_json["data"][0]["b64_json"]) == answer.content


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_pixels_survive_without_loss(kind: str) -> None:
    answer = generate(output_format=kind, headers={"Accept": "image/*"})
    found = np.asarray(opened(answer.content))
    np.testing.assert_array_equal(found, noise({"z": [0]})[0])


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_less_quality_is_fewer_bytes(kind: str) -> None:
    sizes = [
        len(
            generate(
                output_format=kind, output_compression=q, headers={"Accept": "image/*"}
            ).content
        )
        for q in (10, 90)
    ]
    assert sizes[0] < sizes[1]


def test_a_file_of_another_kind_than_accepted_is_refused() -> None:
    answer = generate(output_format="webp", headers={"Accept": "image/png"})
    assert answer.status_code == 406
    assert "image/webp" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("field", "value"), [("output_compression", 101), ("output_format", "gif"), ("stream", "much")]
)
def test_a_field_out_of_range_is_named(field: str, value: object) -> None:
    body = {"model": "marked", field: value}
    answer = asking(lambda client: client.post(URL, json=body))
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, field)


# events


def events(text: str) -> list[dict[str, Any]]:
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name.startswith("event: ")
        if "error" not in event:
            assert event["type"] == name.removeprefix("event: ")
        found.append(event)
    return found


def test_a_stream_has_one_event_per_image_in_order() -> None:
    answer = generate(stream=True, n=40)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer.text)
    assert [event["seed"] for event in found] == list(range(1, 41))
    assert {event["type"] for event in found} == {"image_generation.completed"}
    whole = generate(n=40).json()["data"]
    assert [event["b64_json"] for event in found] == [one["b64_json"] for one in whole]


def test_what_is_refused_before_the_first_image_has_an_errors_status() -> None:
    assert generate(stream=True, n=65).status_code == 422
    engine = FakeEngine()
    engine.error = QueueFull("full", retry_after_s=3)
    answer = generate(engine, stream=True)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")


class FailsLater(FakeEngine):
    """Serves one batch, and then fails."""

    async def infer(self, *arguments: Any) -> Inference:
        if self.asked:
            raise InternalError("secret /etc/path")
        return await super().infer(*arguments)


def test_a_stream_that_fails_later_ends_with_an_error_that_tells_no_secret() -> None:
    answer = generate(FailsLater(), stream=True, n=64)
    *images, last = events(answer.text)
    assert (answer.status_code, len(images)) == (200, 32)
    assert last["error"]["code"] == "internal"
    assert "secret" not in answer.text


# deadlines and clients that go


@pytest.mark.parametrize("header", ["X-Timeout-S", "x-stainless-read-timeout"])
def test_the_clients_deadline_reaches_the_engine(header: str) -> None:
    engine = FakeEngine()
    generate(engine, headers={header: "2.5"})
    assert engine.timeouts_s == pytest.approx([2.5], abs=0.2)


def test_a_deadline_ends_the_work() -> None:
    engine = FakeEngine()
    engine.delay_s = 60
    answer = generate(engine, headers={"X-Timeout-S": "0.1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", ""])
def test_a_deadline_that_is_none_is_refused(text: str) -> None:
    answer = generate(headers={"X-Timeout-S": text})
    assert answer.status_code == 422
    assert "x-timeout-s" in answer.json()["detail"]


class Cancellable(FakeEngine):
    """Never answers, and notes when it is told to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.cancelled = asyncio.Event(), asyncio.Event()

    async def infer(self, *arguments: Any) -> Inference:
        self.began.set()
        try:
            return await asyncio.Future()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


POST = {
    "type": "http",
    "method": "POST",
    "path": URL,
    "raw_path": URL.encode(),
    "query_string": b"",
    "headers": [(b"content-type", b"application/json")],
    "http_version": "1.1",
    "scheme": "http",
    "server": ("gateway", 80),
    "client": ("client", 1),
    "root_path": "",
}


def test_a_client_that_goes_while_it_asks_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    messages = [
        {"type": "http.request", "body": b'{"model": ', "more_body": True},
        {"type": "http.disconnect"},
    ]
    answers: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        answers.append(message)

    service = ImageService(FakeEngine())
    asyncio.run(create_app(service, Readiness(service), Gatekeeper(None))({**POST}, receive, send))
    assert answers[0]["status"] == 499
    assert caplog.records == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_frees_its_place(stream: bool) -> None:
    async def goes() -> int:
        engine = Cancellable()
        service = ImageService(engine)
        app = create_app(service, Readiness(service), Gatekeeper(None))
        body = json.dumps({"model": "marked", "stream": stream}).encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await engine.began.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            """Nobody hears it."""

        async with asyncio.timeout(10):
            await app({**POST}, receive, send)
            await engine.cancelled.wait()
        return service.admissions["marked"].running

    assert asyncio.run(goes()) == 0


def test_a_client_that_goes_between_two_events_frees_its_place() -> None:
    async def goes() -> bool:
        left = asyncio.Event()

        @asynccontextmanager
        async def admitted() -> AsyncIterator[None]:
            try:
                yield
            finally:
                left.set()

        service = ImageService(FakeEngine())
        request = Request({"type": "http", "headers": []})
        body = parsed(model="marked", n=3, stream=True)
        response = await answer(service, request, body, "ours", admitted(), lambda *_: None)
        assert isinstance(response, StreamingResponse)
        events = cast("AsyncGenerator[str, None]", response.body_iterator)
        await anext(events)
        assert not left.is_set()
        await events.aclose()
        return left.is_set()

    assert asyncio.run(goes())


# keys


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def keyed(path: Path, caller: Caller, **fields: Any) -> httpx.Response:
    key, _ = add_key(path, caller)
    gatekeeper = Gatekeeper(Keyring(path))
    headers = {"Authorization": f"Bearer {key}"}
    body = {"model": "marked", **fields}
    return asking(lambda client: client.post(URL, json=body, headers=headers), None, gatekeeper)


def test_a_key_opens_its_models(keys: Path) -> None:
    assert keyed(keys, Caller("ours", models=("mark*",))).status_code == 200


def test_a_key_of_other_models_opens_nothing(keys: Path) -> None:
    answer = keyed(keys, Caller("ours", models=("digits_*",)))
    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")


def test_no_key_opens_nothing_and_probes_need_none(keys: Path) -> None:
    add_key(keys, Caller("ours"))

    async def ask(client: httpx.AsyncClient) -> list[int]:
        asked = [
            client.post(URL, json={"model": "marked"}),
            client.get("/v1/models"),
            client.get("/v1/models/marked"),
            client.get("/livez"),
            client.get("/readyz"),
        ]
        return [answer.status_code for answer in await asyncio.gather(*asked)]

    assert asking(ask, None, Gatekeeper(Keyring(keys))) == [401, 401, 401, 200, 200]


def test_models_of_others_are_not_listed(keys: Path) -> None:
    key, _ = add_key(keys, Caller("ours", models=("other",)))
    answer = asking(
        lambda client: client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}),
        None,
        Gatekeeper(Keyring(keys)),
    )
    assert answer.json()["data"] == []


def test_a_rate_counts_images(keys: Path) -> None:
    assert keyed(keys, Caller("ours", rate="4/minute"), n=4).status_code == 200
    answer = keyed(keys, Caller("small", rate="4/minute"), n=5)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "n")
