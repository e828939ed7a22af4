"""WGAN-GP: its networks, its settings, and that each claim of its paper is tested."""

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
from gan_core.penalties import Penalty, gradient_penalty
from gan_core.schedules import constant
from gan_wgan_gp.networks import Critic, Generator
from gan_wgan_gp.trainer import WGANGPConfig, build, served
from tests.plugins.breaks import with_loss, with_module, with_optimizer, with_player
from tests.plugins.claims import all_broken, holds, refuted
from tests.plugins.measures import learned_level

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from gan_core.penalties import PenaltyInputs
    from gan_core.variant import Variant
    from tests.plugins.breaks import Break

SIDES_PX = [8, 16, 32, 64, 128]
NORM_PER_SAMPLE = "the penalty is 10·(‖∇D‖ − 1)², its norm per sample over C, H and W"


@pytest.mark.parametrize("side_px", SIDES_PX)
def test_images_have_the_side_asked_for(side_px: int) -> None:
    images = Generator(5, 4, side_px, 3)(torch.randn(2, 5))
    assert (tuple(images.shape), bool(images.abs().max() <= 1)) == ((2, 3, side_px, side_px), True)


@pytest.mark.parametrize("side_px", SIDES_PX)
def test_there_is_one_logit_per_image_of_any_side(side_px: int) -> None:
    assert Critic(4, side_px, 1)(torch.randn(3, 1, side_px, side_px)).shape == (3,)


@pytest.mark.parametrize("side_px", SIDES_PX)
def test_the_critic_pools_from_a_map_of_8_px(side_px: int) -> None:
    assert Critic(4, side_px, 1).blocks(torch.randn(1, 1, side_px, side_px)).shape[2:] == (8, 8)


def test_the_generator_has_the_papers_parameters_at_32_px() -> None:
    # z to 4×4×128; three blocks of two norms, two 3×3 and a 1×1 convolution; norm; 3×3 to RGB
    block = 2 * 2 * 128 + 2 * (9 * 128 * 128 + 128) + 128 * 128 + 128
    expected = 129 * 4 * 4 * 128 + 3 * block + 2 * 128 + 9 * 128 * 3 + 3
    assert parameters(Generator(128, 128, 32, 3)) == expected


def test_the_critic_has_the_papers_parameters_at_32_px() -> None:
    # from RGB, with a 1×1 shortcut; halving, with another; two blocks with none; 128 to 1
    wide = 9 * 128 * 128 + 128
    first = 9 * 3 * 128 + 128 + wide + 3 * 128 + 128
    halving = 2 * wide + 128 * 128 + 128
    assert parameters(Critic(128, 32, 3)) == first + halving + 2 * 2 * wide + 129


def test_convolutions_of_blocks_start_wider_by_the_root_of_two() -> None:
    spreads = {m.kernel_size[0]: m.weight.std().item() for m in block_convolutions()}
    # Glorot: variance 2 / (fan in + fan out), both 64·k²
    expected = {1: (2 / 128) ** 0.5, 3: (4 / (128 * 9)) ** 0.5}
    assert spreads == pytest.approx(expected, rel=0.05)


def test_features_are_what_the_head_judges() -> None:
    critic, images = Critic(4, 16, 3), torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(critic.head(critic.features(images)), critic(images))


def test_a_logit_does_not_depend_on_the_rest_of_its_batch() -> None:
    critic, images = Critic(4, 8, 1), torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(critic(images)[:1], critic(images[:1]))


def test_the_critic_appends_what_the_minibatch_setting_says() -> None:
    assert isinstance(Critic(4, 8, 3, "stddev").head.minibatch, MinibatchStddev)


@pytest.mark.parametrize("side_px", [12, 24, 48, 100])
def test_a_side_that_is_no_power_of_two_is_refused(side_px: int) -> None:
    with pytest.raises(ValidationError, match=f"resolution_px {side_px} is not a power of two"):
        WGANGPConfig(resolution_px=side_px)


def test_the_defaults_are_the_authors() -> None:
    config = WGANGPConfig()
    assert (config.batch_size, config.batch_size_G, config.n_critic) == (64, 128, 5)
    assert (config.z_dim, config.width, config.gp_weight) == (128, 128, 10)


def test_z_is_standard_normal_and_served_so() -> None:
    config = WGANGPConfig(z_dim=9, width=4)
    trainer = build(config, Accelerator(cpu=True))
    inputs = served(trainer.generator(), config).inputs
    assert [trainer.latent] == list(inputs) == [LatentInput(dim=9, distribution="normal")]


def test_the_penaltys_weight_is_as_set() -> None:
    config = WGANGPConfig(gp_weight=3, width=4, resolution_px=8)
    (penalty,) = build(config, Accelerator(cpu=True)).players["D"].penalties
    assert (penalty.name, penalty.weight) == ("gp", 3)


