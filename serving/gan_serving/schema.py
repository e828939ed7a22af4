"""What goes over the wire: request and response bodies in OpenAI's shapes, with ours as extras."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from gan_core.card import ModelCard
from gan_core.errors import InvalidRequest, ServiceError
from gan_core.latents import SEED_LIMIT

__all__ = [
    "FORMATS",
    "MAX_COUNT",
    "AugmentRequest",
    "Format",
    "GenerationRequest",
    "GenerationResponse",
    "ImageData",
    "ImageRequest",
    "JobInfo",
    "ModelInfo",
    "ModelList",
    "Problem",
    "UpscaleBody",
    "UpscaleForm",
    "UpscaleRequest",
    "Usage",
    "explained",
    "parsed",
    "problem",
    "validated",
]

PROBLEM_TYPE = "application/problem+json"
Format = Literal["png", "jpeg", "webp"]
FORMATS: tuple[Format, ...] = get_args(Format)
MAX_COUNT = 1_000_000
"""Images of one stream; the next million begins at another seed."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, defer_build=True)


def _no_prompt(prompt: str) -> str:
    if prompt:
        raise PydanticCustomError("prompt", "no model here takes text: leave the prompt empty")
    return prompt


class _Answer(_Body):
    model_config = ConfigDict(extra="ignore")  # an older client reads what a newer server adds


class ImageRequest(_Body):
    """What every request for images says."""

    model: Annotated[StrictStr, Field(min_length=1, max_length=64, examples=["digits_dcgan"])]
    """Name of a published model."""
    version: Annotated[StrictInt, Field(ge=1)] | None = None
    """One of the versions that serve; the newest by default."""
    output_format: Format = "png"
    """Of the files: PNG is lossless, and so is WebP at full quality."""
    output_compression: Annotated[StrictInt, Field(ge=0, le=100)] | None = None
    """Quality of JPEG and WebP in percent; 100 by default."""
    response_format: Literal["b64_json"] = "b64_json"
    """Files come in the answer, or as such with ``Accept: image/*``; there are no URLs."""
    user: Annotated[StrictStr, Field(max_length=256)] | None = None
    """Ignored; for OpenAI's clients."""


class GenerationRequest(ImageRequest):
    """Body of ``POST /v1/images/generations``."""

    n: Annotated[StrictInt, Field(ge=1)] | None = None
    """Images; as many as there are labels or latents, or 1, by default."""
    seed: Annotated[StrictInt, Field(ge=0, lt=SEED_LIMIT)] | None = None
    """Image i is a function of seed + i alone; drawn by the server by default, and returned."""
    label: StrictInt | StrictStr | None = None
    """Class of every image, by index or name; models with classes only."""
    labels: Annotated[list[StrictInt | StrictStr], Field(min_length=1)] | None = None
    """Class of each image."""
    truncation: Annotated[float, Field(strict=True, allow_inf_nan=False)] | None = None
    """Truncation ψ; models with truncation only."""
    latents: Annotated[list[list[float]], Field(min_length=1)] | StrictStr | None = None
    """z itself, n × dim numbers, or base64 of little-endian float32; a seed is ignored then."""
    size: StrictStr = Field(default="auto", max_length=16)
    """``auto``, or ``WIDTHxHEIGHT`` as the model makes it."""
    stream: StrictBool = False
    """Server-sent events, one per image as soon as it is there."""
    prompt: Annotated[StrictStr, AfterValidator(_no_prompt)] | None = None
    """For OpenAI's clients, which insist on one: empty, as no model here takes text."""
    quality: Literal["auto", "standard"] | None = None
    """Ignored; for OpenAI's clients."""


class UpscaleRequest(ImageRequest):
    """What ``POST /v1/images/upscale`` says beside the picture."""


def _without_null(document: dict[str, Any]) -> None:
    """A form's field isn't null: it is left out."""
    for field in document["properties"].values():
        for kind in field.pop("anyOf", ()):
            if kind != {"type": "null"}:
                field.update(kind)
                field.pop("default", None)


class UpscaleForm(UpscaleRequest):
    """Body of ``POST /v1/images/upscale`` as a form."""

    model_config = ConfigDict(json_schema_extra=_without_null)

    image: Annotated[bytes, WithJsonSchema({"type": "string", "format": "binary"})]
    """A PNG, JPEG or WebP."""


class UpscaleBody(UpscaleRequest):
    """Body of ``POST /v1/images/upscale`` as JSON."""

    image: Annotated[StrictStr, Field(json_schema_extra={"contentEncoding": "base64"})]
    """A PNG, JPEG or WebP, base64."""


