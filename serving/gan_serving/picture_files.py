"""Pictures on disk made larger: several at once, each there whole or not at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from gan_core.errors import (
    ConnectionFailed,
    ModelNotFound,
    NotSupported,
    PermissionDenied,
    ServiceError,
    Unauthenticated,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gan_client import Client

__all__ = ["Folder", "upscaled"]

PICTURES = {".avif", ".bmp", ".gif", ".heic", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""Taken for pictures by their names; whether one is, the model's server says."""
AT_ONCE = 4
PATIENCE_S = 600.0
"""Of one picture's first bytes, and of its next ones."""
OF_ALL = (ConnectionFailed, ModelNotFound, NotSupported, PermissionDenied, Unauthenticated)
"""What fails one picture and would fail all others."""


def upscaled(client: Client, model: str, source: Path, target: Path) -> None:
    """Write what a model makes of a picture's file; the suffix decides the format.

    Raises:
        OSError: a file can't be read or written.
        ServiceError: the picture is refused, or the model fails.
    """
    client.images.upscale(source, model=model, out=target, timeout_s=PATIENCE_S)


@dataclass(slots=True)
class Folder:
    """A folder's pictures, and what became of them."""

    out: Path
    waiting: dict[Path, Path]
    """What is to be written, and of which picture."""
    there: int
    """Written by an earlier run."""
    made: int = 0
    failures: dict[Path, str] = field(default_factory=dict)
    """Why a picture wasn't made larger."""

    @classmethod
    def of(cls, source: Path, out: Path, suffix: str) -> Self:
        """The pictures of a folder and its subfolders; ``suffix`` is that of what is written."""
        targets: dict[Path, Path] = {}
        failures = {}
        for path in sorted(source.rglob("*")):
            if path.suffix.lower() not in PICTURES or path.name.startswith("."):
                continue
            target = out / path.relative_to(source).with_suffix(suffix)
            if target in targets:
                failures[path] = f"{target} is made of {targets[target].name}"
            else:
                targets[target] = path
        waiting = {target: path for target, path in targets.items() if not target.exists()}
        return cls(out, waiting, len(targets) - len(waiting), failures=failures)

    @property
    def total(self) -> int:
        """Pictures, whatever became of them."""
        return self.there + len(self.waiting) + self._twins

    @property
    def _twins(self) -> int:
        return len(self.failures.keys() - set(self.waiting.values()))

    def upscale(self, client: Client, model: str) -> Iterator[Path]:
        """Write those that aren't there; each picture as it is done with, or has failed.

        Raises:
            ServiceError: of a kind that the next picture would meet too.
        """
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            futures = {
                pool.submit(upscaled, client, model, path, target): path
                for target, path in self.waiting.items()
            }
            for future in as_completed(futures):
                try:
                    future.result()
                    self.made += 1
                except OF_ALL:
                    raise
                except (OSError, ServiceError) as error:
                    self.failures[futures[future]] = str(error)
                yield futures[future]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # the client's end ends those at work