@pytest.mark.parametrize(("final", "expected"), [(0.0, 0.0), (0.1, 0.1)])
def test_learning_rates_end_where_they_are_told_to(final: float, expected: float) -> None:
    config = WGANGPConfig(lr_final=final, width=4, resolution_px=8, kimg=2)
    factor = build(config, Accelerator(cpu=True)).players["G"].lr_factor
    assert factor is not None
    assert factor(2) == pytest.approx(expected)


def test_label_smoothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="no meaning for the Wasserstein loss"):
        build(WGANGPConfig(real_target=0.9, width=4), Accelerator(cpu=True))


def test_points_have_networks_of_their_own() -> None:
    config = WGANGPConfig(resolution_px=1, channels=2)
    trainer = build(config, Accelerator(cpu=True))
    assert (type(trainer.raw_G), type(trainer.raw_D)) == (PointGenerator, PointDiscriminator)


def test_points_are_penalised_too() -> None:
    config = WGANGPConfig(resolution_px=1, channels=2)
    stats = build(config, Accelerator(cpu=True)).step(Batch(torch.randn(4, 2, 1, 1)))
    assert stats["penalty/gp"] > 0


def test_it_learns_the_level_of_a_plain_image() -> None:
    config = WGANGPConfig(
        width=4,
        resolution_px=8,
        channels=1,
        z_dim=4,
        batch_size_G=4,
        n_critic=2,
        lr_G=1e-3,
        lr_D=4e-3,
    )
    level = learned_level(build(config, Accelerator(cpu=True)), steps=100, batch_size=4)
    assert level == pytest.approx(0.5, abs=0.2)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def block_convolutions() -> list[nn.Conv2d]:
    found = (m for m in Generator(8, 64, 8, 1).modules() if isinstance(m, nn.Conv2d))
    return [m for m in found if m.out_channels == 64]


def penalised(term: Callable[[PenaltyInputs], Tensor]) -> Break:
    return with_player("D", penalties=[Penalty("gp", 10.0, term)])


def slope(inputs: PenaltyInputs, images: Tensor) -> Tensor:
    """∇D(images)."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(inputs.discriminator(images, None).sum(), images)
    return gradient


def off_one(norms: Tensor) -> Tensor:
    return (norms - 1).square()


def norm_per_pixel(inputs: PenaltyInputs) -> Tensor:
    return off_one(slope(inputs, inputs.real).norm(dim=1))


def epsilon_per_pixel(inputs: PenaltyInputs) -> Tensor:
    mixed = torch.lerp(inputs.fake, inputs.real, torch.rand_like(inputs.real))
    return off_one(slope(inputs, mixed).flatten(1).norm(dim=1))


class Lowered(Penalty):
    """A penalty that leaves autocast on."""

    def __call__(self, inputs: PenaltyInputs) -> Tensor:
        return 10 * self.term(inputs).mean()


BREAKS: dict[str, Break] = {
    "both losses are linear in the logits: no log": with_loss(NonSaturating()),
    "critic has no normalisation layer": with_module("D.extra", lambda: nn.BatchNorm2d(8)),
    NORM_PER_SAMPLE: penalised(norm_per_pixel),
    "each sample has its own ε, and one only": penalised(epsilon_per_pixel),
    "the penalty is float32 under autocast": with_player(
        "D", penalties=[Lowered("gp", 10.0, gradient_penalty().term)]
    ),
    "Adam with learning rate 2e-4 and betas 0 and 0.9": with_optimizer("G", betas=(0.5, 0.999)),
    "both learning rates fall linearly to 0": with_player("D", lr_factor=constant(1.0)),
    "five critic steps before each G step": with_player("D", steps=lambda g_steps: 1),
    "G's batch is twice the critic's": with_player("G", batch_size=None),
    "a critic trained to its optimum estimates W₁": with_player("D", penalties=[]),
}


test_every_claim_is_broken_above = all_broken(BREAKS)
test_a_claim_is_refuted_where_it_is_untrue = refuted(BREAKS)


def norm_of_the_batch(inputs: PenaltyInputs) -> Tensor:
    return off_one(slope(inputs, inputs.real).norm())


def epsilon_of_the_batch(inputs: PenaltyInputs) -> Tensor:
    mixed = torch.lerp(inputs.fake, inputs.real, torch.rand(()).item())
    return off_one(slope(inputs, mixed).flatten(1).norm(dim=1))


@pytest.mark.parametrize(
    ("claim", "wrong"),
    [
        (NORM_PER_SAMPLE, norm_of_the_batch),
        ("each sample has its own ε, and one only", epsilon_of_the_batch),
    ],
)
def test_what_mixes_the_batch_is_refuted_too(
    variant: Variant, claim: str, wrong: Callable[[PenaltyInputs], Tensor]
) -> None:
    assert not holds(variant, claim, penalised(wrong))


@pytest.mark.parametrize("weight", [1.0, 5.0])
def test_a_penalty_of_another_weight_is_refuted(variant: Variant, weight: float) -> None:
    broken = with_player("D", penalties=[gradient_penalty(weight)])
    assert not holds(variant, NORM_PER_SAMPLE, broken)
