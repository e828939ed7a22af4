"""What a gateway sends line by line, as images and samples."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from gan_core.errors import SERVICE_ERRORS, ConnectionFailed, InternalError, ServiceError

from .augmentation import Sample
from .images import GeneratedImage, decoded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from gan_serving.augmenting import Origin

__all__ = ["images_of", "samples_of"]

CUT = "the connection was closed before the stream was complete"


async def images_of(lines: AsyncIterator[str], n: int) -> AsyncGenerator[GeneratedImage, None]:
    """The n images of server-sent events.

    Raises:
        ServiceError: the stream ended with one, or too early.
        ValueError, KeyError, TypeError: the server sends something else.
    """
    async for line in lines:
        if line.startswith("data: "):
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise _error_of(event)
            yield _image(event)
            n -= 1
    if n:
        raise ConnectionFailed(CUT)


async def samples_of(lines: AsyncIterator[str]) -> AsyncGenerator[Sample, None]:
    """The samples of ``/v1/augment``.

    Raises:
        ServiceError: the stream ended with one, or too early.
        ValueError, KeyError, TypeError: the server sends something else.
    """
    origin = _origin(json.loads(await anext(lines, "{}")))
    async for line in lines:
        found = json.loads(line)
        if "error" in found:
            raise _error_of(found)
        if found["type"] == "augment.completed":
            return
        label, name = found["label"], found["class_name"]
        yield Sample(found["index"], _image(found), label, name, origin)
    raise ConnectionFailed(CUT)


def _origin(started: dict[str, Any]) -> Origin:
    from gan_serving.augmenting import Origin

    if not started:
        raise ConnectionFailed(CUT)
    return Origin(started["model"], started["version"], started["sha256"], started["licence"])


def _image(found: dict[str, Any]) -> GeneratedImage:
    return GeneratedImage(decoded(base64.b64decode(found["b64_json"])), found["seed"])


def _error_of(problem: dict[str, Any]) -> ServiceError:
    error = problem["error"]
    kind = SERVICE_ERRORS.get(error["code"], InternalError)
    return kind(error["message"], param=error["param"], request_id=problem["request_id"])
