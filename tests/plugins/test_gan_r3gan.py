"""R3GAN: its blocks and resampling, its schedules, and that each claim of its paper is tested."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from torch import nn

from gan_core.card import LabelInput, LatentInput
from gan_core.data import Batch
from gan_core.errors import ConfigError
from gan_core.layers import MinibatchStddev, PointDiscriminator, PointGenerator
from gan_core.losses import NonSaturating
from gan_core.penalties import r1
from gan_core.schedules import linear
from gan_r3gan.networks import Block, Discriminator, Down, Generator, Up, widths
from gan_r3gan.trainer import R3GANConfig, build, served
from tests.plugins.breaks import with_loss, with_module, with_optimizer, with_player
from tests.plugins.claims import all_broken, refuted
from tests.plugins.measures import learned_level

if TYPE_CHECKING:
    from gan_core.trainer import AdversarialStep
    from tests.plugins.breaks import Break

CLASSES = ("a", "b", "c")
LABEL = torch.tensor([0, 1, 2, 0])
SMALL = {"width": 8, "max_width": 16, "group_size": 4, "z_dim": 8, "batch_size": 4}


def made(**settings: Any) -> R3GANConfig:
    shape = {"resolution_px": 8, "channels": 1, "classes": CLASSES}
    return R3GANConfig.model_validate({**SMALL, **shape, **settings})


def trained_by(**settings: Any) -> AdversarialStep:
    return build(made(**settings), Accelerator(cpu=True))


@pytest.mark.parametrize("side_px", [8, 16, 32, 64])
def test_images_are_made_and_judged_at_the_side_asked_for(side_px: int) -> None:
    inwards = widths(4, 16, side_px)
    images = Generator(5, inwards[::-1], 3, group_size=4, blocks=1)(torch.randn(2, 5))
    logits = Discriminator(inwards, 3, group_size=4, blocks=1)(images)
    assert (images.shape, logits.shape) == ((2, 3, side_px, side_px), (2,))


def test_channels_double_at_each_halving_up_to_a_limit() -> None:
    assert widths(96, 768, 256) == [96, 192, 384, 768, 768, 768, 768]


def test_a_new_block_is_the_identity() -> None:
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(Block(8, group_size=4, blocks=3)(x), x)


def test_a_block_learns_from_its_first_step() -> None:
    block = Block(8, group_size=4, blocks=3)
    block(torch.randn(2, 8, 4, 4)).square().sum().backward()
    gradient = block.get_parameter("branch.4.weight").grad
    assert gradient is not None
    assert gradient.count_nonzero() > 0


@pytest.mark.parametrize(("group_size", "groups"), [(4, 4), (16, 1)])
def test_groups_have_the_size_asked_for(group_size: int, groups: int) -> None:
    conv = Block(8, group_size, blocks=1).branch[2]
    assert isinstance(conv, nn.Conv2d)
    assert (conv.in_channels, conv.groups) == (16, groups)


def test_an_enlarged_impulse_is_the_bilinear_kernel() -> None:
    impulse = torch.zeros(1, 1, 3, 3)
    impulse[0, 0, 1, 1] = 1
    taps = torch.tensor([0.0, 0.5, 1.0, 0.5, 0.0, 0.0])
    expected = torch.outer(taps, taps)
    torch.testing.assert_close(Up()(impulse)[0, 0], expected)


def test_reducing_is_the_adjoint_of_enlarging() -> None:
    small, large = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 8, 8)
    enlarged, reduced = (Up()(small) * large).sum(), (small * Down()(large)).sum()
    torch.testing.assert_close(enlarged, 4 * reduced)


@pytest.mark.parametrize("resample", [Up(), Down()])
def test_resampling_keeps_channels_apart(resample: nn.Module) -> None:
    x = torch.zeros(1, 2, 4, 4)
    x[:, 0] = 1
    assert resample(x)[:, 1].count_nonzero() == 0


def test_weights_follow_the_whole_networks_depth() -> None:
    shallow, deep = Block(64, 16, blocks=1), Block(64, 16, blocks=16)
    # 16^(−1/4) = ½, of 8,192 draws each
    name = "branch.0.weight"
    ratio = deep.get_parameter(name).std() / shallow.get_parameter(name).std()
    assert ratio.item() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("side_px", [12, 24])
def test_a_side_that_is_no_power_of_two_is_refused(side_px: int) -> None:
    with pytest.raises(ValidationError, match=f"resolution_px {side_px} is not a power of two"):
        made(resolution_px=side_px)


@pytest.mark.parametrize("name", ["width", "max_width"])
def test_channels_that_make_no_whole_groups_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=f"2 × {name} = 18 channels are not made of groups"):
        made(**{name: 9})


@pytest.mark.parametrize("name", ["r1_gamma", "r2_gamma"])
def test_a_second_gradient_penalty_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="set gamma_start and gamma_end"):
        made(**{name: 1.0})


def test_spectral_norm_of_branches_that_start_at_zero_is_refused() -> None:
    with pytest.raises(ValidationError, match="spectral_norm divides by 0"):
        made(spectral_norm=True)


def test_the_defaults_are_the_papers_for_32_px() -> None:
    config = R3GANConfig()
    assert (config.batch_size, config.z_dim, config.blocks, config.group_size) == (512, 64, 2, 16)
    assert widths(config.width, config.max_width, 32) == [768] * 4
    assert (config.gamma_start, config.gamma_end) == (0.05, 0.005)
    assert (config.lr_G, config.lr_D, config.lr_final * config.lr_G) == (2e-4, 2e-4, 5e-5)
    assert (config.beta1, config.beta2_start, config.beta2) == (0.0, 0.9, 0.99)


@pytest.mark.parametrize(("seen", "gamma"), [(0, 0.8), (1000, 0.45), (2000, 0.1), (9000, 0.1)])
def test_both_penalties_weigh_what_gamma_is_by_then(seen: int, gamma: float) -> None:
    trainer = trained_by(gamma_start=0.8, gamma_end=0.1, kimg=2)
    D = trainer.players["D"]
    ones = [replace(penalty, term=lambda inputs: torch.ones(())) for penalty in D.penalties]
    trainer.players["D"] = replace(D, penalties=ones)
    trainer.seen = seen
    stats = trainer.step(Batch(torch.rand(4, 1, 8, 8), LABEL))
    found = [stats[f"penalty/{name}"].item() for name in ("r1", "r2")]
    assert found == pytest.approx([gamma, gamma])


@pytest.mark.parametrize(
    ("seen", "lr", "beta2"), [(0, 2e-4, 0.9), (1000, 1.25e-4, 0.945), (2000, 5e-5, 0.99)]
)
def test_the_optimisers_follow_the_same_cosine(seen: int, lr: float, beta2: float) -> None:
    trainer = trained_by(kimg=2)
    trainer.seen = seen
    trainer.step(Batch(torch.rand(4, 1, 8, 8), LABEL))
    for optimizer in (trainer.optimizer_G, trainer.optimizer_D):
        (group,) = optimizer.param_groups
        assert (group["lr"], *group["betas"]) == pytest.approx((lr, 0.0, beta2))


def test_the_cosine_has_the_length_asked_for() -> None:
    lr_factor = trained_by(kimg=2, lr_schedule_kimg=7).players["G"].lr_factor
    assert lr_factor is not None
    assert (lr_factor(3.5), lr_factor(7.0)) == pytest.approx((0.625, 0.25))


def test_another_schedules_length_is_not_the_cosines() -> None:
    config = made(kimg=100.0, lr_schedule="exponential", lr_schedule_kimg=5.0)
    assert config.falling(1.0, 0.0)(50.0) == pytest.approx(0.5)


def test_the_discriminator_has_the_minibatch_layer_asked_for() -> None:
    D = trained_by(minibatch="stddev").raw_D
    assert any(isinstance(module, MinibatchStddev) for module in D.modules())


@pytest.mark.parametrize("conditional", [False, True])
def test_the_label_decides_if_asked_to(conditional: bool) -> None:
    trainer = trained_by(conditional=conditional)
    z, other, images = torch.randn(4, 8), LABEL.roll(1), torch.randn(4, 1, 8, 8)
    same_images = torch.equal(trainer.raw_G(z, LABEL), trainer.raw_G(z, other))
    same_logits = torch.equal(trainer.raw_D(images, LABEL), trainer.raw_D(images, other))
    assert (same_images, same_logits) == (not conditional, not conditional)


def test_to_be_conditional_the_data_must_have_classes() -> None:
    with pytest.raises(ConfigError, match="conditional needs labelled data"):
        trained_by(conditional=True, classes=())


@pytest.mark.parametrize(
    ("conditional", "expected"),
    [(False, (LatentInput(dim=8),)), (True, (LatentInput(dim=8), LabelInput(classes=CLASSES)))],
)
def test_a_class_is_served_if_conditional(conditional: bool, expected: tuple[Any, ...]) -> None:
    assert served(nn.Identity(), made(conditional=conditional)).inputs == expected


def test_points_are_made_and_judged_by_perceptrons() -> None:
    trainer = trained_by(resolution_px=1, channels=2, classes=())
    assert isinstance(trainer.raw_G, PointGenerator)
    assert isinstance(trainer.raw_D, PointDiscriminator)


def test_points_are_learned_with_the_same_penalties() -> None:
    trainer = trained_by(resolution_px=1, channels=2, classes=())
    stats = trainer.step(Batch(torch.randn(4, 2, 1, 1)))
    assert stats.keys() >= {"penalty/r1", "penalty/r2"}


def test_points_have_no_classes() -> None:
    with pytest.raises(ValidationError, match="conditional is for images"):
        made(resolution_px=1, channels=2, conditional=True)


def test_it_learns_the_level_of_a_plain_image() -> None:
    trainer = trained_by(lr_G=2e-3, lr_D=2e-3, blocks=1, ema_halflife_kimg=0)
    level = learned_level(trainer, steps=100, batch_size=16)
    assert level == pytest.approx(0.5, abs=0.25)


def blocks(network: nn.Module) -> list[Block]:
    return [module for module in network.modules() if isinstance(module, Block)]


def larger_weights(trainer: AdversarialStep) -> None:
    with torch.no_grad():
        blocks(trainer.raw_D)[0].get_parameter("branch.0.weight").mul_(2)


def ungrouped(trainer: AdversarialStep) -> None:
    blocks(trainer.raw_G)[0].branch[2] = nn.Conv2d(32, 32, 3, padding=1)


def box_filter(trainer: AdversarialStep) -> None:
    (down, *_) = [module for module in trainer.raw_D.modules() if isinstance(module, Down)]
    down.kernel = torch.full((1, 1, 3, 3), 1 / 9)


BREAKS: dict[str, Break] = {
    "no normalisation anywhere": with_module("D.norm", lambda: nn.BatchNorm2d(8)),
    "each fake is compared with a real": with_loss(NonSaturating()),
    "R1 and R2 on every step, with the same γ": with_player("D", penalties=[r1(0.05)]),
    "every residual block starts as the identity": lambda t: nn.init.ones_(
        blocks(t.raw_G)[0].get_parameter("branch.4.weight")
    ),
    "other layers of a block start scaled by L^(-1/4)": larger_weights,
    "3×3 convolutions are grouped": ungrouped,
    "resampling is bilinear, [1, 2, 1]": box_filter,
    "no momentum, and beta2 rises": with_optimizer("D", betas=(0.5, 0.9)),
    "learning rate, γ and beta2 follow one cosine": with_player(
        "G", lr_factor=linear(1.0, 0.25, 1000)
    ),
}


test_every_claim_is_broken_above = all_broken(BREAKS)
test_a_claim_is_refuted_where_it_is_untrue = refuted(BREAKS)
