"""The conformance check that serving adds: what is exported can be published and served."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .ort_engine import OrtEngine
from .repository import publish
from .schema import parsed
from .service import Generation, ImageService

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gan_core.card import ModelCard

__all__ = ["check_served"]

REQUESTS: tuple[dict[str, Any], ...] = (
    {"n": 3, "seed": 5},
    *({"n": 1, "seed": 5 + i} for i in range(3)),
)


def check_served(card: ModelCard, directory: Path) -> None:
    """Publish what is in ``directory`` and ask for images.

    Raises:
        PublishError: a repository refuses it.
        ValueError: a batch gives other images than its members alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        publish(directory, repository)
        together, *alone = asyncio.run(_generate(repository, card.model, REQUESTS))
    single = np.concatenate([one.images for one in alone]).astype(int)
    difference = np.abs(together.images.astype(int) - single).max()
    if difference > 1 or together.seeds != (5, 6, 7):
        raise ValueError(
            f"n = 3 differs from three times n = 1 by {difference} levels; seeds {together.seeds}"
        )


async def _generate(
    repository: Path, model: str, requests: Sequence[dict[str, Any]]
) -> list[Generation]:
    engine = OrtEngine(repository, cores=1)
    service = ImageService(engine)
    try:
        return [await service.generate(parsed(model=model, **one)) for one in requests]
    finally:
        await engine.close()
