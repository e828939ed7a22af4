"""A published model: its versions that serve, and which of them answers whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gan_core.card import ModelCard

__all__ = ["MAX_BATCH_SIZE", "MAX_PICTURES", "Published", "Release"]

MAX_BATCH_SIZE = 32
MAX_PICTURES = 8
"""The same of pictures that come in: each is as much work as many images from latents."""

Version = Annotated[int, Field(ge=1)]


class Release(BaseModel):
    """Which version answers those who name none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Version
    """It does."""
    previous: Version | None = None
    """It did before."""
    canary: Version | None = None
    """It does for a share of the requests, on trial."""
    weight: Annotated[float, Field(gt=0, lt=1)] | None = None
    """That share."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if (self.canary is None) != (self.weight is None) or self.canary == self.version:
            raise ValueError("a canary is another version, and has a weight")
        return self

    def warm(self) -> set[int]:
        """The versions that have to be in memory: what serves, and what would replace it."""
        other = self.previous if self.canary is None else self.canary
        return {self.version} if other is None else {self.version, other}


@dataclass(frozen=True, slots=True)
class Published:
    """A model as its config.pbtxt describes it."""

    name: str
    cards: Mapping[int, ModelCard]
    """By version, for every version that serves."""
    release: Release
    """Who is answered by which of them."""
    max_batch_size: int = MAX_BATCH_SIZE
    """Most rows of one inference."""

    @property
    def version(self) -> int:
        """The version that answers those who name none."""
        return self.release.version

    @property
    def card(self) -> ModelCard:
        """That version's card."""
        return self.cards[self.version]
