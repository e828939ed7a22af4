"""Checkpoints: every tensor in a safetensors file, everything else in JSON, and no pickle.

A checkpoint is a folder that exists whole or not at all: it is written under a temporary name,
fsynced, and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .errors import CheckpointError

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["latest", "load", "recover", "remove_after", "restore", "save", "tensors"]

TENSORS, TREE = "tensors.safetensors", "state.json"


def save(directory: Path, name: str, state: Mapping[str, Any]) -> Path:
    """Write ``state`` (tensors and plain values, nested at will) to directory/name, atomically.

    Raises:
        CheckpointError: it can't be written; nothing is left behind and nothing was changed.
    """
    target = directory / name
    temporary = directory / f".{name}.{os.getpid()}.tmp"
    aside = directory / f".{name}.{os.getpid()}.old"
    found: dict[str, torch.Tensor] = {}
    tree = _flatten(state, "", found)
    try:
        for abandoned in directory.glob(".*.tmp"):  # by a process that was killed
            shutil.rmtree(abandoned)
        temporary.mkdir(parents=True)
        save_file(found, temporary / TENSORS)
        document = {"sha256": _sha256(temporary / TENSORS), "state": tree}
        (temporary / TREE).write_text(json.dumps(document))
        for path in (temporary / TENSORS, temporary / TREE, temporary):
            _fsync(path)
        _replace(target, temporary, aside)
        _fsync(directory)
        for replaced in directory.glob(".*.old"):
            shutil.rmtree(replaced)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"can't write checkpoint {target}: {error}; earlier checkpoints are intact"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What ``save`` was given, with its tensors on ``device``.

    Raises:
        CheckpointError: it's missing or damaged; the message names the file.
    """
    try:
        document = json.loads((path / TREE).read_text())
        if _sha256(path / TENSORS) != document["sha256"]:
            raise ValueError(f"{TENSORS} was changed after it was saved")
        tensors = load_file(path / TENSORS, device=str(device))
        state: dict[str, Any] = _unflatten(document["state"], tensors)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            f"can't read checkpoint {path}: {error}; remove it to use the one before"
        ) from error
    return state


def restore(trainer: Trainer, path: Path) -> dict[str, Any]:
    """Load a run's checkpoint into ``trainer``; returns all of it.

    Raises:
        CheckpointError: it's missing, damaged, or of networks of another shape.
    """
    state = load(path)
    try:
        trainer.load(state["trainer"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = " ".join(lines[:2]) or type(error).__name__
        raise CheckpointError(
            f"{path} doesn't fit the settings in config.yaml, or was saved by other code: {reason}"
        ) from error
    return state


def latest(directory: Path, before_kimg: float | None = None) -> Path | None:
    """The newest complete checkpoint in ``directory``, saved before ``before_kimg``, or None."""
    complete = list(directory.glob("[0-9]*"))
    if before_kimg is not None:
        complete = [p for p in complete if float(p.name) < before_kimg]
    return max(complete, default=None)


def recover(directory: Path) -> None:
    """Put back a checkpoint whose replacement was killed between two renames.

    For whoever may write there: a writer that is at it would be disturbed.
    """
    for aside in directory.glob(".*.old"):
        replaced = directory / aside.name[1:].rsplit(".", 2)[0]
        if not replaced.exists():
            aside.rename(replaced)


def remove_after(directory: Path, path: Path) -> None:
    """Remove the checkpoints that are newer than ``path``."""
    for newer in (p for p in directory.glob("[0-9]*") if p.name > path.name):
        shutil.rmtree(newer)


def tensors(state: Any, path: str = "") -> dict[str, torch.Tensor]:
    """Every tensor in a nested state, by its path."""
    match state:
        case torch.Tensor():
            return {path: state}
        case Mapping():
            items: Iterable[tuple[Any, Any]] = state.items()
        case list() | tuple():
            items = enumerate(state)
        case _:
            return {}
    return {
        name: tensor
        for key, value in items
        for name, tensor in tensors(value, f"{path}/{key}" if path else str(key)).items()
    }


def _flatten(value: Any, key: str, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON for ``value``, whose tensors move to ``tensors`` under their path."""
    match value:
        case torch.Tensor():
            # a clone, because safetensors refuses tensors that share memory
            tensors[key] = value.detach().cpu().contiguous().clone()
            return {"$tensor": key}
        case Mapping():
            pairs = [[k, _flatten(v, f"{key}/{k}", tensors)] for k, v in value.items()]
            return {"$dict": pairs}
        case tuple():
            return {"$tuple": [_flatten(v, f"{key}/{i}", tensors) for i, v in enumerate(value)]}
        case list():
            return [_flatten(v, f"{key}/{i}", tensors) for i, v in enumerate(value)]
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"state holds a {type(value).__name__} at {key!r}: use tensors, numbers, text")


def _unflatten(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    match tree:
        case {"$tensor": key}:
            return tensors[key]
        case {"$dict": pairs}:
            return {k: _unflatten(v, tensors) for k, v in pairs}
        case {"$tuple": items}:
            return tuple(_unflatten(v, tensors) for v in items)
        case list():
            return [_unflatten(v, tensors) for v in tree]
    return tree


def _replace(target: Path, new: Path, aside: Path) -> None:
    """Rename ``new`` to ``target``; what is there is moved aside, and back if that fails."""
    if not target.exists():
        new.rename(target)
        return
    target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        aside.rename(target)
        raise


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
