"""A training run on disk: its configuration, checkpoints, samples and statistics.

.. code-block:: text

    runs/NAME/
    ├── config.yaml       variant, data and every setting, resolved
    ├── checkpoints/      <kimg>/tensors.safetensors + state.json
    ├── samples/          <kimg>.png, the same z every time
    ├── metrics.jsonl     one row a tick
    ├── events.out.…      TensorBoard
    └── export/           model.onnx + card.json, by ``ganforge export``
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from . import checkpoint
from .card import DataSource
from .errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from .variant import TrainConfig, Variant

__all__ = ["Run"]


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder and what it says of itself."""

    path: Path
    variant: Variant
    data: str
    """As given to ``--data``."""
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
    def export(self) -> Path:
        """Where the exported graph and its card lie."""
        return self.path / "export"

    def create(self) -> None:
        """Make the folder and write config.yaml.

        Raises:
            ConfigError: there is a run already; the message says how to go on with it.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ConfigError(
                f"{self.path} exists already: resume it with --resume, or choose another --run"
            )
        document = {
            "variant": self.variant.name,
            "data": self.data,
            "source": self.source.model_dump(),
            "config": self.config.model_dump(mode="json"),
        }
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "config.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        except OSError as error:
            raise ConfigError(f"can't create {self.path}: {error}") from error

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
        needed = {"variant", "data", "source", "config"}
        if not isinstance(document, dict) or not needed <= document.keys():
            raise ConfigError(
                f"{path / 'config.yaml'} doesn't describe a run: it needs "
                + ", ".join(sorted(needed))
            )
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

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row to metrics.jsonl."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> Iterator[dict[str, float]]:
        """The rows of metrics.jsonl; one that was cut off by a crash is left out."""
        if not self.metrics.exists():
            return
        for line in self.metrics.read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def forget_after(self, kimg: float) -> None:
        """Drop the rows of ticks that a resumed run will live through again."""
        kept = [row for row in self.rows() if row["kimg"] <= kimg]
        self.metrics.write_text("".join(json.dumps(row) + "\n" for row in kept))
