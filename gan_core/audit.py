"""The memorisation audit: which generated images are nearest to a training image, to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import ConfigError
from .evaluation import Extractor, see, see_reference
from .grid import grid
from .latents import SEED_LIMIT
from .metrics import nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from .data import Images
    from .sources import Source

__all__ = ["audit"]

LEGIBLE_PX = 64


def audit(
    source: Source,
    images: Images,
    extractor: Extractor,
    *,
    samples: int,
    seed: int = 0,
    show: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Image.Image, list[int]]:
    """A picture of the ``show`` fakes nearest to a real, each above it, and their seeds.

    The nearest first, by distance of features over that of the real to its own nearest real: what
    is well below 1 looks learnt by heart.

    Raises:
        ConfigError: of points, or of a single real image.
    """
    if images.resolution_px == 1:
        raise ConfigError("points have no picture: an audit is of images")
    if len(images) < 2:
        raise ConfigError(f"{images.source.name} has one image: an audit needs at least 2")
    pixels = []
    kept = 0
    for batch in source.images(seed, samples):
        pixels.append(batch)
        kept += len(batch)
        progress(kept, samples)
    fake, real = see(extractor, iter(pixels)), see_reference(extractor, images)
    index, distance = nearest(real.features, fake.features)
    apart = np.maximum(real.radii(1)[index], 1e-12)
    order = np.argsort(distance / apart)[:show]
    fakes = np.concatenate(pixels)[order]
    reals = images.pixels[index[order]].transpose(0, 2, 3, 1)
    picture = grid(np.concatenate([fakes, reals]), columns=len(order))
    enlarged = max(1, LEGIBLE_PX // images.resolution_px)
    whole = picture.resize((picture.width * enlarged, picture.height * enlarged), 0)
    return whole, [(seed + i) % SEED_LIMIT for i in order.tolist()]
