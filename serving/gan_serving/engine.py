"""What runs a published graph: the Engine protocol that every executor implements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .published import Published

__all__ = ["Engine", "Executions", "Inference"]

Inputs = Mapping[str, "NDArray[Any]"]


@dataclass(frozen=True, slots=True)
class Inference:
    """An engine's answer."""

    image: NDArray[Any]
    """uint8 [N, H, W, C], or uint16 where the model has 16 bits."""
    version: int
    """The model's version that made it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Executions:
    """What an engine has done with one version of a model since it loaded it."""

    model: str
    version: int
    images: int
    runs: int
    """Of the graph; images / runs is the mean batch."""
    succeeded: int
    """Parts of requests that were answered."""
    failed: int
    queue_s: float
    """That all of them together have waited in the engine."""
    compute_s: float
    """That all of them together were worked on; a batch counts for each that shares it."""
    queued: int | None = None
    """Parts that wait now; None where the engine doesn't tell."""


class Engine(Protocol):
    """Runs published graphs. Every method raises ``ServiceError`` and nothing else."""

    async def infer(
        self, model: str, inputs: Inputs, version: int | None, timeout_s: float
    ) -> Inference:
        """Run the graph on tensors with a leading batch axis of at most max_batch_size.

        Who is cancelled may have to wait until a run that can't be stopped is over.

        Raises:
            DeadlineExceeded: there is no answer within ``timeout_s``.
        """

    async def published(self, model: str) -> Published:
        """The versions that serve, with their cards."""

    async def models(self) -> list[str]:
        """Names of the models that can be asked for."""

    async def executions(self, timeout_s: float) -> list[Executions]:
        """What was done so far, of each version that is loaded."""

    async def close(self) -> None:
        """Let go of threads and connections."""
