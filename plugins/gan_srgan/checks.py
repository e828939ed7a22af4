"""What the paper says of SRGAN's networks and losses, as tests of a built trainer."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import mse_loss

from gan_core.checks import norms
from gan_core.data import Batch
from gan_core.losses import NonSaturating

from .steps import FeatureDistance
from .trainer import SRGANConfig

if TYPE_CHECKING:
    from torch import Tensor

    from .steps import UpscalerStep

__all__ = [
    "adam",
    "critic_activations",
    "critic_norms",
    "frozen_features",
    "generator_norms",
    "kernels",
    "linear_output",
    "loss",
    "ranges",
    "reduced",
    "scaled_features",
    "schedule",
    "strides",
    "upsampler",
]

SIDE_PX = 16


def kernels(trainer: UpscalerStep) -> bool:
    """The first and the last convolution of G see 9×9 px, the others 3×3."""
    first, *inner, last = [conv.kernel_size for conv in _convolutions(_network(trainer, "G"))]
    return first == last == (9, 9) and set(inner) == {(3, 3)}


def generator_norms(trainer: UpscalerStep) -> bool:
    """G's body has BatchNorm, its other parts have no norm."""
    G = _network(trainer, "G")
    inside = norms(G.get_submodule("body"))
    return bool(inside) and len(norms(G)) == len(inside)


def upsampler(trainer: UpscalerStep) -> bool:
    """Two stages of a convolution, a PixelShuffle of 2 and a PReLU."""
    leaves = [one for one in _network(trainer, "G").modules() if not list(one.children())]
    after = [
        (one.upscale_factor, type(following))
        for one, following in pairwise(leaves)
        if isinstance(one, nn.PixelShuffle)
    ]
    return after == [(2, nn.PReLU)] * 2


def linear_output(trainer: UpscalerStep) -> bool:
    """Nothing in G bounds its images."""
    bounded = (nn.Tanh, nn.Sigmoid, nn.Hardtanh)
    G = _network(trainer, "G")
    *_, last = [one for one in G.modules() if not list(one.children())]
    return isinstance(last, nn.Conv2d) and not any(isinstance(one, bounded) for one in G.modules())


def ranges(trainer: UpscalerStep) -> bool:
    """Of what G and D are given: black and white at the ends of [0, 1] and [-1, 1]."""
    real = torch.ones_like(_noise(trainer))
    real[0] = -1
    given = _given(trainer, real)
    ends = [(given[side].min().item(), given[side].max().item()) for side in "GD"]
    return ends == [(0, 1), (-1, 1)]


def reduced(trainer: UpscalerStep) -> bool:
    """G's input is what Pillow makes of the pictures, to within a level of each channel."""
    real = _noise(trainer)
    low = _given(trainer, real)["G"].flatten(0, 1)
    for channel, reduced in zip(real.flatten(0, 1), low * 255, strict=True):
        picture = Image.fromarray(((channel + 1) * 127.5).round().byte().numpy())
        expected = np.asarray(picture.resize(reduced.shape, Image.Resampling.BICUBIC), float)
        levels = reduced.double().numpy()
        if np.abs(levels - expected).max() > 1.01 or np.abs(levels - levels.round()).max() > 0.01:
            return False
    return True


def strides(trainer: UpscalerStep) -> bool:
    """Every other of D's eight convolutions has a stride of 2."""
    found = [conv.stride for conv in _convolutions(_network(trainer, "D"))]
    return found == [(1, 1), (2, 2)] * 4


def critic_norms(trainer: UpscalerStep) -> bool:
    """BatchNorm follows every convolution of D but the first."""
    leaves = [one for one in _network(trainer, "D").modules() if not list(one.children())]
    followed = [
        isinstance(following, nn.BatchNorm2d)
        for one, following in pairwise(leaves)
        if isinstance(one, nn.Conv2d)
    ]
    return followed == [False] + [True] * 7


def critic_activations(trainer: UpscalerStep) -> bool:
    """LeakyReLU with slope 0.2, and no pooling or sigmoid."""
    others = (nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.Flatten)
    leaves = [one for one in _network(trainer, "D").modules() if not list(one.children())]
    slopes = {getattr(one, "negative_slope", None) for one in leaves if not isinstance(one, others)}
    return slopes == {0.2}


def frozen_features(trainer: UpscalerStep) -> bool:
    """No parameter learns, training mode can't be entered, and no state holds them."""
    features = _distance(trainer).features
    features.train()
    owned = {id(one) for side in trainer.players.values() for one in side.network.parameters()}
    return not any(
        one.requires_grad or id(one) in owned for one in features.parameters()
    ) and not any(one.training for one in features.modules())


def scaled_features(trainer: UpscalerStep) -> bool:
    """Sixteen convolutions of normalised RGB, each with its ReLU, and a twelfth or so of that."""
    features = _distance(trainer).features
    images = _noise(trainer).add(1).div(2).expand(-1, 3, -1, -1)
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # ImageNet's
    normalised = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    expected = features.layers(normalised) / 12.75
    return (
        len(_convolutions(features)) == 16
        and bool((expected >= 0).all())
        and torch.allclose(features(images), expected, rtol=1e-4, atol=1e-6)
    )


def loss(trainer: UpscalerStep) -> bool:
    """The squared distance of features and a thousandth of the adversarial loss, and no more."""
    rival, distance = trainer.rival, _distance(trainer)
    return (
        [(term.weight, term.distance) for term in trainer.terms] == [(1, distance)]
        and distance.distance is mse_loss
        and rival is not None
        and (rival.weight, rival.loss) == (1e-3, NonSaturating())
    )


def adam(trainer: UpscalerStep) -> bool:
    """Both networks are trained by Adam at 1e-4 with beta1 0.9."""
    groups = [side.optimizer.param_groups[0] for side in trainer.players.values()]
    return all(group["lr"] == 1e-4 and group["betas"][0] == 0.9 for group in groups)


def schedule(trainer: UpscalerStep) -> bool:
    """The second half of the budget has a tenth of the learning rates."""
    half = SRGANConfig().kimg / 2
    factors = [side.lr_factor for side in trainer.players.values()]
    return all((f(0), f(0.99 * half)) == (1, 1) and abs(f(half) - 0.1) < 1e-9 for f in factors)


def _network(trainer: UpscalerStep, side: str) -> nn.Module:
    return trainer.players[side].network


def _convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [one for one in network.modules() if isinstance(one, nn.Conv2d)]


def _distance(trainer: UpscalerStep) -> FeatureDistance:
    distances = [one.distance for one in trainer.terms]
    (found,) = [one for one in distances if isinstance(one, FeatureDistance)]
    return found


def _noise(trainer: UpscalerStep) -> Tensor:
    """Real images in [-1, 1], on 8-bit levels."""
    channels = _convolutions(_network(trainer, "G"))[0].in_channels
    levels = torch.randint(0, 256, (2, channels, SIDE_PX, SIDE_PX))
    return levels / 127.5 - 1


def _given(trainer: UpscalerStep, real: Tensor) -> dict[str, Tensor]:
    """What each network is first given in a step."""
    seen: dict[str, Tensor] = {}
    hooks = [
        _network(trainer, side).register_forward_pre_hook(_noting(seen, side)) for side in "GD"
    ]
    trainer.step(Batch(real))
    for hook in hooks:
        hook.remove()
    return seen


def _noting(seen: dict[str, Tensor], side: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
    def note(_: nn.Module, inputs: tuple[Tensor]) -> None:
        seen.setdefault(side, inputs[0])

    return note
