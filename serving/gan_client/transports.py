"""How a client reaches a model: over HTTP or gRPC, on Triton directly, or in this process."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from gan_core.card import ModelCard
from gan_core.errors import (
    SERVICE_ERRORS,
    ConfigError,
    ConnectionFailed,
    DeadlineExceeded,
    InternalError,
    QueueFull,
    ServiceError,
    Unavailable,
)

from .images import GeneratedImage, ImageBatch, decoded

if TYPE_CHECKING:
    from gan_serving.schema import GenerationRequest

__all__ = ["HttpTransport", "ServiceTransport", "Transport", "open_transport"]


LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
OF_PROXIES: dict[int, type[ServiceError]] = {
    429: QueueFull,
    502: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
}
"""What a bare status means that isn't the gateway's own answer."""


class Transport(Protocol):
    """Carries a request to a model. Every method raises ``ServiceError`` and nothing else."""

    async def generate(self, request: GenerationRequest, timeout_s: float) -> ImageBatch:
        """Images for a request."""

    async def models(self) -> list[ModelCard]:
        """The newest card of every model."""

    async def model(self, name: str, version: int | None = None) -> ModelCard:
        """The card of one model's version; the newest by default."""

    async def close(self) -> None:
        """Let go of connections and threads."""


def open_transport(
    url: str, http: httpx.AsyncClient | None = None, key: str | None = None
) -> Transport:
    """A transport for http(s)://, grpc(s)://, triton://host:port or local:PATH.

    Raises:
        ConfigError: another kind of URL, or a key that can't be sent.
        Unavailable: local: without onnxruntime, or without such a folder.
    """
    scheme, _, rest = url.partition(":")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ConfigError("the API key has characters that no key has: was it cut or quoted?")
    if scheme in ("http", "https"):
        return HttpTransport(http or _http_client(url), key)
    if scheme in ("grpc", "grpcs") and ":" in rest:
        from .grpc_transport import GrpcTransport

        address = rest.removeprefix("//").rstrip("/")
        return GrpcTransport(address, key=key, tls=scheme == "grpcs")
    if scheme == "triton" and ":" in rest:
        from gan_serving.triton_engine import TritonEngine, check_address

        address = rest.removeprefix("//").rstrip("/")
        check_address(address)
        return ServiceTransport(TritonEngine(address))
    if scheme == "local" and rest:
        from gan_serving.ort_engine import OrtEngine

        return ServiceTransport(OrtEngine(Path(rest)))
    raise ConfigError(
        f"{url!r} is not an address: use http://…, grpc://host:port, triton://host:port or "
        "local:PATH"
    )


def _http_client(url: str) -> httpx.AsyncClient:
    try:
        parsed = httpx.URL(url)
        if not parsed.host or not 0 < (parsed.port or 80) < 2**16:
            raise httpx.InvalidURL("no host, or no such port")
    except httpx.InvalidURL as error:
        raise ConfigError(f"{url!r} is not an address: {error}") from error
    # OpenAI's clients take the address with /v1, ours without: both are understood
    base_url = url.rstrip("/").removesuffix("/v1")
    # no proxy of the environment lies between a machine and itself
    return httpx.AsyncClient(base_url=base_url, trust_env=parsed.host not in LOOPBACK)


class ServiceTransport:
    """The image service in this process, over any engine."""

    def __init__(self, engine: Any) -> None:
        from gan_serving.service import ImageService

        self._service = ImageService(engine, max_n=10_000, timeout_s=float("inf"))

    async def generate(self, request: GenerationRequest, timeout_s: float) -> ImageBatch:
        """Images for a request."""
        answer = await self._service.generate(request, timeout_s)
        pairs = zip(answer.images, answer.seeds, strict=True)
        images = tuple(GeneratedImage(pixels, seed) for pixels, seed in pairs)
        return ImageBatch(images, answer.model, answer.version)

    async def models(self) -> list[ModelCard]:
        """The newest card of every model."""
        return [published.card for published in await self._service.models()]

    async def model(self, name: str, version: int | None = None) -> ModelCard:
        """The card of one model's version; the newest by default."""
        from gan_serving.service import card_of

        return card_of(await self._service.engine.published(name), version)

    async def close(self) -> None:
        """Close the engine."""
        await self._service.engine.close()


class HttpTransport:
    """The gateway over HTTP."""

    def __init__(self, http: httpx.AsyncClient, key: str | None = None) -> None:
        self._http = http
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    async def generate(self, request: GenerationRequest, timeout_s: float) -> ImageBatch:
        """Images for a request."""
        from gan_serving.schema import GenerationResponse

        body = request.model_dump(exclude_none=True, exclude_defaults=True)
        received = await self._call("POST", "/v1/images/generations", timeout_s, body)
        try:
            answer = GenerationResponse.model_validate(received)
            images = tuple(
                GeneratedImage(decoded(base64.b64decode(item.b64_json)), item.seed)
                for item in answer.data
            )
        except (ValueError, OSError) as error:
            raise _not_ours(self._http.base_url, error) from error
        # the name that was asked for, not the answer's: files are called after it
        return ImageBatch(images, request.model, answer.version)

    async def models(self) -> list[ModelCard]:
        """The newest card of every model."""
        answer = await self._call("GET", "/v1/models", 30.0)
        try:
            return [ModelCard.model_validate(item["card"]) for item in answer["data"]]
        except (KeyError, TypeError, ValidationError) as error:
            raise _not_ours(self._http.base_url, error) from error

    async def model(self, name: str, version: int | None = None) -> ModelCard:
        """The card of one model's version; the newest by default."""
        asked = "" if version is None else f"?version={version}"
        answer = await self._call("GET", f"/v1/models/{quote(name, safe='')}{asked}", 30.0)
        try:
            return ModelCard.model_validate(answer["card"])
        except (KeyError, TypeError, ValidationError) as error:
            raise _not_ours(self._http.base_url, error) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(
        self, method: str, path: str, timeout_s: float, body: dict[str, Any] | None = None
    ) -> Any:
        try:
            response = await self._http.request(
                method,
                path,
                json=body,
                timeout=timeout_s,
                # the server needn't go on for longer than anybody waits
                headers={**self._headers, "X-Timeout-S": f"{timeout_s:.3f}"},
            )
        except httpx.TimeoutException as error:
            raise DeadlineExceeded(f"no answer within {timeout_s:.3g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            text = str(error) or type(error).__name__
            raise ConnectionFailed(f"can't reach {self._http.base_url}: {text}") from error
        if response.is_error:
            _raise(response)
        try:
            return response.json()
        except ValueError as error:
            raise _not_ours(self._http.base_url, error) from error


def _raise(response: httpx.Response) -> NoReturn:
    """The exception that the server's error stands for."""
    try:
        error = response.json()["error"]
        kind, message, param = error["code"], str(error["message"]), error.get("param")
    except (ValueError, KeyError, TypeError):
        kind, message, param = "", f"{response.status_code} from {response.url}", None
    fallback = OF_PROXIES.get(response.status_code, InternalError)
    raise SERVICE_ERRORS.get(kind, fallback)(
        message,
        param=param,
        retry_after_s=_seconds(response.headers.get("retry-after")),
        request_id=response.headers.get("x-request-id"),
    )


def _seconds(header: str | None) -> float | None:
    try:
        return None if header is None else max(0.0, float(header))
    except ValueError:
        return None  # a date: no server of ours sends one


def _not_ours(url: httpx.URL, error: Exception) -> InternalError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return InternalError(f"{url} doesn't answer as a ganforge gateway does: {first}")
