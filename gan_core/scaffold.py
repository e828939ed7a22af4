"""``ganforge new``: a plugin project of one's own, from the templates beside this module."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from importlib.util import find_spec
from string import Template
from typing import TYPE_CHECKING

from .errors import ConfigError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable
    from pathlib import Path

__all__ = ["scaffold"]

NAME = re.compile(r"[a-z][a-z0-9_]*")


def scaffold(name: str, into: Path) -> Path:
    """Write the project ``into``/``name``; returns its folder.

    Raises:
        ConfigError: the name can't be a package or is taken, or the folder can't be made.
    """
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(f"{name!r} can't be a variant's name: use [a-z][a-z0-9_]*")
    if find_spec(name) or find_spec(f"gan_{name}"):
        raise ConfigError(f"a package called {name!r} is installed already: choose another name")
    project = into / name
    if project.exists():
        raise ConfigError(f"{project} exists already: choose another name or --into")
    title = name.replace("_", " ").title().replace(" ", "")
    try:
        _copy(files("gan_core") / "templates", project, {"name": name, "title": title})
    except OSError as error:
        raise ConfigError(f"can't write {project}: {error}") from error
    return project


def _copy(source: Traversable, target: Path, words: dict[str, str]) -> None:
    target.mkdir(parents=True)
    for item in source.iterdir():
        path = target / Template(item.name.removesuffix(".tmpl")).substitute(words)
        if item.is_dir():
            _copy(item, path, words)
        elif item.name.endswith(".tmpl"):
            path.write_text(Template(item.read_text()).substitute(words))
