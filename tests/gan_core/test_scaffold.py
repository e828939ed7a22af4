"""The files that ``ganforge new`` writes; installing and serving them is an end-to-end test."""

from __future__ import annotations

import ast
import tomllib
from typing import TYPE_CHECKING

import pytest

from gan_core.errors import ConfigError
from gan_core.scaffold import scaffold

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return scaffold("my_gan", tmp_path / "new" / "place")


def test_every_file_is_there(project: Path) -> None:
    assert sorted(str(p.relative_to(project)) for p in project.rglob("*") if p.is_file()) == [
        "README.md",
        "my_gan/__init__.py",
        "my_gan/networks.py",
        "my_gan/trainer.py",
        "pyproject.toml",
        "tests/test_my_gan.py",
    ]


def test_no_placeholder_is_left(project: Path) -> None:
    texts = [path.read_text() for path in project.rglob("*") if path.is_file()]
    assert not any("$" in text for text in texts)


def test_every_module_is_python(project: Path) -> None:
    assert all(ast.parse(path.read_text()).body for path in project.rglob("*.py"))


def test_the_entry_point_names_the_package(project: Path) -> None:
    document = tomllib.loads((project / "pyproject.toml").read_text())
    assert document["project"]["entry-points"]["ganforge"] == {"my_gan": "my_gan"}


def test_classes_are_named_after_the_project(project: Path) -> None:
    assert (
        "class MyGanConfig(AdversarialConfig):" in (project / "my_gan" / "trainer.py").read_text()
    )


def test_the_networks_are_told_of_the_toolbox(project: Path) -> None:
    # what feature_matching asks for, and what the setting minibatch decides
    networks = (project / "my_gan" / "networks.py").read_text()
    assert ("def features(" in networks, "minibatch=minibatch" in networks) == (True, True)


@pytest.mark.parametrize("name", ["My", "my-gan", "1gan", "", "../up", "class", "a b"])
def test_a_name_that_is_no_package_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="can't be a variant's name: use"):
        scaffold(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "my_gan").mkdir()
    with pytest.raises(ConfigError, match="my_gan exists already"):
        scaffold("my_gan", tmp_path)


@pytest.mark.parametrize("name", ["torch", "dcgan", "gan_core"])
def test_a_name_that_is_taken_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is installed already"):
        scaffold(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_no_folder_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="can't write"):
        scaffold("mine_gan", tmp_path / "file")
