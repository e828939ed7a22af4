"""The gateway over a fake engine: routes, errors, limits and probes, without a socket."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gan_client.images import decoded
from gan_core.card import LatentInput, TextInput
from gan_core.errors import SERVICE_ERRORS, ServiceError, Unavailable
from gan_serving.gatekeeper import Gatekeeper
from gan_serving.gateway import create_app
from gan_serving.http_jobs import JobRunner
from gan_serving.http_layers import MAX_BODY_BYTES
from gan_serving.jobs import JobStore
from gan_serving.readiness import Readiness
from gan_serving.service import ImageService
from tests.serving.fake_engine import FakeEngine
from tests.serving.graphs import card_of, watermark

GENERATIONS = "/v1/images/generations"
SENDABLE = [kind for kind in SERVICE_ERRORS.values() if kind.code != "connection_failed"]


def send(
    engine: FakeEngine, *requests: tuple[str, str, dict[str, Any]], cors: Sequence[str] = ()
) -> list[httpx.Response]:
    """Answers to requests, one after another."""

    async def ask() -> list[httpx.Response]:
        service = ImageService(engine, max_n=16)
        app = create_app(service, Readiness(service), Gatekeeper(None), cors_origins=cors)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return [await client.request(m, path, **options) for m, path, options in requests]

    return asyncio.run(ask())


def get(path: str, engine: FakeEngine | None = None, **options: Any) -> httpx.Response:
    return send(engine or FakeEngine(), ("GET", path, options))[0]


def post(engine: FakeEngine | None = None, **options: Any) -> httpx.Response:
    return send(engine or FakeEngine(), ("POST", GENERATIONS, options))[0]


def generate(engine: FakeEngine | None = None, **fields: Any) -> httpx.Response:
    return post(engine, json={"model": "marked", **fields})


def failing(error: Exception) -> FakeEngine:
    engine = FakeEngine()
    engine.error = error
    return engine


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body, once it is known for a problem of that status and code."""
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["error"]["code"]) == (status, code), body
    assert response.headers["content-type"] == "application/problem+json"
    assert body["status"] == status
    assert body["detail"] == body["error"]["message"]
    assert body["request_id"] == response.headers["x-request-id"]
    return body


def test_an_answer_holds_decodable_images_and_all_to_repeat_them() -> None:
    body = generate(n=2, seed=7).json()
    assert (body["model"], body["version"], body["size"]) == ("marked", 1, "6x4")
    assert [item["seed"] for item in body["data"]] == [7, 8]
    assert body["usage"]["images"] == 2
    for item in body["data"]:
        assert decoded(base64.b64decode(item["b64_json"])).shape == (4, 6, 3)


def test_the_pictures_are_in_the_order_of_their_seeds() -> None:
    def shaded(inputs: Any) -> Any:
        return np.full((len(inputs["label"]), 4, 6, 3), 1, np.uint8) * inputs["label"][
            :, :, None, None
        ].astype(np.uint8)

    body = generate(FakeEngine(answer=shaded), labels=[9, 4, 6]).json()
    found = [decoded(base64.b64decode(item["b64_json"]))[0, 0, 0] for item in body["data"]]
    assert found == [9, 4, 6]


def test_seeds_above_two_to_the_53_are_exact_in_json() -> None:
    assert generate(seed=2**64 - 1).json()["data"][0]["seed"] == 2**64 - 1


@pytest.mark.parametrize("kind", SENDABLE)
def test_each_error_has_its_status_and_code(kind: type[ServiceError]) -> None:
    assert_problem(generate(failing(kind("why"))), kind.status, kind.code)


def test_the_field_at_fault_is_named() -> None:
    body = assert_problem(generate(n=0), 422, "validation_error")
    assert body["error"]["param"] == "n"
    assert body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(("seconds", "header"), [(0.2, "1"), (1.0, "1"), (7.0, "7")])
def test_retry_after_is_in_whole_seconds_and_never_zero(seconds: float, header: str) -> None:
    response = generate(failing(Unavailable("healing", retry_after_s=seconds)))
    assert response.headers["retry-after"] == header


def test_an_error_that_no_retry_helps_has_no_retry_after() -> None:
    assert "retry-after" not in generate(n=0).headers


