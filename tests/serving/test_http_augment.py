"""Streams over HTTP: in both formats, cut and resumed, waited for, read slowly and left."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image

from gan_core.card import ImageOutput
from gan_core.errors import InternalError, QueueFull
from gan_serving.augmenting import PART, PARTS_AHEAD
from gan_serving.engine import Inference
from gan_serving.gatekeeper import Gatekeeper
from gan_serving.keys import Caller, Keyring, add_key
from gan_serving.ort_engine import OrtEngine
from gan_serving.repository import publish
from tests.serving.fake_engine import FakeEngine
from tests.serving.graphs import CLASSES, WATERMARK_INPUTS, blank, card_of, watermarked
from tests.serving.http_server import Gateway, asked

if TYPE_CHECKING:
    from numpy.typing import NDArray

URL = "/v1/augment"
TAR = {"Accept": "application/x-tar"}
BODY = {"model": "marked", "seed": 7}
EACH = {"three": 20, "5": 10, "zero": 7}


def answered(engine: Any, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    body = {**BODY, **fields}
    return asked(engine, lambda client, _: client.post(URL, json=body, headers=headers))


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def pixels(file: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image)


def images(found: list[dict[str, Any]]) -> NDArray[np.uint8]:
    return np.stack([pixels(base64.b64decode(line["b64_json"])) for line in found])


# what is sent


def test_a_line_says_of_what_one_per_image_and_one_the_end(repository: Path) -> None:
    answer = answered(OrtEngine(repository), count=40)
    first, *found, last = lines(answer.text)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert (answer.headers["x-model-version"], answer.headers["x-seed"]) == ("1", "7")
    assert first["type"] == "augment.started"
    assert (first["model"], first["version"], first["count"]) == ("marked", 1, 40)
    assert (len(first["sha256"]), first["licence"]) == (64, "unknown")
    assert [line["index"] for line in found] == list(range(40))
    assert [line["seed"] for line in found] == list(range(7, 47))
    np.testing.assert_array_equal(images(found), watermarked(range(7, 47)))
    assert last == {"type": "augment.completed", "images": 40, "offset": 40}


def test_each_image_is_of_its_class(repository: Path) -> None:
    answer = answered(OrtEngine(repository), per_class=EACH, truncation=0.5)
    _, *found, _ = lines(answer.text)
    labels = [line["label"] for line in found]
    assert {label: labels.count(label) for label in set(labels)} == {3: 20, 5: 10, 0: 7}
    assert [line["class_name"] for line in found] == [CLASSES[label] for label in labels]
    expected = watermarked(range(7, 44), labels, truncation=0.5)
    np.testing.assert_array_equal(images(found), expected)


def test_a_seed_that_nobody_named_is_told() -> None:
    answer = answered(FakeEngine(), seed=None, count=2)
    assert int(answer.headers["x-seed"]) == lines(answer.text)[0]["seed"]


def test_a_tar_is_a_webdataset(repository: Path) -> None:
    answer = answered(OrtEngine(repository), TAR, per_class=EACH)
    assert answer.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        files = {item.name: archive.extractfile(item).read() for item in archive}  # type: ignore[union-attr]
    assert list(files)[:4] == ["000000000.png", "000000000.cls", "000000000.json", "000000001.png"]
    assert len(files) == 3 * 37
    labels = [int(files[f"{i:09d}.cls"]) for i in range(37)]
    found = np.stack([pixels(files[f"{i:09d}.png"]) for i in range(37)])
    np.testing.assert_array_equal(found, watermarked(range(7, 44), labels))
    known = json.loads(files["000000036.json"])
    assert (known["index"], known["seed"], known["version"]) == (36, 43, 1)
    assert {"label", "class_name", "sha256", "licence", "model"} <= set(known)


def test_a_file_is_of_the_kind_that_was_asked_for(repository: Path) -> None:
    answer = answered(OrtEngine(repository), TAR, count=1, output_format="webp")
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        assert archive.getnames()[0] == "000000000.webp"


def test_a_model_without_classes_has_no_cls(repository: Path) -> None:
    answer = answered(OrtEngine(repository), TAR, model="tiny_dcgan", count=1)
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        assert archive.getnames() == ["000000000.png", "000000000.json"]


# resumed


@pytest.mark.parametrize(
    "of",
    [{"per_class": EACH}, {"count": 37}, {"model": "tiny_biggan", "per_class": {"0": 20, "1": 17}}],
    ids=["classes", "count", "network"],
)
def test_the_rest_from_any_offset_is_the_rest_of_the_whole(
    repository: Path, of: dict[str, Any]
) -> None:
    async def work(client: httpx.AsyncClient, _: Gateway) -> None:
        async def got(headers: dict[str, str] | None = None, **fields: Any) -> bytes:
            answer = await client.post(URL, json={**BODY, **of, **fields}, headers=headers)
            assert answer.status_code == 200, answer.text
            return answer.content

        tar, text = await got(TAR), await got()
        for offset in range(38):
            resumed: dict[str, Any] = {"version": 1, "offset": offset}
            rest = await got(TAR, **resumed)
            assert tar.endswith(rest)
            rest_lines = (await got(**resumed)).splitlines()
            assert rest_lines[1:-1] == text.splitlines()[1 + offset : -1]
            assert len(rest_lines) == 2 + 37 - offset

    asked(OrtEngine(repository), work)


def test_the_version_is_that_of_the_start(exports: Path, tmp_path: Path) -> None:
    publish(exports / "versioned", tmp_path)

    async def work(client: httpx.AsyncClient, _: Gateway) -> list[Any]:
        body = {**BODY, "model": "versioned", "count": 500}
        async with client.stream("POST", URL, json=body) as answer:
            found = answer.aiter_lines()
            await anext(found)
            publish(exports / "versioned-2", tmp_path)
            while (await client.get("/v1/models/versioned")).json()["versions"] != [1, 2]:
                await asyncio.sleep(0.02)
            kept = [json.loads(line) async for line in found][:-1]
        body |= {"version": int(answer.headers["x-model-version"]), "offset": 490}
        rest = lines((await client.post(URL, json=body)).text)[1:-1]
        newest = (await client.post(URL, json={**BODY, "model": "versioned", "count": 1})).headers
        return [kept, rest, newest["x-model-version"]]

    kept, rest, newest = asked(OrtEngine(tmp_path), work)
    np.testing.assert_array_equal(images(kept), watermarked(range(7, 507)))
    assert kept[490:] == rest
    assert newest == "2"


def test_another_graph_under_the_same_version_is_refused(exports: Path, tmp_path: Path) -> None:
    publish(exports / "versioned", tmp_path)
    sha256 = lines(answered(OrtEngine(tmp_path), model="versioned", count=1).text)[0]["sha256"]
    shutil.rmtree(tmp_path / "versioned")
    publish(exports / "versioned-2", tmp_path)
    resumed = {"count": 5, "offset": 1, "version": 1, "sha256": sha256}
    answer = answered(OrtEngine(tmp_path), model="versioned", **resumed)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "sha256")


# refused

REFUSED: dict[str, tuple[dict[str, Any], int]] = {
    "model": ({"model": "nobody", "count": 1}, 404),
    "version": ({"version": 9, "count": 1}, 404),
    "class": ({"per_class": {"eleven": 1}}, 422),
    "truncation": ({"count": 1, "truncation": 7}, 422),
    "no images": ({"count": 0}, 422),
    "too many": ({"count": 1_000_001}, 422),
    "no images of a class": ({"per_class": {"one": 0}}, 422),
    "no class": ({"per_class": {}}, 422),
    "unknown field": ({"count": 1, "n": 1}, 422),
}


@pytest.mark.parametrize(("fields", "status"), REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_made_is_refused_by_its_status(fields: dict[str, Any], status: int) -> None:
    answer = answered(FakeEngine(), **fields)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("accept", ["image/png", "application/json", "text/event-stream"])
def test_another_format_is_not_acceptable(accept: str) -> None:
    assert answered(FakeEngine(), {"Accept": accept}, count=1).status_code == 406


def test_a_server_that_is_about_to_stop_begins_no_stream() -> None:
    async def work(client: httpx.AsyncClient, gateway: Gateway) -> httpx.Response:
        gateway.readiness.draining = True
        return await client.post(URL, json={**BODY, "count": 1})

    answer = asked(FakeEngine(), work)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def keyed(path: Path, **options: Any) -> tuple[Gatekeeper, dict[str, str]]:
    text, _ = add_key(path / "keys.yaml", Caller("team", **options))
    return Gatekeeper(Keyring(path / "keys.yaml")), {"Authorization": f"Bearer {text}"}


def test_a_key_for_other_models_is_refused(tmp_path: Path) -> None:
    gatekeeper, headers = keyed(tmp_path, models=("faces",))
    answer = asked(
        FakeEngine(),
        lambda client, _: client.post(URL, json={**BODY, "count": 1}, headers=headers),
        gatekeeper,
    )
    assert answer.status_code == 403


def test_a_stream_is_one_request_in_flight_until_it_ends(tmp_path: Path) -> None:
    gatekeeper, headers = keyed(tmp_path, concurrency=1)
    body, one = {**BODY, "count": 10**6}, {**BODY, "count": 1}

    async def work(client: httpx.AsyncClient, _: Gateway) -> list[int]:
        found = []
        async with client.stream("POST", URL, json=body, headers=headers) as first:
            await anext(first.aiter_lines())
            found.append((await client.post(URL, json=one, headers=headers)).status_code)
        while (again := await client.post(URL, json=one, headers=headers)).status_code == 429:
            await asyncio.sleep(0.01)
        return [*found, again.status_code]

    assert asked(Noise(), work, gatekeeper) == [429, 200]


# waited for


class Busy(FakeEngine):
    """Has a full queue every third time."""

    async def infer(self, model: str, inputs: Mapping[str, Any], *rest: Any) -> Inference:
        refuses = len(self.asked) % 3 == 1
        answer = await super().infer(model, inputs, *rest)
        if refuses:
            raise QueueFull("full", retry_after_s=0.01)
        return answer


def test_a_busy_model_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan_serving.augmenting.LONGEST_WAIT_S", 0.01)
    _, *found, last = lines(answered(Busy(), count=100).text)
    assert [line["index"] for line in found] == list(range(100))
    assert last["type"] == "augment.completed"


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan_serving.augmenting.PATIENCE_S", 0.2)
    monkeypatch.setattr("gan_serving.augmenting.LONGEST_WAIT_S", 0.01)
    engine = FakeEngine()
    engine.error = QueueFull("full", retry_after_s=0.05)
    first, last = lines(answered(engine, count=100).text)
    assert (first["type"], last["error"]["code"]) == ("augment.started", "queue_full")
    assert len(engine.asked) > PARTS_AHEAD


def test_a_stream_may_take_longer_than_a_request() -> None:
    engine = FakeEngine()
    engine.delay_s = 0.1
    body = {**BODY, "count": 24 * PART}

    async def work(client: httpx.AsyncClient, _: Gateway) -> str:
        return (await client.post(URL, json=body, headers={"X-Timeout-S": "0.1"})).text

    assert lines(asked(engine, work, timeout_s=0.4))[-1]["type"] == "augment.completed"


def test_others_are_answered_beside_a_stream() -> None:
    engine = FakeEngine()
    engine.delay_s = 0.02

    async def work(client: httpx.AsyncClient, _: Gateway) -> int:
        async with client.stream("POST", URL, json={**BODY, "count": 10**6}) as answer:
            await anext(answer.aiter_raw())
            before = len(engine.asked)
            (await client.post("/v1/images/generations", json=BODY)).raise_for_status()
            return len(engine.asked) - before

    assert asked(engine, work) <= 4 * PARTS_AHEAD


def test_a_keys_rate_is_waited_for_and_parts_fit_it(tmp_path: Path) -> None:
    gatekeeper, headers = keyed(tmp_path, rate="5/second")
    engine = FakeEngine()
    answer = asked(
        engine,
        lambda client, _: client.post(URL, json={**BODY, "count": 12}, headers=headers),
        gatekeeper,
    )
    assert len(lines(answer.text)) == 14
    assert {len(inputs["z"]) for inputs in engine.asked} == {5, 2}


class Failing(FakeEngine):
    """Fails for good at the third part."""

    async def infer(self, model: str, inputs: Mapping[str, Any], *rest: Any) -> Inference:
        fails = len(self.asked) >= 2
        answer = await super().infer(model, inputs, *rest)
        if fails:
            raise InternalError("secret /etc/path")
        return answer


def test_an_error_after_the_start_is_the_last_line() -> None:
    text = answered(Failing(), count=100).text
    *_, image, last = lines(text)
    assert image["type"] == "augment.image"
    assert (last["status"], last["error"]["code"]) == (500, "internal")
    assert "secret" not in text


def test_an_error_after_the_start_leaves_a_tar_incomplete() -> None:
    async def work(client: httpx.AsyncClient, _: Gateway) -> bytes:
        body = {**BODY, "count": 100}
        content = b""
        async with client.stream("POST", URL, json=body, headers=TAR) as answer:
            try:
                async for chunk in answer.aiter_raw():
                    content += chunk
            except httpx.RemoteProtocolError:
                return content
        raise AssertionError("the tar looks complete")

    content = asked(Failing(), work)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert len(archive.getnames()) == 3 * 2 * PART
    assert content[-1024:].strip(b"\0")


def test_a_server_that_is_about_to_stop_ends_streams() -> None:
    async def work(client: httpx.AsyncClient, gateway: Gateway) -> dict[str, Any]:
        async with client.stream("POST", URL, json={**BODY, "count": 10**6}) as answer:
            found = answer.aiter_lines()
            await anext(found)
            gateway.readiness.draining = True
            *_, last = [json.loads(line) async for line in found]
        return dict(last)

    assert asked(FakeEngine(), work)["error"]["code"] == "model_unavailable"


# read slowly, and left


LARGE = ImageOutput(height=128, width=128, channels=3)


class Noise(FakeEngine):
    """Pictures of 50 kB each, and a count of those that were asked for."""

    def __init__(self) -> None:
        card = card_of(blank(WATERMARK_INPUTS, LARGE), "marked", output=LARGE)
        picture = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), dtype=np.uint8)
        super().__init__(card, answer=lambda inputs: np.repeat(picture, len(inputs["z"]), axis=0))

    @property
    def made(self) -> int:
        return sum(len(inputs["z"]) for inputs in self.asked)


async def settled(engine: Noise) -> int:
    """How many images were asked for, once no more are."""
    before = -1
    while before != engine.made:
        before = engine.made
        await asyncio.sleep(0.25)
    return before


SOCKETS = 16 << 20
"""Bytes that lie in the kernel's buffers at most."""


