"""Images of a network that is still in training, or hasn't been exported: for scores."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from .card import LatentInput
from .console import errors
from .crops import Crops
from .data import Images, TrainingData
from .errors import ConfigError
from .evaluation import score
from .export import ServedGenerator, rendered
from .held_out import enlarged_by, held_out_scores, usual_metrics
from .latents import draw, interpolated, seed_range
from .sources import EPSILON, Source
from .variant import is_points

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .loop import Scorer
    from .plugins import Plugins
    from .run import Run

__all__ = ["along_paths", "of_network", "scorer_of"]

PATH_BATCH = 64


@torch.no_grad()
def along_paths(
    served: ServedGenerator, seed: int, n: int, truncation: float | None = None
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Images of two latents that are a small step apart, as floats of 0 to 255."""
    (latent,) = (item for item in served.inputs if isinstance(item, LatentInput))
    for start in range(0, n, PATH_BATCH):
        seeds = seed_range(seed + start, min(PATH_BATCH, n - start))
        inputs = draw(served.inputs, seeds, truncation)
        others = draw([latent], [(s + 2**63) % 2**64 for s in seeds], truncation)
        ends = inputs[latent.name], others[latent.name]
        t = np.random.Generator(np.random.Philox(key=seeds[0])).random((len(seeds), 1))
        made = []
        for at in (t, t + EPSILON):
            between = interpolated if latent.distribution == "normal" else _straight
            inputs[latent.name] = between(*ends, at).astype(np.float32)
            images = served.images(*map(torch.from_numpy, inputs.values()))
            made.append(((images + 1) * 127.5).permute(0, 2, 3, 1).numpy())
        yield made[0], made[1]


def _straight(
    a: NDArray[np.float32], b: NDArray[np.float32], t: NDArray[np.float64]
) -> NDArray[np.float64]:
    return (1 - t) * a + t * b


def of_network(served: ServedGenerator, run: Run) -> Source:
    """What torch makes, of images or of points."""
    config = run.config

    @torch.no_grad()
    def points(seed: int, n: int) -> Iterator[NDArray[np.float32]]:
        device = next(served.parameters()).device
        inputs = draw(served.inputs, seed_range(seed, n)).values()
        made = served.images(*(torch.from_numpy(value).to(device) for value in inputs))
        yield made.permute(0, 2, 3, 1).cpu().numpy()

    return Source(
        name=str(run.path),
        inputs=served.inputs,
        resolution_px=config.resolution_px,
        channels=config.channels,
        data=run.data,
        images=points if is_points(config) else partial(rendered, served, config.resolution_px),
        graph="torch",
        ema=config.ema_halflife_kimg > 0,
    )


def scorer_of(run: Run, data: TrainingData, plugins: Plugins) -> Scorer | None:
    """Measures the data's own metrics, if the run asks for it."""
    if not run.config.score_kimg:
        return None
    if isinstance(data, Crops) and run.variant.task == "super-resolution":
        return _scorer_of_upscaler(run, data)
    if not isinstance(data, Images):
        raise ConfigError(f"score_kimg needs images to compare with, not a {type(data).__name__}")
    dataset = plugins.pick("dataset", run.data.partition(":")[0], plugins.datasets)
    name, _, argument = dataset.extractor.partition(":")
    found = plugins.pick("feature extractor", name, plugins.feature_extractors)
    extractor = found.load(argument)
    names = run.config.score_metrics or dataset.metrics
    metrics = [plugins.pick("metric", name, plugins.metrics) for name in names]
    samples = min(run.config.score_samples, len(data))

    def scored(served: ServedGenerator) -> dict[str, float]:
        source = of_network(served, run)
        scores = score(source, data, extractor, metrics, samples=samples)
        return {score.metric: score.value for score in scores}

    return scored


def _scorer_of_upscaler(run: Run, data: Crops) -> Scorer:
    names = run.config.score_metrics or usual_metrics(errors.print)

    def scored(served: ServedGenerator) -> dict[str, float]:
        scores = held_out_scores(data, enlarged_by(served), served.scale, names)
        return {score.metric: score.value for score in scores}

    return scored
