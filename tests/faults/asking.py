"""Callers that check every answer: the picture of its seed, or a typed error and nothing else."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from gan_client.images import decoded
from gan_core.errors import SERVICE_ERRORS
from tests.serving.graphs import watermarked
from tests.serving.processes import wait_until

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "PATH",
    "Asker",
    "answered",
    "assert_pictures",
    "assert_typed",
    "pictures",
    "refused",
    "seconds_until",
]

PATH = "/v1/images/generations"
NEWER_SHADE = 10
"""What tells the pictures of later versions of ``marked`` from the first's."""
LATER = {429, 503}
"""Statuses that say when to come again."""


def assert_typed(response: httpx.Response) -> None:
    """An RFC 9457 problem of the one table of errors, under its status."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem = response.json()
    assert problem["status"] == response.status_code
    assert SERVICE_ERRORS[problem["error"]["code"]].status == response.status_code
    assert problem["request_id"] == response.headers["x-request-id"]
    if response.status_code in LATER:
        assert int(response.headers["retry-after"]) >= 1


def pictures(body: dict[str, Any]) -> NDArray[np.uint8]:
    """The pictures of an answer, [N, H, W, C]."""
    return np.stack([decoded(base64.b64decode(item["b64_json"])) for item in body["data"]])


def assert_pictures(body: dict[str, Any], seeds: list[int]) -> None:
    """The answer has the very pictures that its version of ``marked`` makes of the seeds."""
    wanted = watermarked(seeds)
    wanted[..., 2] += np.uint8(NEWER_SHADE if body["version"] > 1 else 0)
    np.testing.assert_array_equal(pictures(body), wanted)


class Asker:
    """Asks a gateway for pictures of ``marked``, without any retry, and checks every answer.

    Args:
        url: of the gateway.
        refusals: statuses that may come instead of pictures.
        timeout_s: what the caller says that it waits.
    """

    def __init__(
        self, url: str, refusals: Collection[int] = (503,), timeout_s: float = 30.0
    ) -> None:
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.Client(base_url=url, timeout=60, limits=limits)
        self._refusals = set(refusals)
        self._headers = {"X-Timeout-S": str(timeout_s)}
        self._lock = threading.Lock()
        self.statuses: list[int] = []
        self.seconds: list[float] = []
        self.versions: set[int] = set()

    def ask(self, seed: int) -> int:
        """Two pictures or one of the refusals; anything else fails the test."""
        began = time.monotonic()
        response = self._http.post(
            PATH, json={"model": "marked", "seed": seed, "n": 2}, headers=self._headers
        )
        seconds = time.monotonic() - began
        if response.status_code == 200:
            body = response.json()
            assert_pictures(body, [seed, seed + 1])
            self.versions.add(body["version"])
        else:
            assert response.status_code in self._refusals, response.text
            assert_typed(response)
            time.sleep(0.02)
        with self._lock:
            self.statuses.append(response.status_code)
            self.seconds.append(seconds)
        return response.status_code

    def close(self) -> None:
        self._http.close()


def seconds_until(claim: Callable[[], object], at_most_s: float) -> float:
    """How long a claim takes to come true; the test fails if that is too long."""
    began = time.monotonic()
    assert wait_until(claim, at_most_s), f"not within {at_most_s:g} s"
    return time.monotonic() - began


def answered(asker: Asker) -> float:
    """Seconds until a picture comes again."""
    before = len(asker.statuses)
    return seconds_until(lambda: 200 in asker.statuses[before:], 20)


def refused(asker: Asker) -> int:
    """How many of its requests brought no picture."""
    return sum(status != 200 for status in asker.statuses)
