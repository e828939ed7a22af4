"""What is sent of a generation: its images' bytes, and what they are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gan_serving.encode import Encoded, files

from .messages import FORMATS, RAW

if TYPE_CHECKING:
    from gan_serving.service import Generation

__all__ = ["data_of", "fields_of"]


async def data_of(
    generation: Generation,
    output_format: int,
    quality: int | None,
    encoded: Encoded,
) -> list[bytes]:
    """Each image as a file of the format, or as its pixels."""
    if output_format == RAW:
        return [image.tobytes() for image in generation.images]
    began, kind = time.perf_counter(), FORMATS[output_format]
    made = await files(generation.images, kind, quality, generation.profile)
    encoded(kind, len(made), time.perf_counter() - began)
    return made


def fields_of(generation: Generation, output_format: int) -> dict[str, Any]:
    """What answers say of an image beside its data."""
    _, height, width, channels = generation.images.shape
    return {
        "model": generation.model,
        "version": generation.version,
        "height": height,
        "width": width,
        "channels": channels,
        "output_format": output_format,
    }
