"""An engine at the seam: it gives what a test wants, and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gan_core.card import ModelCard
from gan_core.errors import DeadlineExceeded, ModelNotFound
from gan_serving.engine import Executions, Inference
from gan_serving.published import Published, Release
from tests.serving.graphs import card_of, watermark

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FakeEngine"]

Answer = Callable[[Mapping[str, "NDArray[Any]"]], "NDArray[np.uint8]"]


class FakeEngine:
    """Serves cards with pictures from a function.

    Args:
        cards: what it offers; ``marked``, with the watermark graph's card, by default.
        answer: inputs to pixels; black by default.
    """

    def __init__(self, *cards: ModelCard, answer: Answer | None = None) -> None:
        self.cards = {card.model: card for card in cards or (card_of(watermark(), "marked"),)}
        self.asked: list[dict[str, NDArray[Any]]] = []
        self.versions: list[int | None] = []
        self.timeouts_s: list[float] = []
        self.error: Exception | None = None
        """Raised by infer, where there is one."""
        self.delay_s = 0.0
        self.closed = False
        self.done: list[Executions] = []
        """What it says of what it has done."""
        self._answer = answer

    async def infer(
        self, model: str, inputs: Mapping[str, NDArray[Any]], version: int | None, timeout_s: float
    ) -> Inference:
        """The picture, or the error."""
        self.asked.append(dict(inputs))
        self.versions.append(version)
        self.timeouts_s.append(timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(self.delay_s)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{model} gave no answer in time") from error
        if self.error:
            raise self.error
        return Inference(self._picture(model, inputs), version or 1)

    def _picture(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
        import numpy as np

        if self._answer:
            return self._answer(inputs)
        output = self.cards[model].output
        n = len(next(iter(inputs.values())))
        return np.zeros((n, output.height or 1, output.width or 1, output.channels), np.uint8)

    async def published(self, model: str) -> Published:
        """Version 1 of the model."""
        if model not in self.cards:
            raise ModelNotFound(f"no model is called {model!r}; published: marked", param="model")
        return Published(model, {1: self.cards[model]}, Release(version=1))

    async def models(self) -> list[str]:
        """Names."""
        return sorted(self.cards)

    async def executions(self, timeout_s: float) -> list[Executions]:
        """What the test says; or the error."""
        if self.error:
            raise self.error
        return self.done

    async def close(self) -> None:
        """Remember it."""
        self.closed = True
