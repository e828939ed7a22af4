"""What the paper says of Progressive GAN, as tests of a built trainer."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gan_core.checks import modules, param_group
from gan_core.data import Batch
from gan_core.layers import MinibatchStddev
from gan_core.losses import Wasserstein

from .growth import Growth, Stage
from .layers import PixelNorm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from gan_core.trainer import AdversarialStep

__all__ = [
    "activations",
    "adam",
    "ends_alone",
    "equalised_rate",
    "fades_upwards",
    "fresh_optimizers",
    "initial_weights",
    "linear_output",
    "loss",
    "one_alpha",
    "pixel_norms",
    "spread_at_four_px",
    "spread_over_n",
    "stable_first",
    "starts_as_before",
    "unit_mean_square",
]

N = 4
"""Images that a check makes."""
ORIGINAL = "parametrizations.weight.original"


def initial_weights(trainer: AdversarialStep) -> bool:
    """What the optimisers learn starts as N(0, 1), to within six standard errors."""
    learnt = [_learnt(layer).flatten() for layer in _layers(trainer)]
    weights = torch.cat(learnt)
    error = 1 / len(weights) ** 0.5
    return bool(abs(weights.mean()) < 6 * error and abs(weights.std() - 1) < 6 * error)


def equalised_rate(trainer: AdversarialStep) -> bool:
    """Every layer scales its weight by gain/√fan_in; the gain is √2 with four exceptions."""
    G: Any = trainer.raw_G
    D: Any = trainer.raw_D
    dense = next(layer for layer in G.modules() if isinstance(layer, nn.Linear))
    gains = {id(dense): math.sqrt(2) / 4, id(D.head): 1.0}
    gains |= {id(layer): 1.0 for layer in G.to_images.modules()}
    return all(_is_scaled(layer, gains.get(id(layer), math.sqrt(2))) for layer in _layers(trainer))


def pixel_norms(trainer: AdversarialStep) -> bool:
    """The input z is normalised, and so is what each layer of G makes but those of images."""
    G: Any = trainer.raw_G
    kinds = {nn.Linear: "layer", nn.Conv2d: "layer", nn.LeakyReLU: "slope", PixelNorm: "norm"}
    order = [
        name
        for module in [*G.first.modules(), *G.blocks.modules()]
        for kind, name in kinds.items()
        if isinstance(module, kind)
    ]
    return order == ["norm", *["layer", "slope", "norm"] * order.count("layer")]


@torch.no_grad()
def unit_mean_square(trainer: AdversarialStep) -> bool:
    """Each norm leaves the features of a pixel at a mean square of 1."""
    squares: list[Tensor] = []
    norms = [module for module in trainer.raw_G.modules() if isinstance(module, PixelNorm)]
    hooks = [
        norm.register_forward_hook(lambda _, inputs, x: squares.append(x.square().mean(1)))
        for norm in norms
    ]
    _growth(trainer).show(Stage(_last(trainer), 1.0))
    trainer.raw_G(_z(trainer))
    for hook in hooks:
        hook.remove()
    return len(squares) > 0 and all(bool(((s - 1).abs() < 1e-2).all()) for s in squares)


@torch.no_grad()
def linear_output(trainer: AdversarialStep) -> bool:
    """A last layer a thousand times as large makes images a thousand times as large."""
    _growth(trainer).show(Stage(_last(trainer), 1.0))
    z, larger = _z(trainer), copy.deepcopy(trainer.raw_G)
    to_images: Any = larger.to_images
    for parameter in to_images.parameters():
        parameter.mul_(1000)
    return torch.allclose(larger(z), 1000 * trainer.raw_G(z), rtol=1e-3, atol=1e-3)


def activations(trainer: AdversarialStep) -> bool:
    """Whatever has a slope is a LeakyReLU with 0.2, one per hidden layer of D."""
    others = (nn.ReLU, nn.ELU, nn.PReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid)
    leaky = [m for m in trainer.raw_D.modules() if isinstance(m, nn.LeakyReLU)]
    return (
        len(leaky) == len(_weighted(trainer.raw_D)) - 1
        and all(m.negative_slope == 0.2 for m in modules(trainer) if isinstance(m, nn.LeakyReLU))
        and not any(isinstance(m, others) for m in modules(trainer))
    )


@torch.no_grad()
def spread_at_four_px(trainer: AdversarialStep) -> bool:
    """One minibatch standard deviation over groups of 4, of maps of 4×4 px."""
    found = [module for module in trainer.raw_D.modules() if isinstance(module, MinibatchStddev)]
    if [layer.group for layer in found] != [4]:
        return False
    sides: list[torch.Size] = []
    hook = found[0].register_forward_hook(lambda _, inputs, x: sides.append(inputs[0].shape[2:]))
    trainer.raw_D(trainer.raw_G(_z(trainer)))
    hook.remove()
    return sides == [(4, 4)]


def spread_over_n(trainer: AdversarialStep) -> bool:
    """The spread of 0, 0, 2 and 2 is 1; divided by N − 1 it would be 1.15."""
    found = [module for module in trainer.raw_D.modules() if isinstance(module, MinibatchStddev)]
    maps = torch.tensor([0.0, 0.0, 2.0, 2.0])[:, None, None, None].expand(4, 3, 4, 4)
    return bool(found) and all(bool((layer(maps)[:, 3] - 1).abs().max() < 1e-4) for layer in found)


def loss(trainer: AdversarialStep) -> bool:
    """WGAN-GP with λ = 10, and 0.001·D(x)² on the reals."""
    penalties = [(p.name, p.weight, p.interval) for p in trainer.players["D"].penalties]
    return trainer.loss == Wasserstein(drift=0.001) and ("gp", 10.0, 1) in penalties


def adam(trainer: AdversarialStep) -> bool:
    """Both networks are trained by Adam with the settings of the paper's appendix A.1."""
    groups = [param_group(trainer, side) for side in "GD"]
    settings = {(group["initial_lr"], group["betas"], group["eps"]) for group in groups}
    return settings == {(1e-3, (0.0, 0.99), 1e-8)}


