"""Pictures over HTTP: forms and JSON in, files and JSON out, and nothing that fills a server."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image

from gan_client.images import decoded
from gan_core.card import ImageInput
from gan_core.errors import Unavailable
from gan_serving import http_upscale as module
from gan_serving.encode import png
from gan_serving.gatekeeper import Gatekeeper
from gan_serving.gateway import create_app
from gan_serving.keys import Caller, Keyring, add_key
from gan_serving.readiness import Readiness
from gan_serving.room import PICTURES_AT_ONCE, Room
from gan_serving.service import ImageService
from tests.serving.fake_engine import FakeEngine
from tests.serving.graphs import card_of, doubled, watermark
from tests.serving.pictures import PIXELS, animation, png_of_size, saved
from tests.serving.test_upscaling import fake

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

URL = "/v1/images/upscale"
FILE = saved()
LIMIT = 1 << 21
FORM = {"model": "doubling"}
AS_PNG = {"Accept": "image/png"}
MULTIPART = "multipart/form-data; boundary=x"


def using(
    work: Callable[[httpx.AsyncClient], Awaitable[Any]],
    engine: FakeEngine | None = None,
    gatekeeper: Gatekeeper | None = None,
    timeout_s: float = 30.0,
) -> Any:
    """What a client makes of a gateway."""

    async def ask() -> Any:
        service = ImageService(engine or both(), timeout_s=timeout_s)
        gate = gatekeeper or Gatekeeper(None)
        app = create_app(service, Readiness(service), gate, max_image_bytes=LIMIT)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await work(client)

    return asyncio.run(ask())


def both() -> FakeEngine:
    """A model that doubles pictures, and one that takes none."""
    engine = fake()
    engine.cards["marked"] = card_of(watermark(), "marked")
    return engine


def send(url: str = URL, **request: Any) -> httpx.Response:
    answer: httpx.Response = using(lambda client: client.post(url, **request))
    return answer


def as_form(picture: bytes = FILE, url: str = URL, headers: Any = None, **fields: Any) -> Any:
    files = {"image": ("picture", picture)}
    return send(url, files=files, data={**FORM, **fields}, headers=headers)


def as_json(headers: Any = None, **fields: Any) -> httpx.Response:
    body = {**FORM, "image": base64.b64encode(FILE).decode(), **fields}
    return send(json=body, headers=headers)


def assert_problem(answer: httpx.Response, status: int, code: str, param: str | None) -> None:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error


@pytest.mark.parametrize("ask", [as_form, as_json])
def test_a_picture_comes_back_doubled(ask: Callable[..., httpx.Response]) -> None:
    body = ask().json()
    found = decoded(base64.b64decode(body["data"][0]["b64_json"]))
    np.testing.assert_array_equal(found, doubled(PIXELS))
    assert (body["model"], body["version"], body["size"]) == ("doubling", 1, "14x10")
    assert (body["data"][0]["seed"], body["usage"]["images"]) == (None, 1)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_the_file_itself_is_sent_where_it_is_accepted(kind: str) -> None:
    answer = as_form(output_format=kind, output_compression="90", headers={"Accept": "image/*"})
    assert answer.headers["content-type"] == f"image/{kind}"
    assert (answer.headers["x-model"], answer.headers["x-model-version"]) == ("doubling", "1")
    assert "x-seed" not in answer.headers
    assert Image.open(io.BytesIO(answer.content)).size == (14, 10)


def test_an_answer_that_cannot_be_given_is_refused_first() -> None:
    assert_problem(as_form(headers={"Accept": "text/css"}), 406, "not_acceptable", None)


FIELDS: list[tuple[dict[str, str], str]] = [
    ({"version": "0"}, "version"),
    ({"version": "first"}, "version"),
    ({"output_format": "gif"}, "output_format"),
    ({"output_compression": "101"}, "output_compression"),
    ({"model": ""}, "model"),
    ({"tile": "1"}, "tile"),
]


@pytest.mark.parametrize(("fields", "param"), FIELDS, ids=str)
@pytest.mark.parametrize("ask", [as_form, as_json])
def test_the_field_at_fault_is_named(
    ask: Callable[..., httpx.Response], fields: dict[str, str], param: str
) -> None:
    assert_problem(ask(**fields), 422, "validation_error", param)


def test_a_form_without_a_file_is_refused() -> None:
    answer = send(files={"other": ("name", FILE)}, data=FORM)
    assert_problem(answer, 422, "validation_error", "image")
    answer = send(files={"model": (None, "doubling"), "image": (None, "text")})
    assert_problem(answer, 422, "validation_error", "image")


PICTURES: dict[str, tuple[bytes, int, str]] = {
    "text": (b"hello", 415, "unsupported_media"),
    "animation": (animation("WEBP"), 415, "unsupported_media"),
    "bomb": (png_of_size(50_000, 50_000), 413, "pixels_exceeded"),
    "truncated": (FILE[:60], 422, "validation_error"),
}


@pytest.mark.parametrize(("picture", "status", "code"), PICTURES.values(), ids=list(PICTURES))
def test_a_hostile_picture_is_a_problem(picture: bytes, status: int, code: str) -> None:
    assert_problem(as_form(picture), status, code, "image")


BODIES: dict[str, tuple[bytes, str]] = {
    "no kind": (b"", ""),
    "text": (b"hello", "text/plain"),
    "no json": (b"{", "application/json"),
    "no boundary": (b"--x", "multipart/form-data"),
    "no parts": (b"hello", MULTIPART),
    "cut off": (
        b'--x\r\nContent-Disposition: form-data; name="a',
        MULTIPART,
    ),
    "no name": (
        b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--",
        MULTIPART,
    ),
}


@pytest.mark.parametrize(("content", "kind"), BODIES.values(), ids=list(BODIES))
@pytest.mark.parametrize("route", ["upscale", "variations"])
def test_a_body_that_cannot_be_read_is_a_problem(route: str, content: bytes, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = send(f"/v1/images/{route}", content=content, headers=headers)
    assert answer.status_code in {400, 422}
    assert answer.headers["content-type"] == "application/problem+json"


def test_base64_that_is_none_is_refused() -> None:
    assert_problem(as_json(image="Ä"), 422, "validation_error", "image")


def test_more_fields_than_any_form_has_are_refused() -> None:
    answer = send(files=[("image", ("a", FILE))] * 18, data=FORM)
    assert_problem(answer, 400, "bad_request", None)
    many: dict[str, Any] = {f"f{i}": "1" for i in range(40)}
    assert_problem(as_form(**many), 400, "bad_request", None)
    assert_problem(as_form(user="x" * (1 << 17)), 400, "bad_request", None)


def test_a_body_may_be_as_large_as_was_said_here_and_nowhere_else() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    assert as_form(saved(noise, compress_level=0)).json()["size"] == "1024x1024"
    assert_problem(as_form(bytes(LIMIT)), 413, "payload_too_large", None)
    answer = as_form(bytes(LIMIT // 2), url="/v1/images/generations")
    assert_problem(answer, 413, "payload_too_large", None)


def test_a_body_of_unknown_length_is_cut_off_at_the_limit() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        while True:
            sent += 1 << 16
            yield bytes(1 << 16)

    kind = {"Content-Type": MULTIPART}
    assert_problem(send(content=endless(), headers=kind), 413, "payload_too_large", None)
    assert sent <= LIMIT + (1 << 17)


def test_no_picture_touches_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    def roll(*arguments: Any) -> None:
        raise AssertionError("written to disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", roll)
    assert as_form(bytes(LIMIT - 4096)).status_code == 415


def test_a_body_that_trickles_in_is_late_and_too_many_are_refused() -> None:
    async def trickle() -> AsyncIterator[bytes]:
        yield b"--x\r\n"
        await asyncio.sleep(60)

    async def ask(client: httpx.AsyncClient) -> list[int]:
        kind = {"Content-Type": MULTIPART}
        slow = [
            client.post(URL, content=trickle(), headers=kind) for _ in range(PICTURES_AT_ONCE + 1)
        ]
        return sorted(answer.status_code for answer in await asyncio.gather(*slow))

    assert using(ask, timeout_s=0.2) == [429] + [504] * PICTURES_AT_ONCE


def test_small_pictures_leave_room_for_more() -> None:
    engine = both()
    engine.delay_s = 0.2

    async def ask(client: httpx.AsyncClient) -> set[int]:
        files = {"image": ("a", FILE)}
        calls = [client.post(URL, files=files, data=FORM) for _ in range(3 * PICTURES_AT_ONCE)]
        return {answer.status_code for answer in await asyncio.gather(*calls)}

    assert using(ask, engine) == {200}


def test_a_key_is_asked_for_and_charged(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    key, _ = add_key(path, Caller(name="mobile", models=("doubling",), rate="2/hour"))

    async def ask(client: httpx.AsyncClient) -> list[int]:
        key_header = {"Authorization": f"Bearer {key}"}
        found = []
        for model, headers in [("doubling", {})] + [
            (name, key_header) for name in ("marked", "doubling", "doubling", "doubling")
        ]:
            answer = await client.post(
                URL, files={"image": ("a", FILE)}, data={"model": model}, headers=headers
            )
            found.append(answer.status_code)
        return found

    assert using(ask, gatekeeper=Gatekeeper(Keyring(path))) == [401, 403, 200, 200, 429]


def test_a_model_that_takes_no_picture_says_what_it_can() -> None:
    answer = as_form(model="marked")
    assert_problem(answer, 501, "not_supported", "model")
    assert "it makes images from latent, label, truncation" in answer.json()["detail"]


@pytest.mark.parametrize("route", ["variations", "edits"])
def test_what_no_model_does_is_refused_with_what_this_one_does(route: str) -> None:
    answer = as_form(url=f"/v1/images/{route}")
    assert_problem(answer, 501, "not_supported", "model")
    assert f"can't make {route} of a picture; it makes images 2 times" in answer.json()["detail"]
    assert_problem(
        as_form(url=f"/v1/images/{route}", model="nobody"), 404, "model_not_found", "model"
    )
    answer = send(f"/v1/images/{route}", files={"image": ("a", FILE)})
    assert_problem(answer, 422, "validation_error", "model")


def test_the_document_describes_forms_and_json_with_an_example() -> None:
    document = using(lambda client: client.get("/openapi.json")).json()
    content = document["paths"][URL]["post"]["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/json"}
    form = document["components"]["schemas"]["UpscaleForm"]
    assert form["required"] == ["model", "image"]
    assert form["properties"]["image"]["format"] == "binary"
    assert form["properties"]["version"]["type"] == "integer"
    assert "null" not in str(form)
    example = content["application/json"]["example"]
    answer = as_json(**{**example, "model": "doubling"})
    assert answer.json()["size"] == "16x16"


def tiled() -> FakeEngine:
    """Doubles pictures of any size in tiles of 64 px."""
    return fake(ImageInput(max_side_px=16_384, tile_px=64))


def test_a_large_png_is_sent_while_it_is_made() -> None:
    y, x = np.indices((1100, 1000), np.uint8)
    picture = np.stack([y, x, y ^ x], axis=2)

    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(URL, headers=AS_PNG, files={"image": png(picture)}, data=FORM)

    answer = using(ask, tiled())
    assert answer.status_code == 200
    assert "content-length" not in answer.headers
    assert (answer.headers["x-model"], answer.headers["x-model-version"]) == ("doubling", "1")
    np.testing.assert_array_equal(decoded(answer.content), doubled(picture))


def test_room_is_given_back_once_all_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms: list[Room] = []
    free: list[int] = []

    def room(size: int) -> Room:
        rooms.append(Room(size))
        free.append(size)
        return rooms[0]

    monkeypatch.setattr(module, "Room", room)
    engine = tiled()
    infer = engine.infer

    async def noting(*given: Any) -> Any:
        free.append(rooms[0].free)
        return await infer(*given)

    monkeypatch.setattr(engine, "infer", noting)
    black = png(np.zeros((1100, 1000, 3), np.uint8))

    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(URL, headers=AS_PNG, files={"image": black}, data=FORM)

    assert using(ask, engine).status_code == 200
    whole, *meanwhile = free
    assert max(meanwhile) <= whole - len(black)
    assert rooms[0].free == whole


def test_what_fails_before_the_first_row_has_an_errors_status_and_leaves_its_place() -> None:
    engine = tiled()
    engine.error = Unavailable("doubling is not available now")
    gate = Gatekeeper(None)
    black = png(np.zeros((1100, 1000, 3), np.uint8))

    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(URL, headers=AS_PNG, files={"image": black}, data=FORM)

    answer = using(ask, engine, gate)
    assert_problem(answer, 503, "model_unavailable", None)
    assert not any(gate._in_flight.values())
