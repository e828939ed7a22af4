"""OpenAI's own client, unmodified, against our gateway."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import openai
import pytest

from gan_client.images import decoded
from tests.serving.graphs import doubled, watermarked
from tests.serving.pictures import PIXELS, saved

if TYPE_CHECKING:
    from tests.serving.processes import Serving


@pytest.fixture(scope="module")
def client(over_ort: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{over_ort.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def pixels(answer: Any) -> Any:
    return np.stack([decoded(base64.b64decode(item.b64_json)) for item in answer.data])


def test_models_are_listed(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == [
        "doubling",
        "fragile",
        "marked",
        "slow",
        "tiny_biggan",
        "tiny_dcgan",
        "versioned",
    ]


def test_a_model_is_retrieved(client: openai.OpenAI) -> None:
    assert client.models.retrieve("marked").owned_by == "ganforge"


def test_images_are_generated_without_extras(client: openai.OpenAI) -> None:
    answer = client.images.generate(model="marked", prompt="", n=2)
    assert pixels(answer).shape == (2, 4, 6, 3)


def test_extras_go_through_extra_body(client: openai.OpenAI) -> None:
    extras = {"seed": 7, "labels": [3, 4], "truncation": 0.25}
    answer = client.images.generate(model="marked", prompt="", n=2, extra_body=extras)
    np.testing.assert_array_equal(pixels(answer), watermarked([7, 8], [3, 4], 0.25))


def test_the_seed_is_in_the_answer(client: openai.OpenAI) -> None:
    answer = client.images.generate(model="marked", prompt="", extra_body={"seed": 2**64 - 1})
    assert answer.data is not None
    assert answer.data[0].model_dump()["seed"] == 2**64 - 1


def test_the_raw_response_has_the_request_id(client: openai.OpenAI) -> None:
    raw = client.images.with_raw_response.generate(model="marked", prompt="")
    assert raw.headers["x-request-id"]


ASKS: list[tuple[dict[str, Any], type[openai.APIStatusError], str | None, str]] = [
    ({"model": "nobody"}, openai.NotFoundError, "model", "model_not_found"),
    ({"n": 0}, openai.UnprocessableEntityError, "n", "validation_error"),
    ({"size": "1024x1024"}, openai.UnprocessableEntityError, "size", "validation_error"),
    ({"prompt": "a cat"}, openai.UnprocessableEntityError, "prompt", "validation_error"),
    ({"extra_body": {"label": 99}}, openai.UnprocessableEntityError, "label", "validation_error"),
    ({"extra_headers": {"Accept": "text/css"}}, openai.APIStatusError, None, "not_acceptable"),
]


@pytest.mark.parametrize(("fields", "kind", "param", "code"), ASKS)
def test_our_errors_are_its_exceptions(
    client: openai.OpenAI,
    fields: dict[str, Any],
    kind: type[openai.APIStatusError],
    param: str | None,
    code: str,
) -> None:
    with pytest.raises(kind) as raised:
        client.images.generate(**{"model": "marked", "prompt": "", **fields})
    assert (raised.value.param, raised.value.code) == (param, code)
    assert raised.value.request_id


def test_our_message_is_in_its_exception(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no model is called 'nobody'; published: "):
        client.images.generate(model="nobody", prompt="")


def test_a_failing_model_is_its_internal_server_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as raised:
        client.images.generate(model="fragile", prompt="", extra_body={"label": 9})
    assert raised.value.status_code == 500


@pytest.fixture
def overloaded() -> Iterator[tuple[str, list[str]]]:
    """A server that answers 429, then 503, with Retry-After, and then with no models."""
    from gan_core.errors import QueueFull, Unavailable
    from gan_serving.schema import problem

    errors = [QueueFull("full"), Unavailable("healing")]
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            import json

            error = errors[len(asked)] if len(asked) < len(errors) else None
            asked.append(self.path)
            body = problem(error, "id") if error else {"object": "list", "data": []}
            content = json.dumps(body).encode()
            self.send_response(error.status if error else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if error:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
        server.shutdown()
        thread.join()


def test_it_tries_again_what_our_overloaded_server_refused(
    overloaded: tuple[str, list[str]],
) -> None:
    url, asked = overloaded
    with openai.OpenAI(base_url=url, api_key="none", max_retries=2) as client:
        assert list(client.models.list()) == []
    assert len(asked) == 3


def test_without_retries_a_full_queue_is_its_rate_limit_error(
    overloaded: tuple[str, list[str]],
) -> None:
    with (
        openai.OpenAI(base_url=overloaded[0], api_key="none", max_retries=0) as client,
        pytest.raises(openai.RateLimitError, match="full"),
    ):
        client.models.list()


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # variations, by OpenAI
@pytest.mark.parametrize("what", ["create_variation", "edit"])
def test_what_no_model_does_is_its_api_status_error(client: openai.OpenAI, what: str) -> None:
    fields: dict[str, Any] = {"model": "doubling", "image": ("a.png", saved(), "image/png")}
    if what == "edit":
        fields["prompt"] = "a hat"
    with pytest.raises(openai.APIStatusError, match="it makes images 2 times as large") as raised:
        getattr(client.images, what)(**fields)
    assert (raised.value.status_code, raised.value.code) == (501, "not_supported")


@pytest.mark.parametrize("as_form", [True, False])
def test_a_picture_goes_through_its_raw_post(client: openai.OpenAI, as_form: bool) -> None:
    if as_form:
        answer = client.post(
            "/images/upscale",
            cast_to=openai.types.ImagesResponse,
            body={"model": "doubling"},
            files={"image": ("a.png", saved())},
            options={"headers": {"Content-Type": "multipart/form-data"}},
        )
    else:
        body = {"model": "doubling", "image": base64.b64encode(saved()).decode()}
        answer = client.post("/images/upscale", cast_to=openai.types.ImagesResponse, body=body)
    np.testing.assert_array_equal(pixels(answer)[0], doubled(PIXELS))
