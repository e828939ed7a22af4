"""Score anything that makes images: open it, find what to compare it with, note the scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate import Accelerator

from . import checkpoint
from .card import ModelCard
from .console import errors
from .crops import Crops
from .data import Images, open_data, open_training
from .errors import ConfigError, ModelNotFound
from .evaluation import Extractor, score
from .export import ServedGenerator, write_card
from .held_out import enlarged_by_graph, held_out_scores, is_upscaler, usual_metrics
from .live import along_paths, of_network
from .run import Run
from .sources import Source, of_graph
from .variant import is_points
from .workflow import built, export_run, open_run, read_card

if TYPE_CHECKING:
    from .card import Score
    from .plugins import Plugins

__all__ = ["evaluate", "open_source", "reference", "run_source"]


def evaluate(
    source: Source,
    plugins: Plugins,
    *,
    metrics: Sequence[str] | None = None,
    extractor: str | None = None,
    data: str | None = None,
    samples: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Score, ...]:
    """Score what a source makes, and note the scores in its card, if it has one on disk.

    ``metrics`` are the data's own, and ``samples`` the size of the reference set, at most
    10,000, unless given; ``["all"]`` are all that apply.

    Raises:
        ConfigError, PluginError: a name is unknown, or images don't fit each other.
        DataError: the reference set can't be read.
        ServiceError: a server doesn't answer.
    """
    if is_upscaler(source.inputs):
        return _evaluate_upscaler(source, plugins, metrics, data, progress)
    images, chosen, own = reference(source, plugins, data, extractor)
    names = dict.fromkeys(own if metrics is None else metrics)
    if every := "all" in names:
        names = dict.fromkeys(plugins.metrics)
    scores = score(
        source,
        images,
        chosen,
        [plugins.pick("metric", name, plugins.metrics) for name in names],
        samples=samples or min(len(images), 10_000),
        seed=seed,
        only_fitting=every,
        progress=progress,
    )
    if source.directory:
        _add_to_card(source.directory, scores)
    return scores


def _evaluate_upscaler(
    source: Source,
    plugins: Plugins,
    metrics: Sequence[str] | None,
    data: str | None,
    progress: Callable[[int, int], None],
) -> tuple[Score, ...]:
    if not source.directory:
        raise ConfigError(f"{source.name}: of upscalers, runs and .onnx files alone are scored")
    if not (data or source.data):
        raise ConfigError(
            f"{source.name} was trained on a folder, which lies nobody knows where: name "
            "photographs, with --data photos or --data crops:PATH"
        )
    _, crops = open_training(data or source.data, 1, plugins)  # px: no crop is taken
    if not isinstance(crops, Crops):
        raise ConfigError(
            f"{crops.source.name} holds no photographs back: upscalers are scored on those of "
            "--data photos or --data crops:PATH"
        )
    scores = held_out_scores(
        crops,
        enlarged_by_graph(source.directory),
        read_card(source.directory).output.scale,
        usual_metrics(errors.print) if metrics is None or "all" in metrics else metrics,
        ema=source.ema,
        progress=progress,
    )
    _add_to_card(source.directory, scores)
    return scores


def reference(
    source: Source, plugins: Plugins, data: str | None, extractor: str | None
) -> tuple[Images, Extractor, Sequence[str]]:
    """What to compare a source with, what sees the difference, and the metrics usual for it.

    Raises:
        ConfigError, PluginError: a name is unknown, or images don't fit each other.
        DataError: the reference set can't be read.
    """
    if not (data or source.data):
        raise ConfigError(
            f"{source.name} was trained on a folder, which lies nobody knows where: name a "
            "reference set, with --data folder:PATH"
        )
    dataset, images = open_data(data or source.data, source.resolution_px, plugins)
    if images.channels != source.channels:
        raise ConfigError(
            f"{images.source.name} has {images.channels} channels, {source.name} makes images of "
            f"{source.channels}: the scores wouldn't compare"
        )
    name, _, argument = (extractor or dataset.extractor).partition(":")
    found = plugins.pick("feature extractor", name, plugins.feature_extractors)
    return images, found.load(argument), dataset.metrics


def open_source(
    target: str,
    plugins: Plugins,
    *,
    url: str | None = None,
    version: int | None = None,
    truncation: float | None = None,
) -> Source:
    """A run, an exported graph with its card beside it, or a model at ``url``.

    Raises:
        ConfigError: it is none of these, or doesn't take that truncation.
        ServiceError: the server can't be reached, or doesn't have the model.
    """
    path = Path(target)
    if (path / "config.yaml").exists():
        return run_source(open_run(path, plugins), plugins, truncation)
    if path.suffix == ".onnx" and not path.is_file():
        raise ConfigError(f"{path} isn't there")
    if path.suffix == ".onnx":
        source = of_graph(path, read_card(path.parent), truncation)
        return replace(source, directory=path.parent)
    try:
        return plugins.model_source(target, version, url or "local:model_repository", truncation)
    except ModelNotFound as error:
        where = url or "model_repository"
        error.add_note(f"{target!r} is no run and no .onnx file either; looked for it in {where}")
        raise


def run_source(run: Run, plugins: Plugins, truncation: float | None = None) -> Source:
    """The images of a run's newest checkpoint: of its exported graph, unless they are points.

    Exports first where there is no export of the newest checkpoint.

    Raises:
        ConfigError: the model doesn't take that truncation.
    """
    if is_points(run.config):
        if truncation is not None:
            raise ConfigError(f"truncation of {run.path}: points aren't truncated")
        return of_network(_served(run), run)
    card = _current_export(run, plugins)
    source = of_graph(run.export / "model.onnx", card, truncation)
    return replace(
        source,
        name=str(run.path),
        data=run.data,
        directory=run.export,
        path=lambda seed, n: along_paths(_served(run), seed, n, truncation),
    )


def _add_to_card(directory: Path, scores: tuple[Score, ...]) -> None:
    card = read_card(directory)
    measured = {(score.metric, score.provenance) for score in scores}
    kept = [old for old in card.metrics if (old.metric, old.provenance) not in measured]
    write_card(directory, card.model_copy(update={"metrics": (*kept, *scores)}))


def _served(run: Run) -> ServedGenerator:
    """What the newest checkpoint would serve, on the CPU."""
    trainer = built(run, Accelerator(cpu=True))
    checkpoint.restore(trainer, run.latest_checkpoint())
    return run.variant.served(trainer.generator().eval(), run.config)


def _current_export(run: Run, plugins: Plugins) -> ModelCard:
    try:
        card = read_card(run.export)
    except ConfigError:  # there is none, or half a one
        return export_run(run, plugins)
    if card.trained_kimg == float(run.latest_checkpoint().name):
        return card
    return export_run(run, plugins, card.model)
