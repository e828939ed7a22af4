"""Bad requests to a real server: a typed 4xx that helps, and the server goes on."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import psutil
import pytest

from gan_client import Client, GanforgeError, InvalidRequest, ModelNotFound, ServiceError
from tests.serving.graphs import watermarked

if TYPE_CHECKING:
    from tests.serving.processes import Serving

PATH = "/v1/images/generations"


@pytest.fixture(scope="module", params=["over_triton", "over_ort"])
def serving(request: pytest.FixtureRequest) -> Serving:
    found: Serving = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def post(serving: Serving) -> Iterator[Callable[..., httpx.Response]]:
    """Posts a body; afterwards the server must still give right pictures."""
    with httpx.Client(base_url=serving.url, timeout=60) as http:
        yield lambda **options: http.post(PATH, **options)
    with Client(serving.url) as client:
        image = client.images.generate(model="marked", seed=3).numpy()
        np.testing.assert_array_equal(image, watermarked([3]))


BODIES: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown model": ({"model": "nobody"}, 404, "no model is called 'nobody'"),
    "path": ({"model": "../../etc/passwd"}, 404, "no model is called '../../etc/passwd'"),
    "absolute path": ({"model": "/etc/passwd"}, 404, "no model is called"),
    "encoded path": ({"model": "%2e%2e%2fmarked"}, 404, "no model is called"),
    "nul": ({"model": "a\0b"}, 404, "no model is called"),
    "surrogate": ({"model": "\ud800"}, 400, "the body is not JSON: "),
    "no model": ({"n": 1}, 422, "model: Field required"),
    "n=0": ({"n": 0}, 422, "n: Input should be greater than or equal to 1 (given 0)"),
    "n=10**6": ({"n": 10**6}, 422, "n: 1000000 images are asked for; at most 64 per request"),
    "n=true": ({"n": True}, 422, "n: Input should be a valid integer (given True)"),
    "n=1.5": ({"n": 1.5}, 422, "n: Input should be a valid integer (given 1.5)"),
    "seed=2**64": ({"seed": 2**64}, 422, "seed: Input should be less than 18446744073709551616"),
    "seed=-1": ({"seed": -1}, 422, "seed: Input should be greater than or equal to 0 (given -1)"),
    "seed=x": ({"seed": "x"}, 422, "seed: Input should be a valid integer (given 'x')"),
    "size": ({"size": "1024x1024"}, 422, "'6x4' are accepted"),
    "label": ({"label": 12}, 422, "label: 12 is out of range: model 'marked' has classes 0-9"),
    "label name": ({"label": "cat"}, 422, "has classes 0-9, called zero, one"),
    "truncation": ({"truncation": 7}, 422, "truncation: 7.0 is not in [0.0, 1.0]"),
    "latents": ({"latents": [[1.0]]}, 422, "latents: rows have [1] numbers, z has 4"),
    "NaN latents": ({"latents": [[float("nan")] * 4]}, 422, "latents: every number must be finite"),
    "1e39 latents": ({"latents": [[1e39] * 4]}, 422, "latents: every number must be finite"),
    "no latents": ({"latents": []}, 422, "latents: "),
    "unknown field": ({"sede": 3}, 422, "sede: Extra inputs are not permitted"),
    "a prompt": ({"prompt": "a cat"}, 422, "prompt: "),
}


@pytest.mark.parametrize(("fields", "status", "message"), BODIES.values(), ids=list(BODIES))
def test_a_bad_field_is_told_with_its_value(
    post: Callable[..., httpx.Response], fields: dict[str, Any], status: int, message: str
) -> None:
    known = {} if fields == {"n": 1} else {"model": "marked"}
    response = post(
        content=json.dumps({**known, **fields}), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == status, response.text
    assert message in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"model": "marked", "n"', 400),
        (b"", 400),
        (b"[]", 422),
        (b'["marked"]', 422),
        (b"null", 422),
        (b"\xff\x00", 400),
        (b"[" * 100_000, 400),
        (b'{"model": "marked", "seed": 1' + b"0" * 5000 + b"}", 400),
    ],
    ids=["truncated", "empty", "array", "array of text", "null", "binary", "deep", "huge number"],
)
def test_a_bad_body_is_the_callers_mistake(
    post: Callable[..., httpx.Response], body: bytes, status: int
) -> None:
    response = post(content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status, response.text
    assert response.json()["status"] == status


def test_a_declared_body_of_100_mb_is_refused_unread(serving: Serving) -> None:
    address = httpx.URL(serving.url)
    head = f"POST {PATH} HTTP/1.1\r\nHost: {address.host}\r\nContent-Length: 100000000\r\n\r\n"
    with socket.create_connection((address.host, address.port or 80), timeout=10) as connection:
        connection.sendall(head.encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))  # until it is closed
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"the body is larger than 1,048,576 bytes" in answer
    assert serving.ready()


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_of_100_mb_takes_no_memory(serving: Serving, chunked: bool) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(1600):
            yield b"x" * 62_500

    headers = {"Content-Type": "application/json"}
    if not chunked:
        headers["Content-Length"] = str(1600 * 62_500)
    before = psutil.Process(serving.process.pid).memory_info().rss
    with httpx.Client(base_url=serving.url, timeout=60) as http:
        try:
            response = http.post(PATH, content=chunks(), headers=headers)
        except httpx.TransportError:
            pass  # the server closed the connection while the body was still being sent
        else:
            assert response.status_code == 413
    assert psutil.Process(serving.process.pid).memory_info().rss - before < 20_000_000
    assert serving.ready()


CALLS: list[tuple[dict[str, Any], type[GanforgeError]]] = [
    ({"model": "nobody"}, ModelNotFound),
    ({"model": "../marked"}, ModelNotFound),
    ({"model": ""}, InvalidRequest),
    ({"n": 0}, InvalidRequest),
    ({"n": 10**6}, InvalidRequest),
    ({"n": True}, InvalidRequest),
    ({"n": 1.5}, InvalidRequest),
    ({"seed": 2**64}, InvalidRequest),
    ({"seed": -1}, InvalidRequest),
    ({"seed": "x"}, InvalidRequest),
    ({"label": 12}, InvalidRequest),
    ({"label": "cat"}, InvalidRequest),
    ({"truncation": 2}, InvalidRequest),
    ({"truncation": float("nan")}, InvalidRequest),
    ({"latents": [[float("nan")] * 4]}, InvalidRequest),
    ({"latents": [[1e39] * 4]}, InvalidRequest),
    ({"latents": [[1.0, 2.0]]}, InvalidRequest),
    ({"latents": []}, InvalidRequest),
    ({"latents": "text"}, InvalidRequest),
    ({"latents": [[1.0], [1.0, 2.0]]}, InvalidRequest),
]


@pytest.mark.parametrize(("fields", "kind"), CALLS, ids=str)
@pytest.mark.parametrize("way", ["local", "http"])
def test_the_sdk_raises_the_same_over_http_and_in_process(
    serving: Serving,
    request: pytest.FixtureRequest,
    way: str,
    fields: dict[str, Any],
    kind: type[ServiceError],
) -> None:
    local = f"local:{request.getfixturevalue('repository')}"
    with Client(serving.url if way == "http" else local, max_retries=0) as client:
        if fields == {"n": 10**6} and way == "local":
            pytest.skip("in one's own process any number is one's own business up to 10,000")
        with pytest.raises(kind):
            client.images.generate(**{"model": "marked", **fields})
