"""Every hook that a ganforge plugin may implement: the whole contract, in one file.

A plugin is a module behind an entry point of the group ``ganforge``. It implements any of
these with ``from gan_core import hookimpl``. A parameter that isn't needed may be left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import typer

    from .card import ModelCard
    from .data import Dataset
    from .evaluation import FeatureExtractor
    from .metrics import Metric
    from .run import Run
    from .sources import Source
    from .variant import Variant

__all__ = ["GROUP", "hookimpl", "hookspec"]

GROUP = "ganforge"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def ganforge_variants() -> list[Variant]:  # type: ignore[empty-body]
    """The GAN variants of this plugin. Called once, when a variant is first asked for."""


@hookspec
def ganforge_datasets() -> list[Dataset]:  # type: ignore[empty-body]
    """Datasets by the name that ``--data`` takes. Called when a dataset is first asked for."""


@hookspec
def ganforge_metrics() -> list[Metric]:  # type: ignore[empty-body]
    """Metrics by the name that ``--metrics`` takes. Called by ``ganforge evaluate``."""


@hookspec
def ganforge_feature_extractors() -> list[FeatureExtractor]:  # type: ignore[empty-body]
    """Networks that turn images into the features metrics compare. Called by ``evaluate``."""


@hookspec
def ganforge_model_source(
    model: str, version: int | None, url: str, truncation: float | None
) -> Source | None:
    """Where the images of a published model come from, at an address that clients take.

    Called by ``evaluate``; None leaves it to another plugin.
    """


@hookspec
def ganforge_check_export(card: ModelCard, directory: Path) -> None:
    """Raise if ``directory`` (model.onnx and card.json) can't be used. Called by ``check``."""


@hookspec(firstresult=True)
def ganforge_publish(directory: Path, model: str, repository: Path) -> Path | None:
    """Publish ``directory`` (model.onnx, card.json) as a version of ``model``; its folder."""


@hookspec
def ganforge_commands(app: typer.Typer) -> None:
    """Add commands to the command line. Called before it parses; import nothing heavy here.

    A command finds the loaded plugins in its context: ``typer.Context.obj``.
    """


@hookspec
def ganforge_tick(run: Run, stats: Mapping[str, float]) -> None:
    """A tick of training ended; ``stats`` are means since the last one. An observer."""


@hookspec
def ganforge_checkpoint_saved(run: Run, path: Path) -> None:
    """A checkpoint is complete on disk at ``path``. An observer."""


@hookspec
def ganforge_exported(card: ModelCard, path: Path) -> None:
    """A generator passed the parity check and its graph is at ``path``. An observer."""


@hookspec
def ganforge_published(card: ModelCard, version: int, path: Path) -> None:
    """A version is complete in a model repository at ``path``. An observer."""
