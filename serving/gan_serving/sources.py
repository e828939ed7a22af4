"""The images of a published model, for scores: asked for as any client would."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gan_client import Client
from gan_core.sources import Source, of_card

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["model_source"]

REQUEST = 32
"""Images per request."""


def model_source(
    model: str, version: int | None, url: str, truncation: float | None = None
) -> Source:
    """Where the images of a model come from.

    Raises:
        ConfigError: ``url`` is no address, or the model doesn't take that truncation.
        ServiceError: the server can't be reached, or doesn't have the model.
    """
    with Client(url) as client:
        card = client.models.retrieve(model, version)

    def images(seed: int, n: int) -> Iterator[NDArray[np.uint8]]:
        with Client(url) as client:
            for start in range(0, n, REQUEST):
                count = min(REQUEST, n - start)
                found = client.images.generate(
                    model=model,
                    version=version,
                    n=count,
                    seed=(seed + start) % 2**64,
                    truncation=truncation,
                )
                yield found.numpy()

    return of_card(card, images, truncation, version)
