"""What clients do to a server all day long, the rude ones among them."""

from __future__ import annotations

import json
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable

import grpc
import httpx
import numpy as np

from gan_client.images import decoded
from gan_serving.grpc_api.image_service_pb2 import GenerateRequest, GenerateResponse
from tests.faults.asking import PATH, assert_pictures, assert_typed
from tests.serving.graphs import watermarked
from tests.serving.processes import Serving

__all__ = ["Client"]

RST_ON_CLOSE = struct.pack("ii", 1, 0)
BUSY = {429, 503, 504}
BUSY_CALLS = {"RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
GRPC = "/ganforge.v1.ImageService"


class Client:
    """One client of many kinds; every picture it gets is checked.

    Args:
        serving: the server.
        seed: of its choices.
    """

    def __init__(self, serving: Serving, seed: int) -> None:
        self.refusals: Counter[str] = Counter()
        """What it was told instead of being given pictures."""
        self._choice = random.Random(seed)
        self._http = httpx.Client(base_url=serving.url, timeout=60)
        self._port = int(serving.url.rpartition(":")[2])
        self._channel = grpc.insecure_channel(serving.grpc.removeprefix("grpc://"))
        self._scenarios: dict[Callable[[], None], int] = {
            self.picture: 40,
            self.file: 10,
            self.events: 10,
            self.over_grpc: 20,
            self.job: 5,
            self.cancelled_job: 2,
            self.looks_around: 5,
            self.in_a_hurry: 5,
            self.mistaken: 5,
            self.hangs_up: 10,
            self.hangs_up_between_events: 5,
            self.cancels_its_call: 5,
            self.speaks_no_http: 2,
        }

    def act(self) -> str:
        """Do something; returns what."""
        (chosen,) = self._choice.choices([*self._scenarios], [*self._scenarios.values()])
        chosen()
        return chosen.__name__

    def close(self) -> None:
        """Leave."""
        self._http.close()
        self._channel.close()

    def picture(self) -> None:
        seed, n = self._choice.randrange(2**40), self._choice.randint(1, 8)
        response = self._post({"seed": seed, "n": n})
        if response.status_code == 200:
            assert_pictures(response.json(), list(range(seed, seed + n)))

    def file(self) -> None:
        seed = self._choice.randrange(2**40)
        response = self._post({"seed": seed}, Accept="image/*")
        if response.status_code == 200:
            same(response.content, seed)

    def events(self) -> None:
        seed = self._choice.randrange(2**40)
        with self._http.stream("POST", PATH, json=self._body(seed, stream=True)) as response:
            if response.status_code != 200:
                response.read()
                self._refused(response)
                return
            found = [
                json.loads(line[6:])
                for line in response.iter_lines()
                if line.startswith("data: ") and "b64_json" in line
            ]
        assert_pictures({"data": found, "version": found[0]["version"]}, [seed, seed + 1])

    def over_grpc(self) -> None:
        seed = self._choice.randrange(2**40)
        message = GenerateRequest(model="marked", seed=seed, n=1)
        call: Callable[..., bytes] = self._channel.unary_unary(f"{GRPC}/Generate")
        try:
            raw = call(message.SerializeToString(), timeout=30)
        except grpc.RpcError as error:
            if error.code().name not in BUSY_CALLS:
                raise
        else:
            same(GenerateResponse.FromString(raw).images[0].data, seed)

    def job(self) -> None:
        seed = self._choice.randrange(2**40)
        response = self._post({"seed": seed, "n": 2}, Prefer="respond-async")
        if response.status_code != 202:
            return
        over = time.monotonic() + 20
        while time.monotonic() < over:
            answer = self._http.get(f"{response.headers['location']}/result")
            if answer.status_code == 200:
                assert_pictures(answer.json(), [seed, seed + 1])
                return
            assert answer.status_code == 202, answer.text
            time.sleep(0.1)
        raise AssertionError("a job took more than 20 s")

    def cancelled_job(self) -> None:
        response = self._post({"n": 2}, Prefer="respond-async")
        if response.status_code == 202:
            assert self._http.delete(response.headers["location"]).status_code == 200

    def looks_around(self) -> None:
        for path in ("/livez", "/openapi.json"):
            assert self._http.get(path).status_code == 200
        response = self._http.get("/v1/models")  # Triton may be too busy to say
        if response.status_code != 200:
            self._refused(response)

    def in_a_hurry(self) -> None:
        body = {"model": "marked", "n": 8}
        response = self._http.post(PATH, json=body, headers={"X-Timeout-S": "0.001"})
        assert response.status_code in {200, *BUSY}, response.text

    def mistaken(self) -> None:
        response = self._http.post(PATH, json={"model": "marked", "label": 99})
        assert response.status_code in {422, *BUSY}, response.text
        assert_typed(response)

    def hangs_up(self) -> None:
        body = json.dumps(self._body(1)).encode()
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        whole = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        with socket.create_connection(("127.0.0.1", self._port), timeout=10) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
            connection.sendall(whole[: self._choice.randint(1, len(whole))])

    def hangs_up_between_events(self) -> None:
        body = self._body(1, stream=True) | {"n": 8}
        with self._http.stream("POST", PATH, json=body) as response:
            if response.status_code == 200:
                next(response.iter_lines())

    def cancels_its_call(self) -> None:
        message = GenerateRequest(model="marked", seed=1, n=8).SerializeToString()
        stream: Callable[..., grpc.Call] = self._channel.unary_stream(f"{GRPC}/GenerateStream")
        stream(message).cancel()

    def speaks_no_http(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=10) as connection:
            connection.sendall(self._choice.randbytes(500) + b"\r\n\r\n")

    def _refused(self, response: httpx.Response) -> None:
        assert response.status_code in BUSY, response.text
        assert_typed(response)
        self.refusals[response.json()["detail"]] += 1

    def _body(self, seed: int, *, stream: bool = False) -> dict[str, object]:
        return {"model": "marked", "seed": seed, "n": 2, "stream": stream}

    def _post(self, fields: dict[str, int], **headers: str) -> httpx.Response:
        response = self._http.post(PATH, json={"model": "marked", **fields}, headers=headers)
        if response.status_code not in (200, 202):
            self._refused(response)
        return response


def same(file: bytes, seed: int) -> None:
    """The picture of the seed; channel 2 tells versions apart, and any of them may answer."""
    np.testing.assert_array_equal(decoded(file)[..., :2], watermarked([seed])[0][..., :2])
