"""What the commands share: where they print, and how settings are read."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich import get_console
from rich.console import Console

from .errors import ConfigError

__all__ = ["RunPath", "check_writable", "console", "errors", "read_settings", "say"]

console = get_console()
errors = Console(stderr=True)
say = partial(console.print, highlight=False, soft_wrap=True, markup=False)

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]


def check_writable(path: Path) -> None:
    """Refuse a file that can't be written, before hours of work, not after.

    Raises:
        ConfigError: its folder isn't there, or it is one itself.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent} is no folder to write {path.name} in")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name a file")


def read_settings(file: Path | None, pairs: list[str], named: dict[str, Any]) -> dict[str, Any]:
    """Settings from a YAML file, then KEY=VALUE pairs, then options of their own."""
    settings: dict[str, Any] = {}
    if file:
        try:
            settings = yaml.safe_load(file.read_text()) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"can't read {file}: {' '.join(str(error).split())}") from error
        if not isinstance(settings, dict):
            raise ConfigError(f"{file} holds no 'key: value' lines")
        if {"variant", "data", "config"} <= settings.keys():
            raise ConfigError(
                f"{file} is a run's: its settings are what is below 'config', without channels "
                "and classes"
            )
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"--set takes KEY=VALUE, not {pair!r}")
        if named.get(key) is not None:
            raise typer.BadParameter(f"--{key} and --set {key}=… are the same setting: say one")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {pair!r}: the value isn't YAML") from error
    return settings | {key: value for key, value in named.items() if value is not None}
