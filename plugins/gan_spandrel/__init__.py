"""Bring your own weights: existing super-resolution networks become served models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gan_core import hookimpl

if TYPE_CHECKING:
    import typer

__all__ = ["ganforge_commands"]


@hookimpl
def ganforge_commands(app: typer.Typer) -> None:
    """import-sr."""
    from .command import import_sr

    app.command(epilog="Example: ganforge import-sr 4x.safetensors --model photos_x4")(import_sr)
