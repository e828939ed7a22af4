"""The built-in server is a plugin like any other: it adds commands and one conformance check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gan_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    import typer

    from gan_core.card import ModelCard
    from gan_core.sources import Source


@hookimpl
def ganforge_commands(app: typer.Typer) -> None:
    """publish, serve, generate, upscale, models, triton."""
    from .commands import add_commands

    add_commands(app)


@hookimpl
def ganforge_model_source(
    model: str, version: int | None, url: str, truncation: float | None
) -> Source:
    """Whatever the SDK can reach."""
    from .sources import model_source

    return model_source(model, version, url, truncation)


@hookimpl
def ganforge_publish(directory: Path, model: str, repository: Path) -> Path:
    """Into a Triton model repository."""
    from .repository import publish

    _, path = publish(directory, repository, model)
    return path


@hookimpl
def ganforge_check_export(card: ModelCard, directory: Path) -> None:
    """A repository takes it, and serves it: n = 3 equals three times n = 1."""
    from .conformance import check_served

    check_served(card, directory)