def test_a_callers_request_id_comes_back() -> None:
    response = get("/livez", headers={"X-Request-Id": "Trace-1.a_b"})
    assert response.headers.get_list("x-request-id") == ["Trace-1.a_b"]


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a;b", "é", '"', "<script>"])
def test_an_unsafe_request_id_is_replaced(given: str) -> None:
    answered = get("/livez", headers={"X-Request-Id": given.encode()}).headers["x-request-id"]
    assert answered != given
    assert len(answered) == 32


def test_two_requests_have_different_ids() -> None:
    first, second = send(FakeEngine(), ("GET", "/livez", {}), ("GET", "/livez", {}))
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


@pytest.mark.parametrize(
    "body",
    [b'{"model": "mark', b"", b"{", b'{"n": 1,}', b"\xff\xfe", b'{"seed": 1e', b"[" * 100_000],
    ids=["truncated", "empty", "brace", "comma", "not text", "number", "deep nesting"],
)
def test_a_body_that_is_not_json_is_a_bad_request(body: bytes) -> None:
    response = post(content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    assert "error" in response.json()


def test_truncated_json_says_where() -> None:
    response = post(content=b'{"model": ', headers={"Content-Type": "application/json"})
    body = assert_problem(response, 400, "bad_request")
    assert "the body is not JSON: EOF while parsing a value at line 1 column 10" in body["detail"]


def test_deep_nesting_inside_a_field_is_refused() -> None:
    nested = '{"model": "marked", "latents": ' + "[" * 5000 + "]" * 5000 + "}"
    response = post(content=nested, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)


@pytest.mark.parametrize("body", [b"[]", b'"marked"', b"3", b"null", b"[1]"])
def test_a_body_that_is_no_object_is_invalid(body: bytes) -> None:
    response = post(content=body, headers={"Content-Type": "application/json"})
    assert_problem(response, 422, "validation_error")


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "image/png"])
def test_another_content_type_is_told_which_to_send(kind: str) -> None:
    response = post(content=b'{"model": "marked"}', headers={"Content-Type": kind})
    assert_problem(response, 400, "bad_request")
    assert "Content-Type: application/json" in response.json()["detail"]


def test_half_a_surrogate_pair_is_no_json() -> None:
    content = json.dumps({"model": "\ud800"}).encode()
    response = post(content=content, headers={"Content-Type": "application/json"})
    assert_problem(response, 400, "bad_request")


@pytest.mark.parametrize("name", ["a\0b", "../../etc/passwd", "<b>", "ä"])
def test_a_strange_model_name_is_answered_as_a_mistake(name: str) -> None:
    content = json.dumps({"model": name}).encode()
    response = post(content=content, headers={"Content-Type": "application/json"})
    assert response.status_code in (404, 422)
    assert response.json()["error"]["param"] == "model"


@pytest.mark.parametrize("name", ["nobody", "..", "%2e%2e%2fetc", "a%00b", "x" * 5000, "%ed%a0%80"])
def test_a_strange_model_in_the_path_is_not_found(name: str) -> None:
    response = get(f"/v1/models/{name}")
    assert response.status_code == 404
    assert response.json()["status"] == 404


def test_infinite_numbers_in_json_are_refused() -> None:
    body = b'{"model": "marked", "latents": [[NaN, Infinity, 0, 0]]}'
    response = post(content=body, headers={"Content-Type": "application/json"})
    assert_problem(response, 422, "validation_error")


def test_a_declared_huge_body_is_refused_unread() -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"x" * (1 << 20)

    headers = {"Content-Length": str(100 << 20), "Content-Type": "application/json"}
    response = post(content=body(), headers=headers)
    assert_problem(response, 413, "payload_too_large")
    assert read == 0


def test_a_chunked_huge_body_is_refused_at_the_limit() -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1600):
            read += 1 << 16
            yield b"x" * (1 << 16)

    response = post(content=body(), headers={"Content-Type": "application/json"})
    problem = assert_problem(response, 413, "payload_too_large")
    assert problem["detail"] == "the body is larger than 1,048,576 bytes"
    assert read <= MAX_BODY_BYTES + (1 << 17)


