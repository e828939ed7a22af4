"""What a server is asked for, and how its answers are read."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import numpy as np
from google.protobuf.message import DecodeError

from gan_client.images import decoded
from gan_core.errors import ConfigError
from gan_serving.grpc_api.image_service_pb2 import GenerateRequest, GenerateResponse

from . import Accept
from .lines import GrpcLine, HttpLine, Line

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GrpcTarget", "HttpTarget", "Target", "target_of"]

METHOD = "/ganforge.v1.ImageService/Generate"


class Target(Protocol):
    """A way of asking a server for pictures."""

    def request(self, seed: int, n: int) -> bytes:
        """All bytes of a request for the images of n seeds, from ``seed`` on."""

    def line(self) -> Line:
        """A caller's way there."""

    def pictures(self, body: bytes) -> list[NDArray[np.uint8]]:
        """An answer's images, each uint8 [H, W, C].

        Raises:
            ValueError: it holds none that can be read.
        """


class HttpTarget:
    """A gateway's ``POST /v1/images/generations``.

    Args:
        url: ``http://host:port``, or https.
        model: a published model.
        accept: ``png`` or ``json``.
        timeout_s: sent along as the request's deadline.
        key: API key.
    """

    def __init__(
        self, url: str, model: str, accept: Accept, *, timeout_s: float, key: str | None = None
    ) -> None:
        self._url, self._model, self._accept = url, model, accept
        headers = {
            "Host": urlsplit(url).netloc,
            "Content-Type": "application/json",
            "Accept": "image/png" if accept is Accept.PNG else "application/json",
            "X-Timeout-S": f"{timeout_s:g}",
        }
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        self._head = "POST /v1/images/generations HTTP/1.1\r\n"
        self._head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())

    def request(self, seed: int, n: int) -> bytes:
        """All bytes of it."""
        body = json.dumps({"model": self._model, "n": n, "seed": seed})
        return f"{self._head}Content-Length: {len(body)}\r\n\r\n{body}".encode()

    def line(self) -> Line:
        """A connection."""
        return HttpLine(self._url)

    def pictures(self, body: bytes) -> list[NDArray[np.uint8]]:
        """An answer's images."""
        if self._accept is Accept.PNG:
            return [decoded(body)]
        try:
            return [decoded(base64.b64decode(one["b64_json"])) for one in json.loads(body)["data"]]
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an answer of the images API: {error!r}") from error


class GrpcTarget:
    """A gateway's ``ganforge.v1.ImageService/Generate``.

    Args:
        address: ``host:port``.
        model: a published model.
        accept: ``png`` or ``raw``.
        key: API key.
        tls: whether the server's certificate is asked for and checked.
    """

    def __init__(
        self, address: str, model: str, accept: Accept, *, key: str | None = None, tls: bool = False
    ) -> None:
        self._address, self._model, self._tls = address, model, tls
        self._is_raw = accept is Accept.RAW
        self._metadata = [] if key is None else [("authorization", f"Bearer {key}")]

    def request(self, seed: int, n: int) -> bytes:
        """A serialised message."""
        message = GenerateRequest(
            model=self._model,
            n=n,
            seed=seed,
            output_format="OUTPUT_FORMAT_RAW" if self._is_raw else "OUTPUT_FORMAT_PNG",
        )
        serialised: bytes = message.SerializeToString()
        return serialised

    def line(self) -> Line:
        """A channel."""
        return GrpcLine(self._address, METHOD, self._metadata, tls=self._tls)

    def pictures(self, body: bytes) -> list[NDArray[np.uint8]]:
        """An answer's images."""
        try:
            answer = GenerateResponse.FromString(body)
        except DecodeError as error:
            raise ValueError(f"not an answer of the image service: {error}") from error
        if not self._is_raw:
            return [decoded(image.data) for image in answer.images]
        shape = answer.height, answer.width, answer.channels
        return [np.frombuffer(image.data, np.uint8).reshape(shape) for image in answer.images]


def target_of(
    url: str, model: str, accept: Accept | None, n: int, *, timeout_s: float, key: str | None
) -> Target:
    """A gateway by its URL; files as they are where nothing else is asked for.

    Raises:
        ConfigError: another kind of URL, or an ``accept`` that it or ``n`` images can't have.
    """
    scheme, _, rest = url.partition("://")
    if scheme in ("http", "https"):
        chosen = accept or (Accept.PNG if n == 1 else Accept.JSON)
        if chosen is Accept.RAW or (chosen is Accept.PNG and n > 1):
            raise ConfigError(
                f"--accept {chosen} with {n} images per request over HTTP: json takes any number, "
                "png one, and raw is gRPC's"
            )
        return HttpTarget(url.rstrip("/"), model, chosen, timeout_s=timeout_s, key=key)
    if scheme in ("grpc", "grpcs") and rest:
        if accept is Accept.JSON:
            raise ConfigError("--accept json over gRPC: choose png or raw")
        return GrpcTarget(
            rest.rstrip("/"), model, accept or Accept.PNG, key=key, tls=scheme == "grpcs"
        )
    raise ConfigError(
        f"{url!r} is not a gateway's address: use http://host:port or grpc://host:port"
    )