@pytest.mark.parametrize("headers", [None, TAR], ids=["ndjson", "tar"])
def test_of_what_is_not_read_only_a_few_parts_are_made(headers: dict[str, str] | None) -> None:
    engine = Noise()

    async def work(client: httpx.AsyncClient, _: Gateway) -> tuple[int, int]:
        body = {**BODY, "count": 10**6}
        async with client.stream("POST", URL, json=body, headers=headers) as answer:
            chunks = answer.aiter_raw()
            await anext(chunks)
            unread = await settled(engine)
            read = 0
            while read < 2 * SOCKETS:
                read += len(await anext(chunks))
            return unread, await settled(engine)

    unread, later = asked(engine, work)
    assert unread <= SOCKETS // 50_000 + PARTS_AHEAD * PART
    assert later > unread


def test_a_client_that_leaves_ends_the_work() -> None:
    engine = Noise()

    async def work(client: httpx.AsyncClient, _: Gateway) -> tuple[int, int]:
        async with client.stream("POST", URL, json={**BODY, "count": 10**6}) as answer:
            await anext(answer.aiter_raw())
        at_once = await settled(engine)
        tasks = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}  # type: ignore[union-attr]
        return at_once, sum("samples" in name for name in tasks)

    made, left = asked(engine, work)
    assert made < SOCKETS // 50_000 + PARTS_AHEAD * PART
    assert left == 0
