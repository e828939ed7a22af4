"""Small calls to a Triton on this machine: KServe's binary HTTP through a Unix socket.

A lone picture of 64×64 px takes a seventh less time than by gRPC, and the gateway a quarter
of a millisecond less of its core. What is large goes through shared memory; everything else
that Triton is asked is gRPC.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

import httptools
import numpy as np
from tritonclient.utils import InferenceServerException

from gan_core.card import OUTPUT_NAME

from .engine import Inference
from .triton_tensors import DATATYPES, DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .engine import Inputs

__all__ = ["TritonHttp"]

HEADER_LENGTH = "inference-header-content-length"
CODES = {404: "NOT_FOUND", 400: "INVALID_ARGUMENT", 503: "UNAVAILABLE", 499: "CANCELLED"}
"""Triton's HTTP statuses as gRPC's; any other is of the model."""


class TritonHttp:
    """Calls to one Triton; each has a connection for itself, which the next takes over.

    Args:
        path: of the socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()

    async def infer(
        self,
        model: str,
        version: int,
        inputs: Inputs,
        *,
        timeout_s: float,
        wait_s: float,
        headers: Mapping[str, str] | None,
    ) -> Inference:
        """The graph's answer.

        Args:
            model: its name.
            version: which of its versions.
            inputs: what it takes.
            timeout_s: Triton doesn't begin later than this.
            wait_s: a call without an answer for so long is given up.
            headers: of the trace that goes on.

        Raises:
            InferenceServerException: Triton refuses, or can't be reached; the status is gRPC's.
        """
        request = _request(model, version, inputs, timeout_s, headers or {})
        connection = await self._connection()
        self._busy.add(connection)
        try:
            async with asyncio.timeout(wait_s):
                status, about, body = await connection.ask(request)
        except TimeoutError as error:
            connection.close()  # an answer that came yet would be taken for the next one's
            raise InferenceServerException("no answer", "DEADLINE_EXCEEDED") from error
        except (OSError, httptools.HttpParserError) as error:
            connection.close()
            raise InferenceServerException(str(error), "UNAVAILABLE") from error
        except asyncio.CancelledError:
            connection.close()
            raise
        finally:
            self._busy.discard(connection)
        if connection.is_open:
            self._idle.append(connection)
        return _inference(status, about, body)

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        try:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_unix_connection(_Connection, self._path)
        except OSError as error:
            raise InferenceServerException(str(error), "UNAVAILABLE") from error
        return connection

    def close(self) -> None:
        """Close every connection; calls that have no answer yet end with UNAVAILABLE."""
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()


class _Connection(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, int, bytes]] | None = None
        self._parser: Any = None
        self._about = 0
        self._body: list[bytes] = []

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, int, bytes]]:
        """The answer's status, the length of the JSON it begins with, and its body."""
        self._parser = httptools.HttpResponseParser(self)
        self._about, self._body = 0, []
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport is None or not self.is_open:
            self._fail(ConnectionResetError("Triton closed the connection"))
        else:
            self._transport.write(request)
        return self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error)
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == HEADER_LENGTH.encode():
            self._about = int(value)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._answer is not None and not self._answer.done():
            status = self._parser.get_status_code()
            self._answer.set_result((status, self._about, b"".join(self._body)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(exc or ConnectionResetError("Triton closed the connection"))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def _request(
    model: str, version: int, inputs: Inputs, timeout_s: float, headers: Mapping[str, str]
) -> bytes:
    about = json.dumps(
        {
            "inputs": [
                {
                    "name": name,
                    "datatype": DATATYPES[array.dtype.name],
                    "shape": array.shape,
                    "parameters": {"binary_data_size": array.nbytes},
                }
                for name, array in inputs.items()
            ],
            "parameters": {"binary_data_output": True, "timeout": int(timeout_s * 1e6)},
        }
    ).encode()
    body = b"".join([about, *(array.tobytes() for array in inputs.values())])
    lines = [
        f"POST /v2/models/{model}/versions/{version}/infer HTTP/1.1",
        "Host: triton",
        f"{HEADER_LENGTH}: {len(about)}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
        "\r\n",
    ]
    return "\r\n".join(lines).encode() + body


def _inference(status: int, about: int, body: bytes) -> Inference:
    try:
        said = json.loads(body[:about] if about else body)
        if status != 200:
            raise InferenceServerException(said["error"], CODES.get(status, "INTERNAL"))
        [output] = (one for one in said["outputs"] if one["name"] == OUTPUT_NAME)
        image = np.frombuffer(body, DTYPES[output["datatype"]], offset=about)
        return Inference(image.reshape(output["shape"]), int(said["model_version"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InferenceServerException(f"no answer of Triton's: {error}", "INTERNAL") from error
