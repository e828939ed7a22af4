"""Train, export, evaluate: the three steps from images to a card, for scripts and the CLI."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from pydantic import ValidationError

from . import checkpoint
from .card import DataSource, ModelCard
from .data import OF_FOLDERS, TrainingData, TrainingImages, open_training
from .errors import CheckpointError, ConfigError, ExportError, TrainingDiverged
from .export import export, write_card
from .live import scorer_of
from .loop import fit
from .randomness import seed_everything
from .run import Run
from .variant import is_points

if TYPE_CHECKING:
    from .plugins import Plugins
    from .progress import Progress
    from .trainer import Trainer
    from .variant import TrainConfig, Variant

__all__ = [
    "absolute",
    "built",
    "configured",
    "export_run",
    "open_images",
    "open_run",
    "read_card",
    "start_run",
    "train",
]

FROM_DATA = {"channels": False, "classes": False, "resolution_px": True}
"""What the data say of a configuration, and whether a setting may say otherwise."""


def configured(
    variant: Variant, settings: Mapping[str, Any], images: TrainingImages
) -> TrainConfig:
    """The variant's configuration: its defaults, then the data's shape, then ``settings``.

    Raises:
        ConfigError: a setting is unknown, out of range, or belongs to the data.
    """
    if variant.task == "class-conditional" and not images.classes:
        raise ConfigError(
            f"{variant.name} makes images of a class, and {images.source.name} has no classes: "
            "a folder has, with a subfolder for each"
        )
    for name, can_be_set in FROM_DATA.items():
        if name in settings and not can_be_set:
            raise ConfigError(f"{name} comes from the data and can't be set")
    shape = {name: getattr(images, name) for name in FROM_DATA}
    try:
        return _validated(variant, {**settings, **shape})
    except ConfigError as error:
        if images.resolution_px == 1 and "power of two" in str(error):
            raise ConfigError(
                f"{variant.name} has networks for images alone, and {images.source.name} is points "
                "in the plane"
            ) from error
        raise


def start_run(
    path: Path, variant: Variant, data: str, settings: Mapping[str, Any], plugins: Plugins
) -> tuple[Run, TrainingImages]:
    """A new run, whose folder ``train`` makes, and its training set.

    Of several processes the main one decodes the data; the others wait.

    Raises:
        ConfigError, DataError, PluginError: see the message; no folder was made.
    """
    side_px = _checked(variant, settings)  # before anything is downloaded or decoded
    accelerator = Accelerator()
    with accelerator.main_process_first():
        _, images = open_training(data, side_px, plugins)
    config = configured(variant, settings, images)
    next(images.batches(config.batch_size, seed=0, world=accelerator.num_processes))
    run = Run(path, variant, absolute(data), images.source, config)
    run.check_new()
    return run, images


def open_run(path: Path, plugins: Plugins, settings: Mapping[str, Any] | None = None) -> Run:
    """A run that was started before, with ``settings`` changed.

    Raises:
        ConfigError: it is no run, or a setting can't be used.
        PluginError: its variant isn't available.
    """
    document = Run.read(path)
    variant = plugins.variant(document["variant"])
    config = _validated(variant, {**document["config"], **(settings or {})})
    try:
        source = DataSource.model_validate(document["source"])
    except ValidationError as error:
        raise ConfigError(f"{path / 'config.yaml'}: source: {_explained(error)}") from error
    return Run(path, variant, document["data"], source, config)


def open_images(run: Run, plugins: Plugins) -> TrainingImages:
    """The training set of a run.

    Raises:
        ConfigError: the data isn't what the run was started with.
    """
    with Accelerator().main_process_first():
        _, images = open_training(run.data, run.config.resolution_px, plugins)
    if images.source.fingerprint != run.source.fingerprint:
        raise ConfigError(
            f"{run.data} has changed since {run.path} was started "
            f"(fingerprint {images.source.fingerprint[:12]}, was {run.source.fingerprint[:12]}): "
            "restore the data, or start another run"
        )
    return images


def train(run: Run, data: TrainingData, plugins: Plugins, progress: Progress | None = None) -> Path:
    """Train or continue a run; returns its last checkpoint.

    config.yaml says afterwards what the run was continued with.

    Raises:
        TrainingDiverged, CheckpointError, Interrupted: as ``fit``.
    """
    accelerator = Accelerator()
    seed_everything(run.config.seed)
    trainer = built(run, accelerator)
    seed_everything(run.config.seed + accelerator.process_index)
    try:
        with run.claimed() if accelerator.is_main_process else nullcontext():
            accelerator.wait_for_everyone()
            return fit(
                trainer,
                data,
                run,
                accelerator,
                plugins=plugins,
                progress=progress,
                scorer=scorer_of(run, data, plugins),
            )
    except OSError as error:
        raise CheckpointError(f"can't write to {run.path}: {error}") from error
    except TrainingDiverged as error:
        last = checkpoint.latest(run.checkpoints, error.healthy_until)
        any_saved = checkpoint.latest(run.checkpoints)
        none = "every checkpoint shows it" if any_saved else "no checkpoint was saved yet"
        safe = f"the last healthy checkpoint is {last}" if last else none
        error.add_note(f"{safe}; try a lower learning rate, or a penalty such as R1")
        raise


def built(run: Run, accelerator: Accelerator) -> Trainer:
    """A run's trainer with fresh weights.

    Raises:
        ConfigError: its settings make no networks, or too large ones.
    """
    try:
        return run.variant.build(run.config, accelerator)
    except (MemoryError, RuntimeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"can't build {run.variant.name} with these settings: {first}") from error


def absolute(data: str) -> str:
    """``--data`` as it is stored: a folder doesn't depend on where the command was typed."""
    name, _, argument = data.partition(":")
    if name not in OF_FOLDERS or not argument:
        return data
    return f"{name}:{Path(argument).expanduser().resolve()}"