class AugmentRequest(_Body):
    """Body of ``POST /v1/augment``: ``count`` or ``per_class`` says how many images."""

    model: Annotated[StrictStr, Field(min_length=1, max_length=64, examples=["digits_cgan"])]
    """Name of a published model."""
    version: Annotated[StrictInt, Field(ge=1)] | None = None
    """Of the whole stream; the newest at its start by default. A resumed stream names it."""
    count: Annotated[StrictInt, Field(ge=1, le=MAX_COUNT)] | None = None
    """Images; of a model with classes, classes go round with the seeds."""
    per_class: (
        Annotated[
            dict[StrictStr, Annotated[StrictInt, Field(ge=1, le=MAX_COUNT)]],
            Field(min_length=1, examples=[{"3": 500, "7": 250}]),
        ]
        | None
    ) = None
    """Images of each class, by its name or index; spread evenly over the stream."""
    seed: Annotated[StrictInt, Field(ge=0, lt=SEED_LIMIT)] | None = None
    """Image i is a function of the version, seed + i and its class; drawn by the server by
    default, and returned. A resumed stream names it."""
    offset: Annotated[StrictInt, Field(ge=0)] = 0
    """Images that are there already: the stream begins after them."""
    sha256: Annotated[StrictStr, Field(max_length=64)] | None = None
    """Of the version's graph, as the stream began with it: another one is refused."""
    truncation: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Truncation ψ; models with truncation only."""
    output_format: Format = "png"
    """Of the files: PNG is lossless, and so is WebP at full quality."""
    output_compression: Annotated[StrictInt, Field(ge=0, le=100)] | None = None
    """Quality of JPEG and WebP in percent; 100 by default."""

    @property
    def total(self) -> int:
        """Images of the whole stream, whatever its offset."""
        return self.count or sum((self.per_class or {}).values())


class ImageData(_Answer):
    """One image."""

    b64_json: str
    """The file, base64."""
    seed: int | None
    """Makes this image again, with n = 1 and the same label and truncation; None where the
    request gave latents or a picture."""


class Usage(_Answer):
    """What a request cost."""

    images: int
    compute_ms: float
    """From validation to pixels."""


class GenerationResponse(_Answer):
    """Answer of ``POST /v1/images/generations``."""

    created: int
    """Unix time."""
    data: list[ImageData]
    model: str
    version: int
    output_format: Format = "png"
    size: str
    """``WIDTHxHEIGHT``."""
    usage: Usage


class ModelInfo(_Answer):
    """One model, as OpenAI lists them, and its card."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Unix time of the newest version's export."""
    owned_by: str = "ganforge"
    version: int
    """The one that answers where none is named."""
    versions: list[int]
    """Those that serve."""
    card: ModelCard
    """That version's, or that of the one asked for: inputs with their ranges, output, scores."""


class ModelList(_Answer):
    """Answer of ``GET /v1/models``."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class JobInfo(_Answer):
    """A request whose answer is fetched later."""

    id: str
    object: Literal["job"] = "job"
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    created: int
    """Unix time."""
    model: str
    n: int
    """Images."""
    problem: dict[str, Any] | None = None
    """Why it failed."""


class ErrorDetail(_Answer):
    """The error as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    """The request's field at fault, where there is one."""
    code: str


class Problem(_Answer):
    """Every error's body (RFC 9457)."""

    type: str
    """``urn:ganforge:problem:`` and the code."""
    title: str
    status: int
    detail: str
    request_id: str
    error: ErrorDetail


BodyT = TypeVar("BodyT", bound=_Body)


def parsed(**fields: Any) -> GenerationRequest:
    """A request from keyword arguments, None left out.

    Raises:
        InvalidRequest: a field is missing, unknown or out of range.
    """
    return validated(GenerationRequest, fields)


def validated(kind: type[BodyT], fields: Mapping[str, Any]) -> BodyT:
    """A body of that kind from its fields; None where it may be missing is left out.

    Raises:
        InvalidRequest: a field is missing, unknown or out of range.
    """
    try:
        required = {name for name, field in kind.model_fields.items() if field.is_required()}
        given = {k: value for k, value in fields.items() if value is not None or k in required}
        return kind.model_validate(given)
    except ValidationError as error:
        raise explained(error.errors(include_url=False)) from error


def explained(errors: Any) -> InvalidRequest:
    """Pydantic's findings as one error that names every field, its value and what would do."""
    texts: dict[str, list[str]] = {}
    for item in errors:
        # a union's findings name its branches too; the field alone is what a user knows
        field = str(item["loc"][0]) if item["loc"] else "body"
        given = f" (given {_short(item['input'])})" if item["type"] != "missing" else ""
        texts.setdefault(field, []).append(f"{item['msg']}{given}")
    message = "; ".join(f"{field}: {found[0]}" for field, found in texts.items())
    return InvalidRequest(message, param=next(iter(texts), None))


def problem(error: ServiceError, request_id: str) -> dict[str, Any]:
    """An RFC 9457 problem, with the ``error`` member that OpenAI's clients read."""
    return {
        "type": f"urn:ganforge:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.message,
        "request_id": request_id,
        "error": {
            "message": error.message,
            "type": error.kind,
            "param": error.param,
            "code": error.code,
        },
    }


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