def test_a_body_at_the_limit_is_read() -> None:
    content = b'{"model": "marked"}'
    content += b" " * (MAX_BODY_BYTES - len(content))
    response = post(content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "accept",
    ["*/*", "application/json", "application/*", "text/html, */*;q=0.1", "Application/json"],
)
def test_json_is_given_to_whom_it_suits(accept: str) -> None:
    response = post(json={"model": "marked"}, headers={"Accept": accept})
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "accept", ["image/png", "image/*", "IMAGE/PNG", "image/webp, image/png", "image/png, */*;q=0.5"]
)
def test_the_png_itself_is_given_to_whom_wants_it(accept: str) -> None:
    response = post(json={"model": "marked", "seed": 9}, headers={"Accept": accept})
    assert response.headers["content-type"] == "image/png"
    assert decoded(response.content).shape == (4, 6, 3)
    assert response.headers["x-seed"] == "9"
    assert (response.headers["x-model"], response.headers["x-model-version"]) == ("marked", "1")


@pytest.mark.parametrize("accept", ["text/html", "image/webp", "audio/*"])
def test_what_cannot_be_given_is_not_acceptable(accept: str) -> None:
    response = post(json={"model": "marked"}, headers={"Accept": accept})
    assert_problem(response, 406, "not_acceptable")


@pytest.mark.parametrize(
    "several", [{"n": 2}, {"labels": [1, 2]}, {"latents": [[0.0] * 4, [1.0] * 4]}]
)
def test_several_images_are_no_single_png(several: dict[str, Any]) -> None:
    response = post(json={"model": "marked", **several}, headers={"Accept": "image/png"})
    assert_problem(response, 406, "not_acceptable")


def test_a_png_from_latents_names_no_seed() -> None:
    response = post(
        json={"model": "marked", "latents": [[0.0] * 4]}, headers={"Accept": "image/png"}
    )
    assert "x-seed" not in response.headers


def test_an_unknown_route_is_not_found() -> None:
    body = assert_problem(get("/v1/pictures"), 404, "route_not_found")
    assert "no route GET /v1/pictures" in body["detail"]


@pytest.mark.parametrize(("method", "path"), [("GET", GENERATIONS), ("POST", "/v1/models")])
def test_another_method_is_not_allowed(method: str, path: str) -> None:
    (response,) = send(FakeEngine(), (method, path, {}))
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == {"GET": "POST", "POST": "GET"}[method]


def test_all_methods_of_a_path_are_told(tmp_path: Path) -> None:
    service = ImageService(FakeEngine())
    runner = JobRunner(JobStore(tmp_path / "jobs.sqlite"), service)
    app = create_app(service, Readiness(service), Gatekeeper(None), runner=runner)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.put("/v1/jobs/one")

    assert asyncio.run(ask()).headers["allow"] == "DELETE, GET"


def test_models_are_listed_as_openai_does_with_their_cards() -> None:
    card = card_of(watermark(), "marked")
    body = get("/v1/models").json()
    assert body["object"] == "list"
    (model,) = body["data"]
    assert (model["id"], model["object"], model["versions"]) == ("marked", "model", [1])
    assert model["created"] == int(card.created.timestamp())
    assert model["card"] == card.model_dump(mode="json")


def test_one_model_is_retrieved() -> None:
    assert get("/v1/models/marked").json()["id"] == "marked"


def test_no_capability_is_501() -> None:
    text = (LatentInput(dim=4), TextInput(encoder="e", dim=3))
    engine = FakeEngine(card_of(watermark(), "marked", text))
    body = assert_problem(generate(engine), 501, "not_supported")
    assert "needs a text input" in body["detail"]


def test_livez_answers_whatever_the_models_do() -> None:
    assert get("/livez", failing(Unavailable("all dead"))).json() == {"status": "live"}


def test_readyz_is_200_once_every_model_answers() -> None:
    response = get("/readyz")
    assert (response.status_code, response.json()["ready"]) == (200, True)
    assert response.json()["models"] == {"marked": "ready"}


def test_readyz_is_503_while_a_model_fails() -> None:
    response = get("/readyz", failing(Unavailable("its backend is dead")))
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["models"] == {"marked": "its backend is dead"}


def test_readyz_is_503_while_there_is_no_model() -> None:
    engine = FakeEngine()
    engine.cards.clear()
    response = get("/readyz", engine)
    assert response.status_code == 503
    assert response.json()["detail"] == "no model is published"


