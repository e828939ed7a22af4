"""How each kind of server is asked for the picture of a seed, and where it is in the answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from gan_client.images import decoded
from gan_core.latents import latents
from gan_serving.bench.lines import GrpcLine, HttpLine
from gan_serving.encode import PNG_MAGIC

from .model import NAME, Z

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gan_serving.bench.lines import Line

__all__ = ["PngTarget", "PytritonTarget", "TritonTarget"]

SHAPE = 64, 64, 3


def post(port: int, path: str, body: object) -> bytes:
    """All bytes of a request with a JSON body."""
    text = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text


class PngTarget:
    """``{"seed": 7}`` in, a PNG file out."""

    def __init__(self, port: int) -> None:
        self._port = port

    def request(self, seed: int, n: int) -> bytes:
        return post(self._port, "/generate", {"seed": seed})

    def line(self) -> Line:
        return HttpLine(f"http://127.0.0.1:{self._port}")

    def pictures(self, body: bytes) -> list[NDArray[np.uint8]]:
        return [decoded(body)]


class PytritonTarget(PngTarget):
    """A seed in, pixels or a PNG file out, in KServe's protocol with its binary extension."""

    def request(self, seed: int, n: int) -> bytes:
        tensor = {"name": "seed", "shape": [1, 1], "datatype": "INT64", "data": [seed]}
        output = {"name": "image", "parameters": {"binary_data": True}}
        body = {"inputs": [tensor], "outputs": [output]}
        return post(self._port, "/v2/models/images/infer", body)

    def pictures(self, body: bytes) -> list[NDArray[np.uint8]]:
        start = body.find(PNG_MAGIC)  # after the answer's JSON and the file's length
        if start >= 0:
            return [decoded(body[start:])]
        return [np.frombuffer(body[-int(np.prod(SHAPE)) :], np.uint8).reshape(SHAPE)]


class TritonTarget:
    """z in, pixels out, over Triton's own gRPC."""

    def __init__(self, address: str) -> None:
        self._address = address

    def request(self, seed: int, n: int) -> bytes:
        message = ModelInferRequest(model_name=NAME)
        message.inputs.add(name="z", datatype="FP32", shape=[1, Z.dim])
        message.outputs.add(name="image")
        message.raw_input_contents.append(latents(Z, [seed]).tobytes())
        serialised: bytes = message.SerializeToString()
        return serialised

    def line(self) -> Line:
        return GrpcLine(self._address, "/inference.GRPCInferenceService/ModelInfer")

    def pictures(self, body: bytes) -> list[NDArray[np.uint8]]:
        (raw,) = ModelInferResponse.FromString(body).raw_output_contents
        return [np.frombuffer(raw, np.uint8).reshape(SHAPE)]
