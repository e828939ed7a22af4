"""Training images in memory or mapped from disk, and the order in which they are seen.

The order is a function of (seed, position) alone, so that a resumed run continues with the
very batch that would have come next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from .card import DataSource
from .errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from .plugins import Plugins

__all__ = [
    "Batch",
    "Dataset",
    "Images",
    "TrainingData",
    "TrainingImages",
    "fingerprint",
    "open_data",
    "open_training",
]

OF_FOLDERS = ("crops", "folder")
"""Datasets whose argument is a path."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a trainer's step takes; images are uint8, as stored, until ``to`` has scaled them."""

    real: Tensor
    """Float32 [N, C, H, W] in [-1, 1]."""
    label: Tensor | None = None
    """Class index, int64 [N]."""
    source: Tensor | None = None
    """Image-to-image input, float32 [N, C, h, w] in [-1, 1]."""
    text: Tensor | None = None
    """Sentence embedding, float32 [N, dim]."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device, its images scaled there: bytes are a quarter of floats."""
        rest = (self.label, self.source, self.text)
        moved = (None if tensor is None else _moved(tensor, device) for tensor in rest)
        return Batch(_moved(self.real, device), *moved)


class TrainingData(Protocol):
    """All that the training loop knows of a training set."""

    @property
    def source(self) -> DataSource:
        """Where it comes from."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, none where it has no labels."""

    def __len__(self) -> int:
        """How many images there are."""

    def batches(
        self, batch_size: int, *, seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Endless batches from position ``start`` on, the images seen by all ranks so far.

        What comes at a position is a function of ``seed`` and the position alone: batches may
        change in size, and a resumed run goes on where it was. Of a step's ``world`` ×
        ``batch_size`` positions each rank gets its own ``batch_size``.
        """


class TrainingImages(TrainingData, Protocol):
    """A training set of square images, whose shape a configuration takes."""

    @property
    def channels(self) -> int:
        """1 grey, 3 RGB."""

    @property
    def resolution_px(self) -> int:
        """Side of the images."""


@dataclass(frozen=True, slots=True)
class Images:
    """A training set in memory or mapped from disk, and its labels."""

    pixels: NDArray[np.uint8] | NDArray[np.float32]
    """[N, C, H, W]: bytes; or floats that are in [-1, 1] already, as points in the plane are."""
    source: DataSource
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def channels(self) -> int:
        """1 grey, 3 RGB."""
        return int(self.pixels.shape[1])

    @property
    def resolution_px(self) -> int:
        """Side of the square images."""
        return int(self.pixels.shape[2])

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """Those images as they are stored, on the CPU."""
        label = None if self.labels is None else torch.from_numpy(self.labels[indices])
        return Batch(torch.from_numpy(self.pixels[indices]), label)

    def batches(
        self, batch_size: int, *, seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Endless batches from position ``start`` on (images seen by all ranks so far).

        The images are a stream of permutations, one per epoch and each a function of (seed,
        epoch); nothing of an epoch is dropped.

        Raises:
            DataError: the set is smaller than one step of all ranks.
        """
        step_size = batch_size * world
        if step_size > len(self):
            raise DataError(
                f"{self.source.name} has {len(self)} images, fewer than the batch of {step_size}: "
                "set a smaller batch_size"
            )
        epoch, first = divmod(start, len(self))
        stream = _permutation(seed, epoch, len(self))[first:]
        while True:
            if len(stream) < step_size:
                epoch += 1
                stream = np.concatenate([stream, _permutation(seed, epoch, len(self))])
            begin = rank * batch_size
            yield self.batch(stream[begin : begin + batch_size])
            stream = stream[step_size:]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A training set that can be opened by name."""

    name: str
    """As in ``--data NAME`` or ``--data NAME:ARGUMENT``."""
    summary: str
    """One line for listings."""
    open: Callable[[str, int | None], TrainingImages]
    """(argument after the colon or "", side in px or None for the set's own) -> images."""
    extractor: str = "pixels"
    """Feature extractor that scores on this set use unless told otherwise."""
    metrics: tuple[str, ...] = ("fid", "kid")
    """Scores on this set, unless told otherwise."""


def open_training(
    spec: str, resolution_px: int | None, plugins: Plugins
) -> tuple[Dataset, TrainingImages]:
    """Open ``NAME`` or ``NAME:ARGUMENT``, to train on.

    Raises:
        PluginError: no dataset has that name.
        DataError: it can't be read.
    """
    name, _, argument = spec.partition(":")
    if name not in plugins.datasets and Path(spec).expanduser().is_dir():
        raise DataError(f"{spec} is a folder: write folder:{spec}, or crops:{spec} for upscalers")
    dataset = plugins.pick("dataset", name, plugins.datasets)
    return dataset, dataset.open(argument, resolution_px)


def open_data(spec: str, resolution_px: int | None, plugins: Plugins) -> tuple[Dataset, Images]:
    """Open ``NAME`` or ``NAME:ARGUMENT``, whose images are all there and each a whole one.

    Raises:
        PluginError: no dataset has that name.
        DataError: it can't be read, or its images are drawn at random.
    """
    dataset, images = open_training(spec, resolution_px, plugins)
    if not isinstance(images, Images):
        raise DataError(f"{spec} is crops at random places, not whole images: write folder:PATH")
    return dataset, images


def fingerprint(pixels: NDArray[Any], labels: NDArray[Any] | None) -> str:
    """sha256 over shape, pixels and labels."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    if labels is not None:
        digest.update(np.ascontiguousarray(labels, dtype=np.int64).data)
    return digest.hexdigest()


def _permutation(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device; bytes as float32 in [-1, 1]."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # else the copy would be waited for
    moved = tensor.to(device, non_blocking=True)
    return moved.float().div_(127.5).sub_(1.0) if moved.dtype == torch.uint8 else moved
