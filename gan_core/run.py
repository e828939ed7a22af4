"""A training run on disk: its configuration, checkpoints, samples and statistics.

.. code-block:: text

    runs/NAME/
    ├── config.yaml       variant, data and every setting, resolved
    ├── checkpoints/      <kimg>/tensors.safetensors + state.json
    ├── samples/          <kimg>.png, the same z every time
    ├── metrics.jsonl     one row a tick
    ├── scores.jsonl      one row per measurement, where score_kimg is set
    ├── guard.jsonl       what the divergence guard saw and did
    ├── events.out.…      TensorBoard
    └── export/           model.onnx + card.json, by ``ganforge export``
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout

from . import checkpoint
from .card import DataSource
from .errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from .variant import TrainConfig, Variant

__all__ = ["Run", "read_rows"]


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder and what it says of itself."""

    path: Path
    variant: Variant
    data: str
    """As given to ``--data``, a folder by its whole path."""
    source: DataSource
    config: TrainConfig

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie, each named by the images seen, in kimg."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """Where sample grids lie."""
        return self.path / "samples"

    @property
    def metrics(self) -> Path:
        """One JSON row per tick."""
        return self.path / "metrics.jsonl"

    @property
    def scores(self) -> Path:
        """One JSON row per measurement of ``score_kimg``."""
        return self.path / "scores.jsonl"

    @property
    def export(self) -> Path:
        """Where the exported graph and its card lie."""
        return self.path / "export"

    def check_new(self) -> None:
        """Make sure that the folder isn't there, or is empty.

        Raises:
            ConfigError: there is something already; the message says how to go on with it.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ConfigError(
                f"{self.path} exists already: resume it with --resume, or choose another --run"
            )

    def create(self) -> None:
        """Make the folder and write config.yaml.

        Raises:
            ConfigError: there is a run already; the message says how to go on with it.
        """
        self.check_new()
        with self.claimed():
            pass

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder, write config.yaml, and keep others from training it meanwhile.

        What a process that was killed while it replaced a checkpoint left behind is put back.

        Raises:
            ConfigError: another process trains it, or the folder can't be written.
        """
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            checkpoint.recover(self.checkpoints)
            self.write_config()
        except Timeout as error:
            raise ConfigError(f"{self.path} is being trained by another process") from error
        except OSError as error:
            raise ConfigError(f"can't write to {self.path}: {error}") from error
        try:
            yield
        finally:
            lock.release()

    def write_config(self) -> None:
        """Write config.yaml, whole or not at all."""
        document = {
            "variant": self.variant.name,
            "data": self.data,
            "source": self.source.model_dump(),
            "config": self.config.model_dump(mode="json"),
        }
        temporary = self.path / ".config.yaml.tmp"
        temporary.write_text(yaml.safe_dump(document, sort_keys=False))
        temporary.replace(self.path / "config.yaml")

    @staticmethod
    def read(path: Path) -> dict[str, Any]:
        """config.yaml as plain values: variant, data, source, config.

        Raises:
            ConfigError: ``path`` is no run.
        """
        try:
            document = yaml.safe_load((path / "config.yaml").read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} is not a run: {error}") from error
        needed = {"variant": str, "data": str, "source": dict, "config": dict}
        if not isinstance(document, dict) or not all(
            isinstance(document.get(key), kind) for key, kind in needed.items()
        ):
            kinds = ", ".join(f"{key} ({kind.__name__})" for key, kind in needed.items())
            raise ConfigError(f"{path / 'config.yaml'} doesn't describe a run: it needs {kinds}")
        return document

    def latest_checkpoint(self) -> Path:
        """The newest complete checkpoint.

        Raises:
            CheckpointError: there is none.
        """
        path = checkpoint.latest(self.checkpoints)
        if path is None:
            raise CheckpointError(f"{self.path} has no checkpoint yet")
        return path

    def note(self, event: Mapping[str, Any]) -> None:
        """Add an event of the divergence guard to guard.jsonl; it stays through a resume."""
        _append(self.path / "guard.jsonl", event)

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row to metrics.jsonl."""
        _append(self.metrics, row)

    def note_scores(self, row: Mapping[str, float]) -> None:
        """Add a row to scores.jsonl."""
        _append(self.scores, row)

    def rows(self) -> list[dict[str, float]]:
        """The rows of metrics.jsonl."""
        return list(read_rows(self.metrics))

    def forget_after(self, kimg: float) -> None:
        """Drop the rows of ticks and scores that a resumed run will live through again."""
        for path in (self.metrics, self.scores):
            if path.exists():
                kept = [row for row in read_rows(path) if row["kimg"] <= kimg]
                temporary = path.with_name(f".{path.name}.tmp")
                temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
                temporary.replace(path)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON lines file, none if it isn't there; one cut off by a crash is left out."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
