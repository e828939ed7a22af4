"""What lies in deploy/, read as the tools that use it read it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from deploy.try_image_steps import instructions
from gan_serving.commands import add_commands

__all__ = ["DEPLOY", "ROOT", "last", "serve_options"]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def last(stage: str, name: str) -> Any:
    """The value of a stage's last such instruction: a list where it is written as one."""
    value = [rest for found, rest in instructions(stage) if found == name][-1]
    return json.loads(value) if value.startswith("[") else value


def serve_options(arguments: Sequence[str]) -> dict[str, Any]:
    """What ``ganforge`` makes of a command line that begins with ``serve``.

    Raises:
        Exception: the command line's own, for an option or a value that it doesn't take.
    """
    assert arguments[0] == "serve"
    app = typer.Typer()
    add_commands(app)
    group: Any = typer.main.get_command(app)
    options: dict[str, Any] = group.commands["serve"].make_context("serve", [*arguments[1:]]).params
    return options
