"""Densities whose divergences and distances are known: what theory's formulas are checked on.

Points are float64 [N, d] in one or two dimensions, divergences in nats. Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Array",
    "Estimate",
    "Function",
    "Mixture",
    "game_value",
    "js_divergence",
    "js_estimate",
    "js_from_logits",
    "kl_divergence",
    "kl_estimate",
    "mean_gap",
    "optimal_discriminator",
    "optimal_logits",
    "probabilities",
    "wasserstein1",
]

LARGEST_TRANSPORT = 2000
"""Points per side of an exact transport in the plane: 32 MB of distances, under a second."""

Array = NDArray[np.float64]
Function = Callable[[Array], Array]
"""Points [N, d] -> values [N]."""


class Estimate(NamedTuple):
    """A mean over samples."""

    value: float
    error: float
    """Standard error of the value."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """A mixture of isotropic Gaussians in one or two dimensions.

    Raises:
        ValueError: centres don't have 1 or 2 coordinates each, ``sigma`` is not above 0, or
            there isn't one positive weight per centre, 1 in all.
    """

    means: Sequence[Sequence[float]]
    """K centres of d coordinates."""
    sigma: float = 1.0
    """Standard deviation of every Gaussian along every axis."""
    weights: Sequence[float] | None = None
    """One per centre, 1 in all; None = equal."""

    def __post_init__(self) -> None:
        if len({len(mean) for mean in self.means}) != 1 or self.dimensions not in (1, 2):
            raise ValueError(f"means {self.means} are not points of one or of two dimensions")
        if self.sigma <= 0:
            raise ValueError(f"sigma {self.sigma} is not above 0")
        shares = self.shares
        if len(shares) != len(self.means) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
            expected = f"{len(self.means)} positive numbers, 1 in all"
            raise ValueError(f"weights {self.weights} are not {expected}")

    @property
    def dimensions(self) -> int:
        """Coordinates of a point, 1 or 2."""
        return len(self.means[0])

    @property
    def shares(self) -> Sequence[float]:
        """Weight of each Gaussian."""
        return self.weights or [1 / len(self.means)] * len(self.means)

    def log_density(self, x: Array) -> Array:
        """Log p(x), [N]; finite however far x is from every centre."""
        squared = np.square(x[:, None] - np.asarray(self.means)).sum(-1)  # [N, K]
        scale = self.dimensions * math.log(self.sigma * math.sqrt(2 * math.pi))
        terms = np.log(self.shares) - squared / (2 * self.sigma**2) - scale
        return np.asarray(np.logaddexp.reduce(terms, axis=1))

    def density(self, x: Array) -> Array:
        """The density p(x), [N]."""
        return np.exp(self.log_density(x))

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Points drawn from it, [n, d]."""
        chosen = rng.choice(len(self.means), n, p=self.shares)
        noise = rng.standard_normal((n, self.dimensions))
        return np.asarray(self.means)[chosen] + self.sigma * noise


def optimal_logits(data: Mixture, generated: Mixture) -> Function:
    """The logit of D*: log p_data − log p_g."""
    return lambda x: data.log_density(x) - generated.log_density(x)


def optimal_discriminator(data: Mixture, generated: Mixture) -> Function:
    """D* = p_data / (p_data + p_g) (Goodfellow et al. 2014, proposition 1)."""
    logits = optimal_logits(data, generated)
    return lambda x: probabilities(logits(x))


