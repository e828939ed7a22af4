"""``ganforge import-sr``: serve weights that somebody else has trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from gan_core.console import errors, say

__all__ = ["import_sr"]


def import_sr(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(help=".pth, .pt, .ckpt or .safetensors; .param of ncnn, beside its .bin."),
    ],
    model: Annotated[str, typer.Option(help="Name to serve under: a-z, 0-9 and _.")],
    repository: Annotated[Path, typer.Option(help="Triton model repository.")] = Path(
        "model_repository"
    ),
    tile_px: Annotated[
        int, typer.Option(min=0, help="Side of a tile; 0 = as fits how far the network looks.")
    ] = 0,
    licence: Annotated[str, typer.Option(help="Of the weights; goes into the card.")] = "unknown",
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Publish existing super-resolution weights as a model; nothing in the file is run."""
    from .importing import import_weights

    imported = import_weights(
        file,
        model,
        repository,
        context.obj,
        tile_px=tile_px,
        licence=licence,
        progress=lambda line: errors.print(line, markup=False, highlight=False, soft_wrap=True),
    )
    card, source, version = imported.card, imported.source, int(imported.path.name)
    if as_json:
        document = {
            "model": card.model,
            "version": version,
            "variant": card.variant,
            "scale": card.output.scale,
            "channels": card.output.channels,
            "tile_px": source.tile_px,
            "halo_px": source.halo_px,
            "parity_levels": card.parity_levels,
            "path": str(imported.path),
        }
        typer.echo(json.dumps(document, indent=2))
        return
    cut = f"tiles of {source.tile_px} px, halo {source.halo_px} px" if source.tile_px else "whole"
    say(
        f"published as {card.model} version {version}: ×{card.output.scale}, {cut}, at most "
        f"{card.parity_levels} of 255 levels from torch\n"
        f"Next: ganforge serve --repository {repository}"
    )
