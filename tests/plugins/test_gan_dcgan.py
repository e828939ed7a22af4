"""DCGAN: its networks at every size, its settings, and that each claim of its paper is tested."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from torch import nn

from gan_core.card import LatentInput
from gan_core.layers import MinibatchStddev
from gan_core.losses import NonSaturating
from gan_core.stabilisers import InstanceNoise
from gan_dcgan.networks import Discriminator, Generator
from gan_dcgan.trainer import DCGANConfig, build
from tests.plugins.breaks import with_optimizer
from tests.plugins.claims import all_broken, refuted

if TYPE_CHECKING:
    from gan_core.layers import Minibatch
    from gan_core.trainer import AdversarialStep
    from tests.plugins.breaks import Break

SIDES_PX = [8, 16, 32, 64, 128]


@pytest.mark.parametrize("side_px", SIDES_PX)
def test_images_have_the_side_asked_for(side_px: int) -> None:
    images = Generator(5, 4, side_px, 3)(torch.randn(2, 5))
    assert (tuple(images.shape), bool(images.abs().max() <= 1)) == ((2, 3, side_px, side_px), True)


@pytest.mark.parametrize("side_px", SIDES_PX)
def test_there_is_one_logit_per_image_of_any_side(side_px: int) -> None:
    assert Discriminator(4, side_px, 1)(torch.randn(3, 1, side_px, side_px)).shape == (3,)


def test_widths_are_the_papers_at_64_px() -> None:
    network = Generator(100, 128, 64, 3)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.ConvTranspose2d)]
    # figure 1: 1024 channels at 4×4 px, halved at each doubling of the side
    assert [layer.out_channels for layer in layers] == [1024, 512, 256, 128, 3]


def test_the_discriminator_mirrors_the_generator() -> None:
    G, D = Generator(100, 16, 64, 3), Discriminator(16, 64, 3)
    up = [m.in_channels for m in G.modules() if isinstance(m, nn.ConvTranspose2d)]
    down = [m.out_channels for m in D.modules() if isinstance(m, nn.Conv2d)]
    assert up[1:] == down[-2::-1]


def test_norm_layers_start_around_one() -> None:
    norms = [m for m in Generator(8, 64, 64, 3).modules() if isinstance(m, nn.BatchNorm2d)]
    scales = torch.cat([norm.weight for norm in norms])
    # 960 draws of N(1, 0.02): six standard errors
    assert abs(scales.mean().item() - 1) < 6 * 0.02 / len(scales) ** 0.5


@pytest.mark.parametrize("side_px", SIDES_PX)
def test_features_are_the_last_map(side_px: int) -> None:
    D = Discriminator(4, side_px, 1)
    found = D.features(torch.randn(3, 1, side_px, side_px))
    assert found.shape == (3, D.head.in_channels, 4, 4)


@pytest.mark.parametrize("kind", ["none", "discrimination", "stddev"])
def test_the_head_judges_features_and_what_the_minibatch_layer_appends(kind: Minibatch) -> None:
    D, images = Discriminator(4, 16, 1, kind).eval(), torch.randn(3, 1, 16, 16)
    features = D.features(images)
    assert D.head.in_channels == features.shape[1] + D.minibatch.added
    assert torch.equal(D.head(D.minibatch(features)).flatten(), D(images))


def test_the_configured_minibatch_layer_is_the_discriminators() -> None:
    trainer = build(DCGANConfig(minibatch="stddev", width=4), Accelerator(cpu=True))
    assert isinstance(trainer.raw_D.minibatch, MinibatchStddev)


@pytest.mark.parametrize("side_px", [12, 24, 48, 100])
def test_a_side_that_is_no_power_of_two_is_refused(side_px: int) -> None:
    with pytest.raises(ValidationError, match=f"resolution_px {side_px} is not a power of two"):
        DCGANConfig(resolution_px=side_px)


def test_the_defaults_are_the_papers() -> None:
    config = DCGANConfig()
    assert (config.batch_size, config.z_dim, config.z_distribution) == (128, 100, "uniform")
    assert (config.lr_G, config.lr_D, config.beta1) == (2e-4, 2e-4, 0.5)


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_z_is_served_from_the_prior_it_was_trained_on(distribution: str) -> None:
    config = DCGANConfig.model_validate({"z_distribution": distribution, "z_dim": 9, "width": 4})
    latent = LatentInput.model_validate({"dim": 9, "distribution": distribution})
    assert build(config, Accelerator(cpu=True)).latent == latent


def test_label_smoothing_is_as_set() -> None:
    config = DCGANConfig(real_target=0.9, width=4)
    assert build(config, Accelerator(cpu=True)).loss == NonSaturating(0.9)


def test_instance_noise_is_as_set() -> None:
    config = DCGANConfig(instance_noise=0.1, instance_noise_kimg=7, width=4)
    trainer = build(config, Accelerator(cpu=True))
    (noise,) = [s for s in trainer.stabilisers if isinstance(s, InstanceNoise)]
    assert (noise.sigma, noise.anneal_kimg) == (0.1, 7)


def test_there_is_no_instance_noise_unless_set(trainer: AdversarialStep) -> None:
    assert not any(isinstance(s, InstanceNoise) for s in trainer.stabilisers)


def layers(network: nn.Module) -> nn.Sequential:
    found = network.layers
    assert isinstance(found, nn.Sequential)
    return found


def replaced(network: nn.Module, old: type[nn.Module], new: nn.Module) -> None:
    """Put ``new`` where the first ``old`` was."""
    inside = layers(network)
    index = next(i for i, layer in enumerate(inside) if isinstance(layer, old))
    inside[index] = new


def wide_weights(trainer: AdversarialStep) -> None:
    for module in trainer.raw_G.modules():
        if isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.05)


def normal_prior(trainer: AdversarialStep) -> None:
    trainer.latent = LatentInput(dim=trainer.latent.dim)


BREAKS: dict[str, Break] = {
    "no fully connected layer in either network": lambda t: layers(t.raw_D).append(nn.Linear(1, 1)),
    "no pooling in either network": lambda t: layers(t.raw_D).append(nn.AvgPool2d(2)),
    "BatchNorm after every layer but G's output": lambda t: replaced(
        t.raw_G, nn.BatchNorm2d, nn.Identity()
    ),
    "BatchNorm in D but for its input and output": lambda t: layers(t.raw_D).insert(
        1, nn.BatchNorm2d(8)
    ),
    "ReLU in G with tanh at the end": lambda t: replaced(t.raw_G, nn.Tanh, nn.Sigmoid()),
    "LeakyReLU with slope 0.2 in D": lambda t: replaced(t.raw_D, nn.LeakyReLU, nn.LeakyReLU(0.01)),
    "weights start as N(0, 0.02)": wide_weights,
    "Adam with learning rate 2e-4 and beta1 0.5": with_optimizer("D", lr=1e-3),
    "z is uniform on [-1, 1]": normal_prior,
}


test_every_claim_is_broken_above = all_broken(BREAKS)
test_a_claim_is_refuted_where_it_is_untrue = refuted(BREAKS)