def probabilities(logits: Array) -> Array:
    """σ(logits), without overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * logits)


def kl_divergence(p: Mixture, q: Mixture) -> float:
    """KL(p‖q) = ∫ p log(p/q), by quadrature."""
    return _integral(p, lambda x: p.log_density(x) - q.log_density(x), _step(p, q))


def js_divergence(p: Mixture, q: Mixture) -> float:
    """JS(p, q) = ½KL(p‖m) + ½KL(q‖m) with m = ½(p + q), in [0, log 2], by quadrature."""

    def log_m(x: Array) -> Array:
        return np.logaddexp(p.log_density(x), q.log_density(x)) - math.log(2)

    step = _step(p, q)
    from_p = _integral(p, lambda x: p.log_density(x) - log_m(x), step)
    return 0.5 * (from_p + _integral(q, lambda x: q.log_density(x) - log_m(x), step))


def game_value(data: Mixture, generated: Mixture, logits: Function | None = None) -> float:
    """V(G, D) = E log D(x) + E log(1 − D(G(z))), by quadrature; D has these logits, or is D*.

    V(G, D*) = C(G) = −log 4 + 2·JS(p_data, p_g), at least −log 4, which only p_g = p_data
    reaches (Goodfellow et al. 2014, theorem 1).
    """
    judge, step = logits or optimal_logits(data, generated), _step(data, generated)
    real = _integral(data, lambda x: _log_sigmoid(judge(x)), step)
    return real + _integral(generated, lambda x: _log_sigmoid(-judge(x)), step)


def mean_gap(data: Mixture, generated: Mixture, f: Function, g: Function) -> float:
    """∫ ½(p_data + p_g)·|f − g|: how far two functions are apart where D sees samples."""
    step = _step(data, generated)
    return 0.5 * sum(_integral(p, lambda x: np.abs(f(x) - g(x)), step) for p in (data, generated))


def kl_estimate(samples: Array, p: Mixture, q: Mixture) -> Estimate:
    """KL(p‖q) from samples of p: the mean of log p(x) − log q(x)."""
    return _mean(p.log_density(samples) - q.log_density(samples))


def js_estimate(real: Array, fake: Array, data: Mixture, generated: Mixture) -> Estimate:
    """JS(p_data, p_g) from samples of both: ``js_from_logits`` of D*, where it is tight."""
    logits = optimal_logits(data, generated)
    return js_from_logits(logits(real), logits(fake))


def js_from_logits(real_logits: Array, fake_logits: Array) -> Estimate:
    """A lower bound of JS from any D: log 2 + ½E log D(x) + ½E log(1 − D(G(z))).

    It is ½(V(G, D) + log 4), and V(G, D) ≤ V(G, D*). It holds of samples that D wasn't trained
    on: its own it may know by heart.
    """
    real, fake = _mean(_log_sigmoid(real_logits)), _mean(_log_sigmoid(-fake_logits))
    value = math.log(2) + 0.5 * (real.value + fake.value)
    return Estimate(value, 0.5 * math.hypot(real.error, fake.error))


def wasserstein1(a: Array, b: Array) -> float:
    """Exact W₁ of two sample sets [N, d] and [M, d]: the mean way of the cheapest transport.

    On the line by sorting, for any sizes; else by optimal assignment, for N = M ≤ 2000.

    Raises:
        ValueError: the sets differ in dimension, or are too large or differ in size for d > 1.
    """
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped] # has no types
    from scipy.stats import wasserstein_distance  # type: ignore[import-untyped] # has no types

    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"sample sets {a.shape} and {b.shape} are not [N, d] and [M, d]")
    if a.shape[1] == 1:
        return float(wasserstein_distance(a[:, 0], b[:, 0]))
    if len(a) != len(b) or len(a) > LARGEST_TRANSPORT:
        raise ValueError(
            f"sample sets of {len(a)} and {len(b)} points: exact transport in {a.shape[1]} "
            f"dimensions takes equal sizes of at most {LARGEST_TRANSPORT}"
        )
    distances = np.linalg.norm(a[:, None] - b, axis=-1)
    return float(distances[linear_sum_assignment(distances)].mean())


def _step(p: Mixture, q: Mixture) -> float:
    """Distance of grid points that both densities are smooth on."""
    small, large = sorted((p.sigma, q.sigma))
    if p.dimensions != q.dimensions or large > 10 * small:
        raise ValueError(f"no quadrature for {p} and {q}: dimensions differ, or sigmas 10-fold")
    return small / 6


def _integral(p: Mixture, f: Function, step: float) -> float:
    """∫ p·f, by the trapezoidal rule on a grid of ±8σ around each Gaussian.

    Its error falls exponentially with the step for smooth functions that vanish at both ends;
    with a grid each, far-apart Gaussians cost no more than close ones.
    """
    n = math.ceil(8 * p.sigma / step)
    axis = step * np.arange(-n, n + 1)
    offsets = np.stack(np.meshgrid(*[axis] * p.dimensions), -1).reshape(-1, p.dimensions)
    mass = np.exp(-np.square(offsets).sum(1) / (2 * p.sigma**2))
    mass /= mass.sum()
    parts = zip(p.shares, p.means, strict=True)
    return float(sum(share * (mass @ f(offsets + np.asarray(mean))) for share, mean in parts))


def _mean(values: Array) -> Estimate:
    return Estimate(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)))


def _log_sigmoid(logits: Array) -> Array:
    """Log σ(logits), exact where σ rounds to 0 or 1."""
    return -np.logaddexp(0.0, -logits)
