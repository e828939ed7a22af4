"""What a client asks for, as a request that a server would take."""

from __future__ import annotations

import base64
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Required, TypedDict, TypeVar, Unpack

from gan_core.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gan_serving.schema import GenerationRequest

__all__ = ["Asked", "plain", "request_of"]

T = TypeVar("T")


class Asked(TypedDict, total=False):
    """The arguments of ``images.generate``, which says what each means."""

    model: Required[str]
    n: int | None
    version: int | None
    seed: int | None
    label: int | str | None
    labels: Sequence[int | str] | None
    truncation: float | None
    latents: ArrayLike | None


def request_of(**asked: Unpack[Asked]) -> GenerationRequest:
    """The request of these arguments.

    Raises:
        InvalidRequest: one is missing, unknown or out of range.
    """
    from gan_serving.schema import parsed  # building its validators isn't the import's price

    raw, count = _raw(asked.get("latents"))
    n, labels = asked.get("n"), asked.get("labels")
    return parsed(
        **{
            **asked,
            "n": count if n is None else n,
            "seed": plain(asked.get("seed")),
            "label": plain(asked.get("label")),
            "labels": None if labels is None else [plain(label) for label in labels],
            "latents": raw,
        }
    )


def plain(value: T) -> T | int:
    """NumPy's integers as Python's: they are what labels and seeds come from."""
    if isinstance(value, str | bool) or not hasattr(value, "__index__"):
        return value
    return operator.index(value)


def _raw(latents: ArrayLike | None) -> tuple[str | None, int | None]:
    """Latents as base64 of little-endian float32, and how many."""
    if latents is None:
        return None, None
    import numpy as np

    try:
        with np.errstate(over="ignore"):  # what is too large for float32 is refused as infinite
            array = np.atleast_2d(np.asarray(latents, dtype="<f4"))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"latents: not an array of numbers: {error}", param="latents") from (
            error
        )
    return base64.b64encode(array.tobytes()).decode(), len(array)
