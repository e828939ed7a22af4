"""What a served model takes and gives: the ModelCard, which travels with the graph.

Torch-free: trainers write it, repositories carry it, servers and clients read it. A client
derives the request schema, defaults and range checks from the ``role`` of each input.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from .levels import DTYPES, BitDepth

__all__ = [
    "CameraInput",
    "DataSource",
    "ImageInput",
    "ImageOutput",
    "Input",
    "LabelInput",
    "LatentInput",
    "ModelCard",
    "Provenance",
    "Resampling",
    "Score",
    "StyleInput",
    "TensorSpec",
    "TextInput",
    "TruncationInput",
    "is_name",
    "truncation_of",
]

NAMES = "1 to 64 lower-case letters a-z, digits and _"
"""What a model's name is made of."""
OUTPUT_NAME = "image"
PARITY_LEVELS = 1
"""Largest accepted difference between torch and the exported graph, in levels of 255."""


def is_name(name: str) -> bool:
    """Whether a model may be called so; nothing else ever becomes a path."""
    return re.fullmatch(r"[a-z0-9_]{1,64}", name) is not None


def _named(name: str) -> str:
    if not is_name(name):
        raise ValueError(f"use {NAMES}")
    return name


class TensorSpec(NamedTuple):
    """Name, numpy dtype and per-sample shape (without the batch axis; -1 = dynamic)."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class _Frozen(BaseModel):
    # deferred: a client that only generates never builds the card's validators
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Resampling(_Frozen):
    """Truncation of a normal latent: elements beyond ±threshold are drawn again.

    Brock et al. 2019, §3.1: less is more typical and less varied.
    """

    minimum: float = Field(default=0.04, gt=0)
    maximum: float = Field(default=2.0, gt=0)
    """Thresholds that a request may ask for; untruncated where it names none."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Resampling:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        return self


class LatentInput(_Frozen):
    """Input latent z: float32 [N, dim], drawn from the prior the generator was trained on."""

    role: Literal["latent"] = "latent"
    name: str = "z"
    dim: int = Field(ge=1)
    """Length of z."""
    distribution: Literal["normal", "uniform"] = "normal"
    """Prior per element: standard normal, or uniform on [-1, 1]."""
    truncation: Resampling | None = None
    """Whether the prior can be truncated, and how far."""

    @model_validator(mode="after")
    def _only_a_normal_is_truncated(self) -> LatentInput:
        if self.truncation and self.distribution != "normal":
            raise ValueError("only a normal latent can be truncated")
        return self

    @property
    def tensor(self) -> TensorSpec:
        """The served tensor."""
        return TensorSpec(self.name, "float32", (self.dim,))


class LabelInput(_Frozen):
    """Class index: int64 [N, 1]."""

    role: Literal["label"] = "label"
    name: str = "label"
    classes: tuple[str, ...] = Field(min_length=1)
    """Class names; the index is the position."""

    @property
    def tensor(self) -> TensorSpec:
        """The served tensor."""
        return TensorSpec(self.name, "int64", (1,))


class TruncationInput(_Frozen):
    """Truncation ψ: float32 [N, 1]; 1 is none, less is more typical and less varied."""

    role: Literal["truncation"] = "truncation"
    name: str = "truncation"
    default: float = 1.0
    """Used where a request names none."""
    minimum: float = 0.0
    maximum: float = 1.0
    cutoff_layers: int | None = None
    """Only the first so many layers are truncated; None = all."""

    @property
    def tensor(self) -> TensorSpec:
        """The served tensor."""
        return TensorSpec(self.name, "float32", (1,))


class TextInput(_Frozen):
    """Sentence embedding: float32 [N, dim]."""

    role: Literal["text"] = "text"
    name: str = "text"
    encoder: str
    """Identity of the encoder that makes the embedding."""
    dim: int = Field(ge=1)
    """Length of the embedding."""

    @property
    def tensor(self) -> TensorSpec:
        """The served tensor."""
        return TensorSpec(self.name, "float32", (self.dim,))


class ImageInput(_Frozen):
    """Source image: uint8 [N, h, w, channels] (uint16 where bit_depth is 16)."""

    role: Literal["image"] = "image"
    name: str = "source"
    channels: Literal[1, 3, 4] = 3
    bit_depth: BitDepth = 8
    multiple_of: int = Field(default=1, ge=1)
    """Height and width are multiples of this, in px."""
    min_side_px: int = Field(default=1, ge=1)
    max_side_px: int = Field(default=4096, ge=1)
    tile_px: int | None = None
    """Side of the tile that large images are cut into; None = never cut."""
    halo_px: int = Field(default=0, ge=0)
    """Overlap on each side of a tile, at least the receptive field's radius."""

    @model_validator(mode="after")
    def _some_side_is_allowed(self) -> ImageInput:
        largest = self.max_side_px // self.multiple_of * self.multiple_of
        if largest < max(self.min_side_px, 1):
            raise ValueError(
                f"no multiple of {self.multiple_of} is between min_side_px {self.min_side_px} "
                f"and max_side_px {self.max_side_px}"
            )
        return self

    @model_validator(mode="after")
    def _a_tile_can_be_cut(self) -> ImageInput:
        side = self.tile_px
        if side is None:
            return self
        if side <= 2 * self.halo_px:
            raise ValueError(f"nothing is left of tile_px {side} within halo_px {self.halo_px}")
        if side % self.multiple_of or not self.min_side_px <= side <= self.max_side_px:
            raise ValueError(
                f"tile_px {side} is not a multiple of {self.multiple_of} from min_side_px "
                f"{self.min_side_px} to max_side_px {self.max_side_px}"
            )
        return self

    @property
    def tensor(self) -> TensorSpec:
        """The served tensor."""
        return TensorSpec(self.name, DTYPES[self.bit_depth].name, (-1, -1, self.channels))


