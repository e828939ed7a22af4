"""What runs a published graph: the Engine protocol that every executor implements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .published import Published

__all__ = ["Engine", "Inference"]

Inputs = Mapping[str, "NDArray[Any]"]


@dataclass(frozen=True, slots=True)
class Inference:
    """An engine's answer."""

    image: NDArray[np.uint8]
    """uint8 [N, H, W, C]."""
    version: int
    """The model's version that made it."""


class Engine(Protocol):
    """Runs published graphs. Every method raises ``ServiceError`` and nothing else."""

    async def infer(
        self, model: str, inputs: Inputs, version: int | None, timeout_s: float
    ) -> Inference:
        """Run the graph on tensors with a leading batch axis of at most max_batch_size."""

    async def published(self, model: str) -> Published:
        """The versions that serve, with their cards."""

    async def models(self) -> list[str]:
        """Names of the models that can be asked for."""

    async def close(self) -> None:
        """Let go of threads and connections."""
