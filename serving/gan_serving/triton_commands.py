"""``ganforge triton``: install the local Triton, and find out what it lacks."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(
    name="triton", help="The local Triton: install it, check it.", no_args_is_help=True
)


@app.command()
def install() -> None:
    """Install the local Triton into the user's data directory (about 330 MB).

    At once done where it is installed already. $GANFORGE_TRITON_HOME names another directory.

    Example: ganforge triton install
    """
    from rich.console import Console

    from gan_core.errors import TritonError
    from gan_serving import local_triton

    console = Console(soft_wrap=True)
    home = local_triton.home()
    try:
        local_triton.install(home, lambda line: console.print(line, style="dim", markup=False))
    except TritonError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    console.print(f"[green]✓[/] the local Triton is in {home}")


@app.command()
def doctor(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False
) -> None:
    """Check what the local Triton needs, and say what to do about what is missing.

    Exits with 1 where a check fails.

    Example: ganforge triton doctor --json
    """
    from rich.console import Console
    from rich.markup import escape

    from gan_serving import local_triton

    findings = local_triton.doctor(local_triton.home())
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        console = Console(soft_wrap=True)
        for finding in findings:
            mark = "[green]✓[/]" if finding.ok else "[red]✗[/]"
            console.print(f"{mark} {finding.name:13} {escape(finding.detail)}")
            if finding.remedy:
                console.print(f"  [yellow]→[/] {escape(finding.remedy)}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
