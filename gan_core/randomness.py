"""The generators of random numbers that training draws from: seeded, saved and restored."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Draws", "rng_state", "seed_everything", "set_rng_state"]


def seed_everything(seed: int) -> None:
    """Seed every generator of random numbers whose state a checkpoint holds."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """The state of all of them: tensors and plain values, nested."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    version, internal, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=True)
    name, keys, *rest = numpy_state
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "python": (version, internal, gauss),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Take over what ``rng_state()`` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))


class Draws:
    """Random numbers of a generator, for tensors on a device, which may be another than its own."""

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        self.generator = generator
        self.device = device

    def uniform(self, n: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """So many between two bounds [n]."""
        found = torch.rand(n, generator=self.generator, device=self.generator.device)
        return (low + (high - low) * found).to(self.device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal ones."""
        found = torch.randn(shape, generator=self.generator, device=self.generator.device)
        return found.to(self.device)

    def poisson(self, rates: Tensor) -> Tensor:
        """Counts of those rates.

        How many random numbers they take depends on the last bit of the rates, which is a
        machine's own: they come from a generator of theirs, so that what is drawn later is not.
        """
        device = self.generator.device
        seed = torch.randint(2**62, (1,), generator=self.generator, device=device)
        own = torch.Generator(device).manual_seed(int(seed))
        return torch.poisson(rates.to(device), own).to(self.device)
