"""Generation requests as protobuf messages and back."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

import numpy as np

from gan_core.errors import InvalidRequest
from gan_serving.schema import UpscaleRequest, parsed, validated

from .image_service_pb2 import GenerateRequest, GetModelRequest, Label, OutputFormat, UpscaleChunk

if TYPE_CHECKING:
    from gan_serving.schema import Format, GenerationRequest

__all__ = [
    "FORMATS",
    "RAW",
    "message_of",
    "model_message",
    "request_of",
    "upscale_message",
    "upscale_of",
]

RAW = OutputFormat.OUTPUT_FORMAT_RAW
FORMATS: dict[int, Format] = {
    OutputFormat.OUTPUT_FORMAT_PNG: "png",
    OutputFormat.OUTPUT_FORMAT_JPEG: "jpeg",
    OutputFormat.OUTPUT_FORMAT_WEBP: "webp",
    RAW: "png",
}
"""As the schema names them; RAW is this face's own, and the schema's default will do."""
OPTIONAL = ("version", "n", "seed", "truncation", "size")


def request_of(message: GenerateRequest) -> GenerationRequest:
    """What a message asks for, checked as a request over HTTP is.

    Raises:
        InvalidRequest: a field is missing or out of range.
    """
    _check_format(message.output_format)
    given = (*OPTIONAL, "output_compression")
    fields = {name: getattr(message, name) for name in given if message.HasField(name)}
    return parsed(
        **fields,
        model=message.model,
        label=_value(message.label, "label") if message.HasField("label") else None,
        labels=[_value(label, "labels") for label in message.labels] or None,
        latents=(
            base64.b64encode(message.latents).decode() if message.HasField("latents") else None
        ),
        output_format=FORMATS[message.output_format],
    )


def message_of(request: GenerationRequest) -> GenerateRequest:
    """The message that asks for a request's images, as pixels.

    Raises:
        InvalidRequest: a number is too large for its field, or the latents are no array.
    """
    message = GenerateRequest(model=request.model, output_format=RAW)
    for name in OPTIONAL:
        value = getattr(request, name)
        if value is not None:
            with _Named(name, value):
                setattr(message, name, value)
    if request.label is not None:
        message.label.CopyFrom(_label(request.label, "label"))
    message.labels.extend(_label(label, "labels") for label in request.labels or ())
    if request.latents is not None:
        message.latents = _raw(request.latents)
        if not isinstance(request.latents, str) and request.n is None:
            message.n = len(request.latents)
    return message


def upscale_of(message: UpscaleChunk) -> UpscaleRequest:
    """What a stream's first message asks for, checked as a request over HTTP is.

    Raises:
        InvalidRequest: a field is missing or out of range.
    """
    _check_format(message.output_format)
    given = ("version", "output_compression")
    fields = {name: getattr(message, name) for name in given if message.HasField(name)}
    kind = FORMATS[message.output_format]
    return validated(UpscaleRequest, {**fields, "model": message.model, "output_format": kind})


def upscale_message(request: UpscaleRequest) -> UpscaleChunk:
    """What a stream's first message says beside its picture, to get pixels.

    Raises:
        InvalidRequest: a value doesn't fit its field.
    """
    message = UpscaleChunk(output_format=RAW)
    _fill(message, model=request.model, version=request.version)
    return message


def model_message(name: str, version: int | None = None) -> GetModelRequest:
    """The message that asks for a model's card.

    Raises:
        InvalidRequest: a value doesn't fit its field.
    """
    message = GetModelRequest()
    _fill(message, model=name, version=version)
    return message


def _fill(message: GetModelRequest | UpscaleChunk, *, model: str, version: int | None) -> None:
    for field, value in (("model", model), ("version", version)):
        if value is not None:
            with _Named(field, value):
                setattr(message, field, value)


def _check_format(output_format: int) -> None:
    if output_format not in FORMATS:
        raise InvalidRequest(
            f"output_format: {int(output_format)} is none of "
            + ", ".join(f"{number} ({name})" for name, number in OutputFormat.items()),
            param="output_format",
        )


class _Named:
    """Names the field whose value protobuf refuses."""

    def __init__(self, field: str, value: object) -> None:
        self._field, self._value = field, value

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError | UnicodeEncodeError):
            raise InvalidRequest(
                f"{self._field}: {self._value!r} doesn't fit its field: {error}", param=self._field
            ) from error


def _value(label: Label, field: str) -> int | str:
    match label.WhichOneof("value"):
        case "index":
            return label.index
        case "name":
            return label.name
    raise InvalidRequest(f"{field}: a label needs an index or a name", param=field)


def _label(value: int | str, field: str) -> Label:
    with _Named(field, value):
        return Label(index=value) if isinstance(value, int) else Label(name=value)


def _raw(latents: list[list[float]] | str) -> bytes:
    try:
        if isinstance(latents, str):
            return base64.b64decode(latents, validate=True)
        with np.errstate(over="ignore"):  # what is too large is refused as infinite
            return np.array(latents, dtype="<f4").tobytes()
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"latents: not an array of numbers: {error}", param="latents") from (
            error
        )
