"""``ganforge promote | rollback | canary``: which version of a published model answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from .published import Published

__all__ = ["canary", "load_into", "promote", "rollback"]

Model = Annotated[str, typer.Argument(help="A published model.")]
Repository = Annotated[Path, typer.Option(help="Triton model repository.")]
Version = Annotated[int | None, typer.Option(min=1, help="Any in the model's folder.")]
Triton = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="A Triton to load it into, gRPC.")
]
DEFAULT = Path("model_repository")


def promote(
    model: Model, version: Version = None, repository: Repository = DEFAULT, triton: Triton = None
) -> None:
    """Let a version answer all who name none: the canary, or --version."""
    from . import releases

    _change(lambda: releases.promote(repository, model, version), triton)


def rollback(model: Model, repository: Repository = DEFAULT, triton: Triton = None) -> None:
    """Undo the last step: end a canary's trial, or go back to the version before."""
    from . import releases

    _change(lambda: releases.roll_back(repository, model), triton)


def canary(
    model: Model,
    weight: Annotated[float, typer.Option(help="Share of the requests, above 0 and below 1.")],
    version: Version = None,
    repository: Repository = DEFAULT,
    triton: Triton = None,
) -> None:
    """Let a version answer a share of the requests, on trial; the newest, or --version.

    A server that sees it fail more often, give blank images, or take twice as long ends the trial.
    """
    from . import releases

    _change(lambda: releases.try_out(repository, model, weight, version), triton)


def _change(change: Callable[[], Published], triton: str | None) -> None:
    published = change()
    if triton:
        load_into(triton, published.name)
    release = published.release
    trial = f", version {release.canary} {release.weight:.0%} of them" if release.canary else ""
    typer.echo(f"{published.name}: version {release.version} answers{trial}")


def load_into(address: str, model: str) -> None:
    """Let a running Triton load what has changed of a model.

    Raises:
        Unavailable: Triton refuses, or can't be reached.
    """
    import asyncio

    from .triton_engine import TritonEngine

    async def load() -> None:
        engine = TritonEngine(address)
        try:
            await engine.load(model)
        finally:
            await engine.close()

    asyncio.run(load())
