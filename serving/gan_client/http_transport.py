"""The gateway over HTTP: JSON, and streams of lines."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import quote

import httpx

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

from .hints import hinted
from .http_streams import images_of, samples_of
from .images import GeneratedImage, ImageBatch, decoded, enlarged_of
from .pictures import as_file

if TYPE_CHECKING:
    from gan_serving.schema import AugmentRequest, GenerationRequest, UpscaleRequest

    from .augmentation import Sample
    from .pictures import Picture
    from .tls import Tls

__all__ = ["GENERATIONS", "HttpTransport", "batch_of", "http_client"]

T = TypeVar("T")

GENERATIONS = "/v1/images/generations"
UPSCALE = "/v1/images/upscale"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
OF_PROXIES: dict[int, type[ServiceError]] = {
    429: QueueFull,
    502: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
}
"""What a bare status means that isn't the gateway's own answer."""


class HttpTransport:
    """The gateway over HTTP."""

    def __init__(self, http: httpx.AsyncClient, key: str | None = None) -> None:
        self._http = http
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    async def generate(self, request: GenerationRequest, timeout_s: float) -> ImageBatch:
        """Images for a request."""
        body = request.model_dump(exclude_none=True, exclude_defaults=True)
        batch = await self.ask("POST", GENERATIONS, timeout_s, batch_of, body)
        # the name that was asked for, not the answer's: files are called after it
        return replace(batch, model=request.model)

    async def stream(
        self, request: GenerationRequest, timeout_s: float
    ) -> AsyncGenerator[GeneratedImage, None]:
        """The same images, each as soon as it is there."""
        body = request.model_dump(exclude_none=True, exclude_defaults=True) | {"stream": True}
        n = request.n or len(request.labels or ()) or 1
        headers = {"Accept": "text/event-stream", **_timeout(timeout_s)}
        async with self._answer(GENERATIONS, timeout_s, headers, json=body) as response:
            async for image in images_of(response.aiter_lines(), n):
                yield image

    async def augment(
        self, request: AugmentRequest, timeout_s: float
    ) -> AsyncGenerator[Sample, None]:
        """A stream from its offset on, or an error."""
        body = request.model_dump(exclude_none=True, exclude_defaults=True)
        headers = {"Accept": "application/x-ndjson"}
        async with self._answer("/v1/augment", timeout_s, headers, json=body) as response:
            async for sample in samples_of(response.aiter_lines()):
                yield sample

    async def upscale(
        self, request: UpscaleRequest, picture: Picture, timeout_s: float
    ) -> GeneratedImage:
        """What a model makes of a picture."""
        async with self._upscaled(request, picture, timeout_s) as response:
            return await asyncio.to_thread(enlarged_of, await response.aread())

    async def upscale_png(
        self, request: UpscaleRequest, picture: Picture, timeout_s: float
    ) -> AsyncGenerator[bytes, None]:
        """The same as a PNG's pieces, each as soon as it is there and within ``timeout_s``."""
        async with self._upscaled(request, picture, timeout_s) as response:
            async for piece in response.aiter_bytes():
                yield piece

    def frames(
        self, request: UpscaleRequest, pictures: AsyncIterator[Picture], timeout_s: float
    ) -> None:
        """Each is a call of its own."""

    async def models(self) -> list[ModelCard]:
        """The newest card of every model."""
        return await self.ask("GET", "/v1/models", 30.0, _cards)

    async def model(self, name: str, version: int | None = None) -> ModelCard:
        """The card of one model's version; the newest by default."""
        asked = "" if version is None else f"?version={version}"
        return await self.ask("GET", f"/v1/models/{quote(name, safe='')}{asked}", 30.0, _card)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        timeout_s: float,
        read: Callable[[Any], T],
        body: dict[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """What ``read`` makes of the JSON that a gateway answers.

        Raises:
            ServiceError: the gateway's, or the answer isn't one that ``read`` understands.
        """
        with self._told_apart(timeout_s):
            response = await self._http.request(
                method,
                path,
                json=body,
                timeout=timeout_s,
                headers={**self._headers, **_timeout(timeout_s), **(headers or {})},
            )
            if response.is_error:
                _raise(response)
            return read(response.json())

    @asynccontextmanager
    async def _upscaled(
        self, request: UpscaleRequest, picture: Picture, timeout_s: float
    ) -> AsyncIterator[httpx.Response]:
        """A PNG, which a gateway sends while it makes it; its own limit is for each band of it."""
        fields = request.model_dump(exclude_none=True, exclude_defaults=True)
        file = await asyncio.to_thread(as_file, picture)
        headers = {"Accept": "image/png"}
        async with self._answer(
            UPSCALE, timeout_s, headers, data=fields, files={"image": ("image", file)}
        ) as response:
            yield response

    @asynccontextmanager
    async def _answer(
        self,
        path: str,
        timeout_s: float,
        headers: Mapping[str, str],
        *,
        json: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        files: dict[str, tuple[str, Any]] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """What a gateway answers, each piece of it within ``timeout_s``."""
        with self._told_apart(timeout_s):
            async with self._http.stream(
                "POST",
                path,
                json=json,
                data=data,
                files=files,
                timeout=timeout_s,
                headers={**self._headers, **headers},
            ) as response:
                if response.is_error:
                    await response.aread()
                    _raise(response)
                yield response

    @contextmanager
    def _told_apart(self, timeout_s: float) -> Iterator[None]:
        """Raises what a failed request, or another server's answer, stands for."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise DeadlineExceeded(f"no answer within {timeout_s:.3g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            text = f"can't reach {self._http.base_url}: {error or type(error).__name__}"
            raise ConnectionFailed(hinted(self._http.base_url.scheme, text)) from error
        except (ValueError, KeyError, TypeError, OSError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise InternalError(
                f"{self._http.base_url} doesn't answer as a ganforge gateway does: {first}"
            ) from error


def http_client(url: str, tls: Tls) -> httpx.AsyncClient:
    """An httpx client of a gateway's address, with or without ``/v1``.

    Raises:
        ConfigError: it is no such address, or ``tls`` can't be used.
    """
    try:
        parsed = httpx.URL(url)
        if not parsed.host or not 0 < (parsed.port or 80) < 2**16:
            raise httpx.InvalidURL("no host, or no such port")
    except httpx.InvalidURL as error:
        raise ConfigError(f"{url!r} is not an address: {error}") from error
    # OpenAI's clients take the address with /v1, ours without: both are understood
    base_url = url.rstrip("/").removesuffix("/v1")
    # without TLS nobody is believed, and no authorities need be read
    context = tls.context() if parsed.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # no proxy of the environment lies between a machine and itself
    direct = httpx.AsyncHTTPTransport(verify=context) if parsed.host in LOOPBACK else None
    return httpx.AsyncClient(base_url=base_url, verify=context, transport=direct)


def batch_of(received: Any) -> ImageBatch:
    """The images of a gateway's answer.

    Raises:
        ValueError: it isn't one.
    """
    from gan_serving.schema import GenerationResponse

    answer = GenerationResponse.model_validate(received)
    images = tuple(
        GeneratedImage(decoded(base64.b64decode(item.b64_json)), item.seed) for item in answer.data
    )
    return ImageBatch(images, answer.model, answer.version)


def _cards(received: Any) -> list[ModelCard]:
    return [_card(item) for item in received["data"]]


def _card(received: Any) -> ModelCard:
    return ModelCard.model_validate(received["card"])


def _timeout(timeout_s: float) -> dict[str, str]:
    """The server needn't go on for longer than anybody waits."""
    return {"X-Timeout-S": f"{timeout_s:.3f}"}


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