def stable_first(trainer: AdversarialStep) -> bool:
    """The first images are 4 px, and are so for as long as any level is stabilised."""
    schedule = _growth(trainer).schedule
    before_any = schedule.stabilise_kimg - 0.001
    return schedule(0.0) == schedule(before_any) == Stage(0, 1.0)


def fades_upwards(trainer: AdversarialStep) -> bool:
    """A level begins at alpha 0, and alpha never falls while the level stays."""
    schedule = _growth(trainer).schedule
    end_kimg = schedule.grown_kimg + schedule.stabilise_kimg
    stages = [schedule(end_kimg * i / 1000) for i in range(1001)]
    rises = stages == sorted(stages)  # by level, and by alpha within a level
    begun = {stage.level for stage in stages if stage.alpha < 0.1}
    fading = {stage.level for stage in stages if 0 < stage.alpha < 1}
    return rises and begun == fading == set(range(1, _last(trainer) + 1))


@torch.no_grad()
def starts_as_before(trainer: AdversarialStep) -> bool:
    """A new level with alpha 0 changes neither the fakes, nor the logits, nor the reals."""
    z, real = _z(trainer), _noise(trainer)
    for level in range(1, _last(trainer) + 1):
        before = _seen(trainer, Stage(level - 1, 1.0), z, real)
        if not _same(before, _seen(trainer, Stage(level, 0.0), z, real)):
            return False
    return True


@torch.no_grad()
def ends_alone(trainer: AdversarialStep) -> bool:
    """There is no step where a fade ends, and nothing below alpha 1 equals alpha 1."""
    z, real, level = _z(trainer), _noise(trainer), _last(trainer)
    alone = _seen(trainer, Stage(level, 1.0), z, real)
    near = _seen(trainer, Stage(level, 1 - 1e-6), z, real)
    half = _seen(trainer, Stage(level, 0.5), z, real)
    apart = [not torch.allclose(a, b, atol=1e-4) for a, b in zip(alone, half, strict=True)]
    return _same(alone, near) and all(apart)


@torch.no_grad()
def one_alpha(trainer: AdversarialStep) -> bool:
    """At 0.25 fakes and reals are ¾ of the old level and ¼ of the new; all networks are told."""
    z, real, level = _z(trainer), _noise(trainer), _last(trainer)
    old = _seen(trainer, Stage(level - 1, 1.0), z, real)
    new = _seen(trainer, Stage(level, 1.0), z, real)
    mixed = _seen(trainer, Stage(level, 0.25), z, real)
    average: Any = trainer.generator()
    D: Any = trainer.raw_D
    told = (D.level, D.alpha) == (average.level, average.alpha) == (level, 0.25)
    pairs = [torch.lerp(a, b, 0.25) for a, b in zip(old[:2], new[:2], strict=True)]
    return told and _same(tuple(pairs), mixed[:2])


def fresh_optimizers(trainer: AdversarialStep) -> bool:
    """Adam's moments are kept while a level stays and forgotten where the next one begins."""
    growth, batch = _growth(trainer), Batch(_noise(trainer))
    growth.before_step(batch, 0.0)
    for optimizer in (trainer.optimizer_G, trainer.optimizer_D):
        parameter = optimizer.param_groups[0]["params"][0]
        optimizer.state[parameter] = {"exp_avg": torch.zeros_like(parameter)}
    growth.before_step(batch, 0.001)
    kept = bool(trainer.optimizer_G.state) and bool(trainer.optimizer_D.state)
    growth.before_step(batch, growth.schedule.stabilise_kimg)
    return kept and not trainer.optimizer_G.state and not trainer.optimizer_D.state


def _seen(
    trainer: AdversarialStep, stage: Stage, z: Tensor, real: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Fakes, reals, and D's logits of full-size images, at a stage."""
    growth = _growth(trainer)
    growth.show(stage)
    return trainer.raw_G(z), growth.at_stage(real), trainer.raw_D(real)


def _same(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    return all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ours, theirs, strict=True))


def _growth(trainer: AdversarialStep) -> Growth:
    return next(s for s in trainer.stabilisers if isinstance(s, Growth))


def _last(trainer: AdversarialStep) -> int:
    return _growth(trainer).schedule.last_level


def _z(trainer: AdversarialStep) -> Tensor:
    return torch.randn(N, trainer.latent.dim)


@torch.no_grad()
def _noise(trainer: AdversarialStep) -> Tensor:
    """Images without any likeness between neighbouring pixels."""
    return torch.randn_like(trainer.raw_G(_z(trainer)))


def _weighted(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def _layers(trainer: AdversarialStep) -> Iterator[nn.Module]:
    yield from _weighted(trainer.raw_G)
    yield from _weighted(trainer.raw_D)


def _learnt(layer: nn.Module) -> Tensor:
    """The parameter behind a weight."""
    parameters = dict(layer.named_parameters())
    return parameters.get(ORIGINAL, parameters.get("weight", torch.zeros(1))).detach()


def _is_scaled(layer: nn.Module, gain: float) -> bool:
    learnt = _learnt(layer)
    used: Any = layer.weight
    return torch.allclose(used, learnt * gain / math.sqrt(learnt[0].numel()))