class CameraInput(_Frozen):
    """Camera pose (yaw, pitch) in radians: float32 [N, 2]."""

    role: Literal["camera"] = "camera"
    name: str = "camera"
    yaw_rad: tuple[float, float]
    """Range of the yaw seen in training."""
    pitch_rad: tuple[float, float]
    """Range of the pitch seen in training."""

    @property
    def tensor(self) -> TensorSpec:
        """The served tensor."""
        return TensorSpec(self.name, "float32", (2,))


class StyleInput(_Frozen):
    """Mapped latent per layer w+: float32 [N, layers, dim]."""

    role: Literal["style"] = "style"
    name: str = "w"
    layers: int = Field(ge=1)
    dim: int = Field(ge=1)

    @property
    def tensor(self) -> TensorSpec:
        """The served tensor."""
        return TensorSpec(self.name, "float32", (self.layers, self.dim))


Input = Annotated[
    LatentInput | LabelInput | TruncationInput | TextInput | ImageInput | CameraInput | StyleInput,
    Field(discriminator="role"),
]
"""One served tensor; its role is all a client needs to know."""


def truncation_of(inputs: Sequence[Input]) -> TruncationInput | Resampling | None:
    """What takes a truncation, and its range: an input of its own, or a latent's prior."""
    for item in inputs:
        if isinstance(item, TruncationInput):
            return item
    latents = (item.truncation for item in inputs if isinstance(item, LatentInput))
    return next(filter(None, latents), None)


class ImageOutput(_Frozen):
    """The served image: uint8 [N, H, W, channels] (uint16 where bit_depth is 16)."""

    height: int | None = Field(default=None, ge=1)
    """In px; None where it follows the input."""
    width: int | None = Field(default=None, ge=1)
    """In px; None where it follows the input."""
    channels: Literal[1, 3, 4]
    bit_depth: BitDepth = 8
    scale: int = Field(default=1, ge=1)
    """Output px per input px."""

    @property
    def tensor(self) -> TensorSpec:
        """The served tensor."""
        dtype = DTYPES[self.bit_depth].name
        return TensorSpec(OUTPUT_NAME, dtype, (self.height or -1, self.width or -1, self.channels))


class DataSource(_Frozen):
    """What a model was trained on."""

    name: str
    fingerprint: str
    """sha256 over the pixels and labels."""
    licence: str = "unknown"


class Provenance(_Frozen):
    """How a score was measured; scores of different provenance can't be compared."""

    extractor: str
    """Feature extractor and the first 12 hex digits of its weights' sha256."""
    resize: str
    """Filter that brought images to the extractor's size, or ``none``."""
    reference: str
    """Reference set and its fingerprint."""
    samples: int
    """Generated images."""
    seed: int
    """Of the first generated image."""
    truncation: float | None = None
    ema: bool | None = None
    """Whether the exponential moving average of the weights was measured; None where nobody
    knows."""
    graph: Literal["onnx", "torch"] = "onnx"
    border_px: int | None = None
    """Of pairs of images: what is left out at each edge."""
    degradation: str | None = None
    """Of upscalers: how the small pictures were made."""


class Score(_Frozen):
    """One metric's value and how it was measured."""

    metric: str
    value: float
    sd: float | None = None
    """How far it scatters, of metrics that say so."""
    caveats: tuple[str, ...] = ()
    """What must be known to read it, such as too few images."""
    provenance: Provenance


class ModelCard(_Frozen):
    """Everything a client needs to know of a served model. Immutable, a JSON round trip."""

    model: Annotated[str, AfterValidator(_named)]
    """Name it is served under."""
    variant: str
    """The plugin's variant that trained it."""
    task: str = "unconditional"
    inputs: tuple[Input, ...] = Field(min_length=1)
    output: ImageOutput
    opset: int
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the ONNX file."""
    parity_levels: int = Field(ge=0)
    """Largest difference between torch and onnxruntime at export, in levels of the output."""
    trained_kimg: float
    """10³ real images seen."""
    ema: bool | None = None
    """Whether its weights are a moving average; None where nobody knows."""
    data: DataSource
    metrics: tuple[Score, ...] = ()
    created: datetime

    @field_validator("inputs")
    @classmethod
    def _names_are_unique(cls, inputs: tuple[Input, ...]) -> tuple[Input, ...]:
        names = [item.name for item in inputs]
        if len({*names, OUTPUT_NAME}) != len(names) + 1:
            raise ValueError(f"input names must be unique and not {OUTPUT_NAME!r}: {names}")
        return inputs

    @model_validator(mode="after")
    def _created_is_utc(self) -> ModelCard:
        if self.created.tzinfo is None:
            raise ValueError("created needs a time zone")
        return self

    def signature(self) -> tuple[tuple[Input, ...], ImageOutput]:
        """What goes in and comes out: what must not change between versions of a model."""
        return self.inputs, self.output

    def input(self, role: str) -> Input | None:
        """The input of that role, or None."""
        return next((item for item in self.inputs if item.role == role), None)

    @property
    def can_be_truncated(self) -> bool:
        """Whether a request may name a truncation."""
        return truncation_of(self.inputs) is not None
