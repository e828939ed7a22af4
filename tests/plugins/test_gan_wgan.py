"""WGAN: its networks, its rhythm, its settings, and that each claim of its paper is tested."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from torch import nn

from gan_core.card import LatentInput
from gan_core.data import Batch
from gan_core.errors import ConfigError
from gan_core.layers import MinibatchStddev, PointDiscriminator, PointGenerator
from gan_core.losses import NonSaturating
from gan_core.stabilisers import ClipWeights
from gan_wgan.networks import Critic, Generator
from gan_wgan.trainer import WGANConfig, build, served
from tests.plugins.breaks import with_loss, with_module, with_optimizer, with_player
from tests.plugins.claims import all_broken, refuted
from tests.plugins.measures import learned_level

if TYPE_CHECKING:
    from gan_core.trainer import AdversarialStep
    from tests.plugins.breaks import Break

SIDES_PX = [8, 16, 32, 64, 128]


@pytest.fixture
def of_points() -> AdversarialStep:
    """A trainer for points in the plane."""
    return build(WGANConfig(resolution_px=1, channels=2, z_dim=4), Accelerator(cpu=True))


@pytest.mark.parametrize("side_px", SIDES_PX)
def test_images_have_the_side_asked_for(side_px: int) -> None:
    images = Generator(5, 4, side_px, 3)(torch.randn(2, 5))
    assert (tuple(images.shape), bool(images.abs().max() <= 1)) == ((2, 3, side_px, side_px), True)


@pytest.mark.parametrize("side_px", SIDES_PX)
def test_there_is_one_logit_per_image_of_any_side(side_px: int) -> None:
    assert Critic(4, side_px, 1)(torch.randn(3, 1, side_px, side_px)).shape == (3,)


def test_the_generators_widths_are_the_authors_at_64_px() -> None:
    layers = [m for m in Generator(100, 64, 64, 3).modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [layer.out_channels for layer in layers] == [512, 256, 128, 64, 3]


def test_the_critics_widths_are_the_authors_at_64_px() -> None:
    layers = [m for m in Critic(64, 64, 3).modules() if isinstance(m, nn.Conv2d)]
    assert [layer.out_channels for layer in layers] == [64, 128, 256, 512]


def test_the_generator_normalises_all_but_its_output() -> None:
    layers = [m for m in Generator(8, 4, 32, 3).modules() if isinstance(m, nn.BatchNorm2d)]
    assert [layer.num_features for layer in layers] == [16, 8, 4]


def test_features_are_what_the_head_judges() -> None:
    critic, images = Critic(4, 16, 3), torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(critic.head(critic.features(images)), critic(images))


def test_the_critic_appends_what_the_minibatch_setting_says() -> None:
    assert isinstance(Critic(4, 8, 3, "stddev").head.minibatch, MinibatchStddev)


@pytest.mark.parametrize("side_px", [12, 24, 48, 100])
def test_a_side_that_is_no_power_of_two_is_refused(side_px: int) -> None:
    with pytest.raises(ValidationError, match=f"resolution_px {side_px} is not a power of two"):
        WGANConfig(resolution_px=side_px)


def test_the_defaults_are_the_papers() -> None:
    config = WGANConfig()
    assert (config.batch_size, config.clip, config.n_critic) == (64, 0.01, 5)
    assert (config.lr_G, config.lr_D, config.beta1) == (5e-5, 5e-5, 0)


def test_z_is_standard_normal_and_served_so() -> None:
    config = WGANConfig(z_dim=9, width=4)
    trainer = build(config, Accelerator(cpu=True))
    inputs = served(trainer.generator(), config).inputs
    assert [trainer.latent] == list(inputs) == [LatentInput(dim=9, distribution="normal")]


@pytest.mark.parametrize(
    ("g_steps", "expected"), [(0, 7), (1, 7), (2, 3), (3, 3), (4, 7), (5, 3), (8, 7)]
)
def test_the_critic_gets_more_steps_at_first_and_now_and_then(g_steps: int, expected: int) -> None:
    config = WGANConfig(n_critic=3, n_critic_warmup=7, warmup_g_steps=2, warmup_every=4)
    assert config.critic_steps(g_steps) == expected


def test_the_trainer_keeps_that_rhythm(trainer: AdversarialStep) -> None:
    g_steps = []
    for _ in range(12):
        trainer.step(Batch(torch.zeros(2, 3, 16, 16)))
        g_steps.append(trainer.g_steps)
    # 3 critic steps to warm up, twice 1, 3 every third, and so on
    assert g_steps == [0, 0, 1, 2, 3, 3, 3, 4, 5, 6, 6, 6]


@pytest.mark.parametrize("clip", [0.01, 0.003])
def test_weights_are_clamped_as_set(clip: float) -> None:
    trainer = build(WGANConfig(clip=clip, width=4, resolution_px=8), Accelerator(cpu=True))
    trainer.step(Batch(torch.zeros(2, 3, 8, 8)))
    largest = max(p.abs().max().item() for p in trainer.raw_D.parameters())
    assert largest == pytest.approx(clip)


def test_the_generators_weights_are_not_clamped(trainer: AdversarialStep) -> None:
    for _ in range(3):
        trainer.step(Batch(torch.zeros(2, 3, 16, 16)))
    assert trainer.g_steps == 1
    assert max(p.abs().max().item() for p in trainer.raw_G.parameters()) > 0.01


def test_rmsprop_takes_momentum_and_decay_as_set() -> None:
    config = WGANConfig(beta1=0.2, beta2=0.8, width=4)
    group = build(config, Accelerator(cpu=True)).players["D"].optimizer.param_groups[0]
    assert (group["momentum"], group["alpha"]) == (0.2, 0.8)


def test_spectral_norm_is_refused() -> None:
    with pytest.raises(ValidationError, match="spectral_norm undoes the clipping"):
        WGANConfig(spectral_norm=True)


def test_label_smoothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="no meaning for the Wasserstein loss"):
        build(WGANConfig(real_target=0.9, width=4), Accelerator(cpu=True))


def test_points_have_networks_of_their_own(of_points: AdversarialStep) -> None:
    kinds = type(of_points.raw_G), type(of_points.raw_D)
    assert kinds == (PointGenerator, PointDiscriminator)


def test_the_critic_of_points_is_clamped(of_points: AdversarialStep) -> None:
    of_points.step(Batch(torch.randn(4, 2, 1, 1)))
    assert max(p.abs().max().item() for p in of_points.raw_D.parameters()) == pytest.approx(0.01)


def test_it_learns_the_level_of_a_plain_image() -> None:
    config = WGANConfig(
        width=4, resolution_px=8, channels=1, z_dim=4, n_critic_warmup=5, lr_G=2e-3, lr_D=5e-4
    )
    level = learned_level(build(config, Accelerator(cpu=True)), steps=100, batch_size=8)
    assert level == pytest.approx(0.5, abs=0.2)


def unclipped(trainer: AdversarialStep) -> None:
    trainer.stabilisers = [s for s in trainer.stabilisers if not isinstance(s, ClipWeights)]


BREAKS: dict[str, Break] = {
    "both losses are linear in the logits: no log": with_loss(NonSaturating()),
    "critic has no normalisation layer": with_module("D.extra", lambda: nn.BatchNorm2d(8)),
    "critic's weights lie within ±0.01 after its steps": unclipped,
    "a critic trained to its optimum estimates W₁": with_loss(NonSaturating()),
    "RMSProp with learning rate 5e-5, no momentum": with_optimizer("D", momentum=0.9),
    "100 critic steps before G's first 25 and each 500th, else 5": with_player(
        "D", steps=lambda g_steps: 5
    ),
}


test_every_claim_is_broken_above = all_broken(BREAKS)
test_a_claim_is_refuted_where_it_is_untrue = refuted(BREAKS)
