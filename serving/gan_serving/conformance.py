"""The conformance check that serving adds: what is exported can be published and served."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gan_core.latents import draw, oblong

from .ort_engine import OrtEngine
from .repository import publish
from .schema import UpscaleRequest, parsed
from .service import ImageService
from .upscaling import upscale

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gan_core.card import ModelCard

__all__ = ["check_served"]

REQUESTS: tuple[dict[str, Any], ...] = (
    {"n": 3, "seed": 5},
    *({"n": 1, "seed": 5 + i} for i in range(3)),
)


def check_served(card: ModelCard, directory: Path) -> None:
    """Publish what is in ``directory`` and ask for images, or have pictures enlarged.

    Raises:
        PublishError: a repository refuses it.
        ValueError: a batch gives other images than its members alone.
        ServiceError: a picture can't be enlarged.
    """
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        publish(directory, repository)
        check = _upscaled if [item.role for item in card.inputs] == ["image"] else _generated
        asyncio.run(check(repository, card))


async def _generated(repository: Path, card: ModelCard) -> None:
    async with _service(repository) as service:
        together, *alone = [
            await service.generate(parsed(model=card.model, **one)) for one in REQUESTS
        ]
    single = np.concatenate([one.images for one in alone]).astype(int)
    difference = np.abs(together.images.astype(int) - single).max()
    if difference > 1 or together.seeds != (5, 6, 7):
        raise ValueError(
            f"n = 3 differs from three times n = 1 by {difference} levels; seeds {together.seeds}"
        )


async def _upscaled(repository: Path, card: ModelCard) -> None:
    (pictures,) = oblong(card.inputs, draw(card.inputs, [5])).values()
    async with _service(repository) as service:
        await upscale(service, UpscaleRequest(model=card.model), pictures[0])


@asynccontextmanager
async def _service(repository: Path) -> AsyncIterator[ImageService]:
    engine = OrtEngine(repository, cores=1)
    try:
        yield ImageService(engine)
    finally:
        await engine.close()
