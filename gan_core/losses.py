"""Adversarial losses on logits: [N] and [N] in, [N] out; the trainer takes the mean.

All but the relativistic average are per sample.

Logits, never probabilities: softplus is exact where sigmoid followed by log isn't.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch.nn.functional import relu, softplus

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "AdversarialLoss",
    "Hinge",
    "LeastSquares",
    "Minimax",
    "NonSaturating",
    "Relativistic",
    "RelativisticAverage",
    "Wasserstein",
]


class AdversarialLoss(Protocol):
    """What the two networks minimise."""

    @property
    def needs_real(self) -> bool:
        """Whether the generator's loss compares with D(real), as relativistic losses do."""

    @property
    def boundary(self) -> float | None:
        """The logit between real and fake; None where only differences of logits mean anything."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Loss of D, [N]."""

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        """Loss of G, [N]; ``real_logits`` is None unless ``needs_real``."""


@dataclass(frozen=True, slots=True)
class _CrossEntropy:
    real_target: float = 1.0
    """Target for real images; 0.9 is one-sided label smoothing (Salimans et al. 2016, §3.4)."""

    @property
    def needs_real(self) -> bool:
        return False

    @property
    def boundary(self) -> float:
        # where D can't tell it settles at a probability of half the target, and not of ½
        return math.log(self.real_target / (2 - self.real_target))

    def __post_init__(self) -> None:
        if not 0.5 < self.real_target <= 1:
            raise ValueError(f"real_target {self.real_target} is not in (0.5, 1]")

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """−t·log D(x) − (1−t)·log(1−D(x)) − log(1−D(G(z))), with target t for real images."""
        t = self.real_target
        real = t * softplus(-real_logits)
        if t < 1:
            real = real + (1 - t) * softplus(real_logits)
        return real + softplus(fake_logits)


@dataclass(frozen=True, slots=True)
class NonSaturating(_CrossEntropy):
    """G maximises log D(G(z)) (Goodfellow et al. 2014, §3)."""

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        """−log D(G(z))."""
        return softplus(-fake_logits)


@dataclass(frozen=True, slots=True)
class Minimax(_CrossEntropy):
    """G minimises log(1 − D(G(z))): the zero-sum game (Goodfellow et al. 2014, eq. 1)."""

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        """log(1 − D(G(z))) = −softplus(logit)."""
        return -softplus(fake_logits)


@dataclass(frozen=True, slots=True)
class LeastSquares:
    """Squared distance of the logit from 0 for fakes and 1 for reals (Mao et al. 2017)."""

    real_target: float = 1.0

    @property
    def needs_real(self) -> bool:
        """No."""
        return False

    @property
    def boundary(self) -> float:
        """Halfway between the targets."""
        return 0.5 * self.real_target

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """½(D(x) − t)² + ½D(G(z))²."""
        return 0.5 * (real_logits - self.real_target).square() + 0.5 * fake_logits.square()

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        """½(D(G(z)) − 1)²."""
        return 0.5 * (fake_logits - 1).square()


@dataclass(frozen=True, slots=True)
class Hinge:
    """Hinge loss (Lim & Ye 2017; Miyato et al. 2018)."""

    @property
    def needs_real(self) -> bool:
        """No."""
        return False

    @property
    def boundary(self) -> float:
        """0."""
        return 0.0

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """max(0, 1 − D(x)) + max(0, 1 + D(G(z)))."""
        return relu(1 - real_logits) + relu(1 + fake_logits)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        """−D(G(z))."""
        return -fake_logits


@dataclass(frozen=True, slots=True)
class Wasserstein:
    """The critic's estimate of −W₁ (Arjovsky et al. 2017); needs a Lipschitz critic."""

    drift: float = 0.0
    """Weight of D(x)², which keeps logits from drifting away. Karras et al. 2018: 0.001."""

    @property
    def needs_real(self) -> bool:
        """No."""
        return False

    @property
    def boundary(self) -> None:
        """None: a critic is free to shift all its logits."""
        return

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """D(G(z)) − D(x) + drift · D(x)²."""
        loss = fake_logits - real_logits
        return loss + self.drift * real_logits.square() if self.drift else loss

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        """−D(G(z))."""
        return -fake_logits


@dataclass(frozen=True, slots=True)
class Relativistic:
    """Each fake against a real: RpGAN (Jolicoeur-Martineau 2019; Huang et al. 2024, eq. 2)."""

    @property
    def needs_real(self) -> bool:
        """Yes."""
        return True

    @property
    def boundary(self) -> None:
        """None: only differences count."""
        return

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """softplus(−(D(x) − D(G(z))))."""
        return softplus(fake_logits - real_logits)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        """softplus(−(D(G(z)) − D(x)))."""
        return softplus(real_logits - fake_logits)  # type: ignore[operator] # needs_real


@dataclass(frozen=True, slots=True)
class RelativisticAverage:
    """Each image against the mean of the other kind: RaGAN (Jolicoeur-Martineau 2019), ESRGAN's."""

    @property
    def needs_real(self) -> bool:
        """Yes."""
        return True

    @property
    def boundary(self) -> None:
        """None: only differences count."""
        return

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """−log σ(D(x) − E D(G(z))) − log(1 − σ(D(G(z)) − E D(x)))."""
        real, fake = real_logits - fake_logits.mean(), fake_logits - real_logits.mean()
        return softplus(-real) + softplus(fake)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        """The same with the two exchanged."""
        return self.discriminator(fake_logits, real_logits)  # type: ignore[arg-type] # needs_real
