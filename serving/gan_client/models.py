"""``client.models``: what is published, as cards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .runner import Runner

if TYPE_CHECKING:
    from gan_core.card import ModelCard

    from .client import AsyncClient

__all__ = ["AsyncModels", "Models"]


class AsyncModels:
    """``client.models``."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> list[ModelCard]:
        """The newest card of every model."""
        return await self._client.call(lambda transport, _: transport.models())

    async def retrieve(self, model: str, version: int | None = None) -> ModelCard:
        """The card of one model's version; the newest by default.

        Raises:
            ModelNotFound: it isn't published.
        """
        return await self._client.call(lambda transport, _: transport.model(model, version))


class Models:
    """``client.models``."""

    def __init__(self, models: AsyncModels, runner: Runner) -> None:
        self._models = models
        self._runner = runner

    def list(self) -> list[ModelCard]:
        """The newest card of every model."""
        return self._runner.call(self._models.list())

    def retrieve(self, model: str, version: int | None = None) -> ModelCard:
        """As ``AsyncModels.retrieve``."""
        return self._runner.call(self._models.retrieve(model, version))
