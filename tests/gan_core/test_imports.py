"""What importing costs, and that every public name is said to be one."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gan_core

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "onnx", "onnxruntime", "torchvision", "sklearn", "accelerate", "fastapi")
MODULES = sorted(
    info.name.removeprefix("gan_core.")
    for info in pkgutil.walk_packages(gan_core.__path__, "gan_core.")
    if not info.name.startswith("gan_core.templates")
)


def loaded(code: str, *arguments: str) -> list[str]:
    """The heavy modules that a fresh interpreter holds after running the code."""
    found = f"sorted(set(sys.modules) & set({HEAVY!r}))"
    report = f"import sys\n{code}\nprint('', *{found}, sep='\\n', file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", report, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [line for line in done.stderr.splitlines() if line in HEAVY]


def test_the_probe_sees_a_heavy_module() -> None:
    assert "onnx" in loaded("import onnx")


def test_importing_gan_core_loads_nothing_heavy() -> None:
    assert loaded("import gan_core; gan_core.Variant; gan_core.ModelCard; gan_core.hookimpl") == []


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["no-such-command"]])
def test_help_and_wrong_usage_load_nothing_heavy(arguments: list[str]) -> None:
    code = "from gan_core.cli import main\ntry: main()\nexcept SystemExit: pass"
    assert loaded(code, *arguments) == []


@pytest.mark.parametrize(
    "module", ["card", "errors", "hookspecs", "latents", "plugins", "variant", "scaffold"]
)
def test_a_module_that_servers_use_loads_no_torch(module: str) -> None:
    assert loaded(f"import gan_core.{module}") == []


def test_a_broken_torchvision_harms_nobody_who_does_not_use_it() -> None:
    code = "sys.modules['torchvision'] = None\nimport gan_core, gan_core.datasets"
    assert "torch" in loaded(code)


@pytest.mark.parametrize("package", sorted(p.name for p in (ROOT / "plugins").glob("gan_*")))
def test_a_plugin_loads_no_torch_before_it_is_used(package: str) -> None:
    assert loaded(f"import {package}") == []


@pytest.mark.parametrize("package", sorted(p.name for p in (ROOT / "plugins").glob("gan_*")))
def test_a_folder_in_plugins_has_an_entry_point(package: str) -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert package in document["project"]["entry-points"]["ganforge"].values()


def defined(module: str) -> list[str]:
    """Public classes and functions that a module defines itself."""
    path = ROOT / "gan_core" / module.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(source.read_text())
    kinds = (ast.ClassDef, ast.FunctionDef)
    return [n.name for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]


def declared(module: str) -> list[str]:
    names: list[str] = importlib.import_module(f"gan_core.{module}").__all__
    return names


COMMANDS = {
    "cli": {"check", "config", "export", "new", "plugins", "train"},
    "commands": {"audit", "compare", "evaluate", "fetch_data", "list_data", "report", "search"},
}


@pytest.mark.parametrize("module", MODULES)
def test_all_names_every_public_class_and_function(module: str) -> None:
    commands = COMMANDS.get(module, set())
    hooks = {n for n in defined(module) if n.startswith("ganforge_") and module == "hookspecs"}
    assert set(defined(module)) - set(declared(module)) - commands - hooks == set()


@pytest.mark.parametrize("module", MODULES)
def test_all_names_only_what_is_there(module: str) -> None:
    imported = importlib.import_module(f"gan_core.{module}")
    assert [name for name in declared(module) if not hasattr(imported, name)] == []


@pytest.mark.parametrize("module", MODULES)
def test_all_is_sorted(module: str) -> None:
    # as ruff sorts: CONSTANTS, then Classes, then functions
    def key(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2), name

    assert declared(module) == sorted(declared(module), key=key)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is(module: str) -> None:
    assert importlib.import_module(f"gan_core.{module}").__doc__