def test_readyz_is_503_while_the_engine_is_away() -> None:
    class Away(FakeEngine):
        async def models(self) -> list[str]:
            raise Unavailable("Triton is not available now")

    response = get("/readyz", Away())
    assert response.status_code == 503
    assert response.json()["models"] == {"engine": "Triton is not available now"}


@pytest.mark.parametrize("error", [RuntimeError("secret /etc/path"), MemoryError("secret")])
def test_a_defect_is_told_without_its_text(error: Exception) -> None:
    response = generate(failing(error))
    assert_problem(response, 500, "internal")
    assert "secret" not in response.text


def test_an_internal_errors_details_stay_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    response = generate(failing(SERVICE_ERRORS["internal"]("secret /etc/path")))
    assert "secret" not in response.text
    assert "secret /etc/path" in caplog.text


def test_the_server_goes_on_after_a_defect() -> None:
    engine = failing(RuntimeError("once"))

    async def ask() -> list[int]:
        service = ImageService(engine)
        transport = httpx.ASGITransport(
            create_app(service, Readiness(service), Gatekeeper(None)), raise_app_exceptions=False
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            first = await client.post(GENERATIONS, json={"model": "marked"})
            engine.error = None
            return [first.status_code, (await client.get("/readyz")).status_code]

    assert asyncio.run(ask()) == [500, 200]


def test_the_openapi_document_describes_every_route_and_field() -> None:
    document = get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        "/v1/models",
        "/v1/models/{model}",
        GENERATIONS,
        "/v1/augment",
        "/v1/images/upscale",
        "/v1/images/variations",
        "/v1/images/edits",
        "/livez",
        "/readyz",
    }
    schemas = document["components"]["schemas"]
    request = schemas["GenerationRequest"]["properties"] | schemas["UpscaleBody"]["properties"]
    assert all("description" in one for one in request.values() if "const" not in one)


def test_the_openapi_documents_references_all_resolve() -> None:
    document = get("/openapi.json").json()
    names = document["components"]["schemas"]
    references = [part.split('"')[0] for part in json.dumps(document).split('"$ref": "')[1:]]
    assert references
    assert {one.removeprefix("#/components/schemas/") for one in references} <= set(names)


def test_every_operation_of_the_openapi_document_has_an_answer_and_a_name() -> None:
    operations = [
        one for path in get("/openapi.json").json()["paths"].values() for one in path.values()
    ]
    assert all(one["responses"] for one in operations)
    assert len({one["operationId"] for one in operations}) == len(operations)


PAGE = "https://gallery.example"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,x-stainless-os",
}


def test_no_web_page_may_ask_unless_its_origin_is_named() -> None:
    asked = ("OPTIONS", GENERATIONS, {"headers": PREFLIGHT})
    assert "access-control-allow-origin" not in send(FakeEngine(), asked)[0].headers
    (other,) = send(FakeEngine(), asked, cors=["https://other.example"])
    assert (other.status_code, "access-control-allow-origin" in other.headers) == (400, False)
    (allowed,) = send(FakeEngine(), asked, cors=[PAGE])
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, PAGE)


def test_openais_client_in_a_web_page_may_send_its_own_headers() -> None:
    (allowed,) = send(FakeEngine(), ("OPTIONS", GENERATIONS, {"headers": PREFLIGHT}), cors=[PAGE])
    assert "x-stainless-os" in allowed.headers["access-control-allow-headers"]


def test_a_web_page_reads_errors_and_what_repeats_an_image() -> None:
    request = {"headers": {"Origin": PAGE}, "json": {"model": "none"}}
    (refused,) = send(FakeEngine(), ("POST", GENERATIONS, request), cors=[PAGE])
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (404, PAGE)
    assert "X-Seed" in refused.headers["access-control-expose-headers"]


def test_a_querys_field_is_named() -> None:
    error = get("/v1/models/marked?version=abc").json()["error"]
    assert error["param"] == "version"
    assert error["message"].startswith("version: Input should be a valid integer")


def test_kserves_probes_are_answered_as_ours() -> None:
    assert get("/v2/health/live").json() == get("/livez").json()
    assert get("/v2/health/ready", failing(Unavailable("gone"))).status_code == 503
