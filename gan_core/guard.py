"""The divergence guard: tells a run that is failing from one that only looks odd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .variant import TrainConfig

__all__ = ["Guard"]


class Guard:
    """Looks at each tick's statistics; a symptom counts once it has lasted long enough.

    Args:
        config: its ``guard_…`` fields are the limits.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.since: dict[str, float] = {}
        """Kimg at which each symptom that is there now was first seen."""
        self.told: set[str] = set()
        """Symptoms that were there at the last tick and have been warned of."""

    def examine(self, stats: Mapping[str, float], kimg: float) -> dict[str, str]:
        """What is wrong, by symptom and in words, and has been for long enough."""
        symptoms = self._symptoms(stats)
        self.since = {name: self.since.get(name, kimg) for name in symptoms}
        patience = min(self.config.guard_patience_kimg, self.config.kimg / 2)
        lasting = [name for name, since in self.since.items() if kimg - since >= patience]
        return {name: symptoms[name] for name in lasting}

    @property
    def healthy_until(self) -> float | None:
        """Kimg before which there was no symptom of those there are now; None if there are none."""
        return min(self.since.values(), default=None)

    def state(self) -> dict[str, Any]:
        """Plain values."""
        return {"since": dict(self.since), "told": sorted(self.told)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state()`` returned."""
        self.since = dict(state["since"])
        self.told = set(state["told"])

    def _symptoms(self, stats: Mapping[str, float]) -> dict[str, str]:
        config = self.config
        found = {}
        for side in ("G", "D"):
            norm = stats.get(f"gradient_norm/{side}", 0.0)
            if norm > config.guard_gradient_norm:
                found[f"gradient/{side}"] = (
                    f"{side}'s gradient norm is {norm:.3g}, above {config.guard_gradient_norm:g}"
                )
        gap = abs(stats.get("logits/real", 0.0) - stats.get("logits/fake", 0.0))
        if gap > config.guard_logit_gap:
            found["gap"] = (
                f"logits of real and fake are {gap:.3g} apart, above {config.guard_logit_gap:g}"
            )
        accuracy = min(stats.get("accuracy/real", 0.0), stats.get("accuracy/fake", 0.0))
        if accuracy > config.guard_accuracy:
            found["accuracy"] = f"D is right about {accuracy:.1%} of images: G learns nothing"
        diversity = stats.get("diversity", 1.0)
        if diversity < config.guard_diversity:
            found["diversity"] = (
                f"fakes vary {diversity:.2g} times as much as reals, below "
                f"{config.guard_diversity:g}: mode collapse"
            )
        return found
