"""The vanilla GAN: its networks, its settings, and that each claim of its paper is tested."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from gan_core.losses import Hinge, Minimax, NonSaturating
from gan_vanilla.networks import Discriminator, Generator
from gan_vanilla.trainer import VanillaConfig, build
from tests.plugins.breaks import with_loss, with_module, with_player
from tests.plugins.claims import all_broken, refuted
from tests.plugins.measures import learned_level, linear_sizes

if TYPE_CHECKING:
    from gan_core.trainer import AdversarialStep
    from tests.plugins.breaks import Break


def test_the_generator_has_the_widths_asked_for() -> None:
    network = Generator(10, (16, 32), (1, 8, 8))
    assert linear_sizes(network) == [(10, 16), (16, 32), (32, 64)]


@pytest.mark.parametrize(
    ("widths", "expected"),
    [((16, 32, 64), [(64, 32), (32, 16), (16, 1)]), ((16,), [(64, 16), (16, 1)])],
)
def test_the_discriminator_has_all_but_the_widest_in_reverse(
    widths: tuple[int, ...], expected: list[tuple[int, int]]
) -> None:
    config = VanillaConfig(widths=widths, resolution_px=8, channels=1)
    trainer = build(config, Accelerator(cpu=True))
    assert linear_sizes(trainer.raw_D) == expected


def test_images_are_within_one() -> None:
    images = Generator(4, (8,), (3, 8, 8))(100 * torch.randn(5, 4))
    assert (tuple(images.shape), bool(images.abs().max() <= 1)) == ((5, 3, 8, 8), True)


def test_there_is_one_logit_per_image() -> None:
    assert Discriminator((8,), (3, 8, 8))(torch.randn(5, 3, 8, 8)).shape == (5,)


def test_a_logit_does_not_depend_on_the_rest_of_its_batch() -> None:
    network, images = Discriminator((8,), (1, 8, 8)), torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(network(images)[:1], network(images[:1]))


@pytest.mark.parametrize(("minimax", "loss"), [(False, NonSaturating), (True, Minimax)])
def test_the_loss_is_as_set(minimax: bool, loss: type) -> None:
    config = VanillaConfig(minimax=minimax, widths=(8,), resolution_px=8, real_target=0.9)
    assert build(config, Accelerator(cpu=True)).loss == loss(0.9)


@pytest.mark.parametrize(("halflife", "kept"), [(0.0, False), (5.0, True)])
def test_an_average_is_kept_if_set(halflife: float, kept: bool) -> None:
    config = VanillaConfig(ema_halflife_kimg=halflife, widths=(8,), resolution_px=8)
    assert (build(config, Accelerator(cpu=True)).ema is not None) is kept


def test_it_learns_the_level_of_a_plain_image() -> None:
    config = VanillaConfig(
        widths=(16, 32),
        resolution_px=8,
        channels=1,
        z_dim=4,
        lr_G=2e-3,
        lr_D=2e-3,
        ema_halflife_kimg=0,
    )
    level = learned_level(build(config, Accelerator(cpu=True)), steps=300, batch_size=32)
    assert level == pytest.approx(0.5, abs=0.2)


def momentum_as_epsilon(trainer: AdversarialStep) -> None:
    for layer in trainer.raw_G.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.eps = 0.8


BREAKS: dict[str, Break] = {
    "both networks are multilayer perceptrons": with_module("D.extra", lambda: nn.Conv2d(3, 3, 3)),
    "D has no BatchNorm": with_module("D.extra", lambda: nn.BatchNorm1d(3)),
    "BatchNorm's epsilon is tiny, not its momentum": momentum_as_epsilon,
    "one D step per G step": with_player("D", steps=lambda g_steps: 2),
    "G maximises log D(G(z))": with_loss(Minimax()),
    "a D trained to its optimum is p_data / (p_data + p_g)": with_loss(Hinge()),
}


test_every_claim_is_broken_above = all_broken(BREAKS)
test_a_claim_is_refuted_where_it_is_untrue = refuted(BREAKS)
