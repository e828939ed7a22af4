"""Where generated images come from, for scores. Torch-free: whoever serves can be a source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import ConfigError
from .latents import check_truncation, draw, seed_range

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .card import Input, ModelCard

__all__ = ["EPSILON", "Source", "of_card", "of_graph"]

BATCH = 64
EPSILON = 1e-4
"""Step along a path between two latents, whose length is 1."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where generated images come from: a checkpoint, a graph, a repository, or a server."""

    name: str
    inputs: tuple[Input, ...]
    resolution_px: int | None
    """Side of its images; None where it follows a request."""
    channels: int
    data: str
    """What it was trained on, as ``--data`` takes it; "" where that isn't known."""
    images: Callable[[int, int], Iterator[NDArray[Any]]]
    """(seed of the first, how many) -> batches [n, H, W, C] of seeds seed, seed + 1, …"""
    graph: Literal["onnx", "torch"] = "onnx"
    ema: bool | None = None
    """Whether averaged weights make them; None where nobody knows."""
    path: Callable[[int, int], Iterator[tuple[NDArray[Any], NDArray[Any]]]] | None = None
    """(seed, how many) -> pairs of batches [n, H, W, C] as floats of 0 to 255, EPSILON apart
    along a path of latents; of what is still a network, not a graph."""
    truncation: float | None = None
    """Of all of them; None = as the model does by itself."""
    version: int | None = None
    """Of a published model."""
    sha256: str = ""
    """Of the graph; "" of a network that isn't exported."""
    trained_kimg: float | None = None
    directory: Path | None = None
    """Where the card lies that scores are noted in, if there is one."""

    def identity(self) -> dict[str, Any]:
        """Which model it is, as far as that is known."""
        return {
            "name": self.name,
            "version": self.version,
            "sha256": self.sha256 or None,
            "trained_kimg": self.trained_kimg,
        }


def of_graph(graph: Path, card: ModelCard, truncation: float | None = None) -> Source:
    """The images that onnxruntime makes with an exported graph.

    Raises:
        ConfigError: the model doesn't take that truncation.
    """

    def images(seed: int, n: int) -> Iterator[NDArray[np.uint8]]:
        import onnxruntime

        try:
            session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises what it likes
            raise ConfigError(f"{graph} can't be run: {error}; export the run again") from error
        for start in range(0, n, BATCH):
            seeds = seed_range(seed + start, min(BATCH, n - start))
            pixels: NDArray[np.uint8] = session.run(None, draw(card.inputs, seeds, truncation))[0]
            yield pixels

    return of_card(card, images, truncation)


def of_card(
    card: ModelCard,
    images: Callable[[int, int], Iterator[NDArray[Any]]],
    truncation: float | None = None,
    version: int | None = None,
) -> Source:
    """The images that somebody makes with the graph that a card describes.

    Raises:
        ConfigError: the model doesn't take that truncation.
    """
    if truncation is not None:
        try:
            check_truncation(card.inputs, truncation)
        except ValueError as error:
            raise ConfigError(f"truncation of {card.model}: {error}") from error
    return Source(
        name=card.model,
        inputs=card.inputs,
        resolution_px=card.output.width,
        channels=card.output.channels,
        data="" if card.data.name.startswith(("crops:", "folder:")) else card.data.name,
        images=images,
        ema=card.ema,
        truncation=truncation,
        version=version,
        sha256=card.sha256,
        trained_kimg=card.trained_kimg,
    )
