"""Weights of a generator that was trained before: of a run, or from a safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file

from gan_core import checkpoint
from gan_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

__all__ = ["generator_weights"]


def generator_weights(start_from: str, like: nn.Module) -> Mapping[str, Tensor]:
    """The weights, which have the names and shapes of those of ``like``.

    Of a run they are those of its newest checkpoint, averaged where an average was kept.

    Raises:
        ConfigError: there are none, or they are of another network.
        CheckpointError: the run's checkpoint is damaged.
    """
    path = Path(start_from).expanduser()
    found = _of_run(path) if path.is_dir() else _of_file(path)
    ours, theirs = (
        {name: tuple(tensor.shape) for name, tensor in weights.items()}
        for weights in (like.state_dict(), found)
    )
    if different := [name for name in ours | theirs if ours.get(name) != theirs.get(name)]:
        raise ConfigError(
            f"start_from: {start_from} is of another generator: {different[0]} is "
            f"{theirs.get(different[0])}, here {ours.get(different[0])}; generator, scale, width "
            "and blocks must be the same"
        )
    return found


def _of_run(path: Path) -> Mapping[str, Tensor]:
    last = checkpoint.latest(path / "checkpoints")
    if last is None:
        raise ConfigError(f"start_from: {path} has no checkpoint: name a run or a safetensors file")
    trained = checkpoint.load(last)["trainer"]
    found: Mapping[str, Tensor] = trained["ema"]["module"] if trained["ema"] else trained["G"]
    return found


def _of_file(path: Path) -> Mapping[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"start_from: can't read {path}: {error}; name a run or a safetensors file"
        ) from error