def export_run(run: Run, plugins: Plugins, model: str | None = None) -> ModelCard:
    """Export a run's newest checkpoint to run/export; returns the card.

    Raises:
        CheckpointError: there is none, or it is damaged.
        ExportError: see ``export``.
        ConfigError: ``model`` isn't a model name.
    """
    config = run.config
    if is_points(config):
        raise ExportError(
            f"{run.data} is points in the plane: there is no image to serve; "
            f"'ganforge evaluate {run.path}' scores them"
        )
    trainer = built(run, Accelerator())
    state = checkpoint.restore(trainer, run.latest_checkpoint())
    generator = trainer.generator().eval()
    scored = _read_card_if_any(run.export)
    served = run.variant.served(generator, config)
    labelled = any(item.role == "label" for item in served.inputs)
    try:
        card = export(
            served,
            run.export,
            model=model or _model_name(run),
            variant=run.variant.name,
            data=run.source,
            trained_kimg=state["seen"] / 1000,
            task="class-conditional" if labelled else run.variant.task,
            ema=config.ema_halflife_kimg > 0,
        )
    except ValidationError as error:
        raise ConfigError(_explained(error)) from error
    card = _with_scores_of(card, run.export, scored)
    plugins.notify("ganforge_exported", card=card, path=run.export / "model.onnx")
    return card


def _read_card_if_any(directory: Path) -> ModelCard | None:
    with suppress(ConfigError):
        return read_card(directory)
    return None


def _with_scores_of(card: ModelCard, directory: Path, scored: ModelCard | None) -> ModelCard:
    """The card with the scores of an earlier export of the very same graph."""
    if scored is None or scored.sha256 != card.sha256 or not scored.metrics:
        return card
    card = card.model_copy(update={"metrics": scored.metrics})
    write_card(directory, card)
    return card


def read_card(directory: Path) -> ModelCard:
    """The card that ``export`` wrote.

    Raises:
        ConfigError: there is none, or it can't be read.
    """
    try:
        return ModelCard.model_validate_json((directory / "card.json").read_bytes())
    except OSError as error:
        raise ConfigError(f"{directory} holds no exported generator: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{directory / 'card.json'}: {_explained(error)}") from error


def _model_name(run: Run) -> str:
    name, _, argument = run.source.name.partition(":")
    text = f"{argument if name in OF_FOLDERS else run.source.name}_{run.variant.name}".lower()
    return re.sub(r"[^a-z0-9_]+", "_", text)[:64]


def _known(variant: Variant, settings: Mapping[str, Any]) -> None:
    for name in settings:
        if name not in variant.config.model_fields:
            known = {field.lower(): field for field in variant.config.model_fields}
            close = difflib.get_close_matches(str(name).lower(), known, n=1)
            hint = f"; did you mean {known[close[0]]!r}?" if close else ""
            raise ConfigError(
                f"{variant.name} has no setting {name!r}{hint} "
                f"('ganforge config {variant.name}' lists them)"
            )


def _validated(variant: Variant, settings: Mapping[str, Any]) -> TrainConfig:
    _known(variant, settings)
    try:
        return variant.config.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(_explained(error)) from error


def _checked(variant: Variant, settings: Mapping[str, Any]) -> int | None:
    """The side in px that is asked for, if one is, once every setting is valid by itself.

    Whether they fit each other may depend on what the data say.
    """
    _known(variant, settings)
    try:
        checked = variant.config.model_validate(settings)
    except ValidationError as error:
        if "resolution_px" in settings or any(item["loc"] for item in error.errors()):
            raise ConfigError(_explained(error)) from error
        return None
    return checked.resolution_px if "resolution_px" in settings else None


def _explained(error: ValidationError) -> str:
    problems = []
    for item in error.errors(include_url=False):
        name = ".".join(map(str, item["loc"]))
        given = f" (given {item['input']!r})" if name else ""
        said = item["msg"].removeprefix("Value error, ")
        problems.append(f"{name}: {said}{given}" if name else said)
    return "; ".join(problems)
