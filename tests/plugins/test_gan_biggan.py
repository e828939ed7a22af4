"""BigGAN: its latent, what it serves, and that each claim of its paper is tested."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from gan_biggan.networks import Architecture, Discriminator, Generator, ProjectedBatchNorm2d
from gan_biggan.standing import standing_statistics
from gan_biggan.trainer import BigGANConfig, served
from gan_core.card import LabelInput, LatentInput, Resampling
from gan_core.export import ServedGenerator
from gan_core.latents import draw, seed_range
from gan_core.layers import (
    MinibatchStddev,
    PlainSelfAttention,
    bake,
    is_spectral,
    spectrally_normalised,
)
from gan_core.losses import NonSaturating
from gan_core.penalties import Penalty
from gan_core.testing import built, tiny_config
from tests.plugins.breaks import (
    InPlace,
    always_training,
    part,
    with_loss,
    with_module,
    with_optimizer,
    with_player,
)
from tests.plugins.claims import all_broken, holds, refuted

if TYPE_CHECKING:
    from torch import Tensor

    from gan_core.penalties import PenaltyInputs
    from gan_core.trainer import AdversarialStep
    from gan_core.variant import Variant
    from tests.plugins.breaks import Break

SIDES_PX = [8, 16, 32, 64, 128]


def shape(side_px: int, attention_px: int = 4, channels: int = 1) -> Architecture:
    return Architecture(side_px, channels, 3, 8, attention_px)


@pytest.mark.parametrize("side_px", SIDES_PX)
def test_images_have_the_side_asked_for(side_px: int) -> None:
    network = Generator(60, 4, shape(side_px, channels=3))
    images = network(torch.randn(2, 60), torch.tensor([0, 2]))
    assert (tuple(images.shape), bool(images.abs().max() <= 1)) == ((2, 3, side_px, side_px), True)


@pytest.mark.parametrize("side_px", SIDES_PX)
def test_there_is_one_logit_per_image_of_any_side(side_px: int) -> None:
    images = torch.randn(3, 1, side_px, side_px)
    assert Discriminator(shape(side_px))(images, torch.tensor([0, 1, 2])).shape == (3,)


@pytest.mark.parametrize("px", [4, 8, 16])
def test_both_networks_attend_at_the_side_asked_for(px: int) -> None:
    G, D = Generator(8, 4, shape(32, px)), Discriminator(shape(32, px))
    seen: list[int] = []
    for network in (G, D):
        network.attention.register_forward_pre_hook(
            lambda _layer, inputs: seen.append(inputs[0].shape[-1])
        )
    label = torch.tensor([0, 1])
    D(G(torch.randn(2, 8), label), label)
    assert seen == [px, px]


def test_z_is_cut_into_the_papers_chunks_at_128_px() -> None:
    network = Generator(120, 128, shape(128))
    assert (network.chunk, len(network.blocks) + 1) == (20, 6)


def test_a_condition_is_the_class_embedding_and_a_chunk() -> None:
    network = Generator(12, 7, shape(16))
    norms = [module for module in network.modules() if isinstance(module, ProjectedBatchNorm2d)]
    assert {norm.gain.in_features for norm in norms} == {7 + 4}


def test_the_class_embedding_of_the_generator_is_not_normalised() -> None:
    assert not is_spectral(Generator(12, 7, shape(16)).shared)


@pytest.mark.parametrize(("side_px", "expected"), [(8, 4), (64, 32), (128, 64), (256, 64)])
def test_attention_is_at_64_px_where_there_is_such_a_map(side_px: int, expected: int) -> None:
    assert BigGANConfig(resolution_px=side_px, z_dim=840).attended_px() == expected


@pytest.mark.parametrize("px", [0, 12, 64])
def test_attention_at_a_side_without_a_map_is_refused(px: int) -> None:
    message = rf"attention_px {px} is the side of no feature map: .* from 4 to 32"
    with pytest.raises(ValidationError, match=message):
        BigGANConfig(resolution_px=64, attention_px=px)


def test_a_side_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ValidationError, match="resolution_px 48 is not a power of two"):
        BigGANConfig(resolution_px=48)


def test_a_latent_that_cannot_be_cut_is_refused_with_one_that_can() -> None:
    message = "z_dim 120 can't be cut into 7 equal chunks: .* multiple of 7, for instance 140"
    with pytest.raises(ValidationError, match=message):
        BigGANConfig(resolution_px=256)


@pytest.mark.parametrize("side_px", [8, 16, 32, 64, 128, 512])
def test_the_default_latent_can_be_cut(side_px: int) -> None:
    assert BigGANConfig(resolution_px=side_px).z_dim == 120


def test_spectral_norm_cannot_be_switched_off() -> None:
    with pytest.raises(ValidationError, match="spectral_norm"):
        BigGANConfig.model_validate({"spectral_norm": False})


def test_the_defaults_are_the_papers() -> None:
    config = BigGANConfig()
    assert (config.lr_G, config.lr_D, config.beta1, config.beta2) == (5e-5, 2e-4, 0.0, 0.999)
    assert (config.n_critic, config.orthogonal) == (2, 1e-4)
    assert (config.z_dim, config.shared_dim, config.width) == (120, 128, 96)


def test_without_orthogonal_regularisation_nothing_is_added_to_the_loss(variant: Variant) -> None:
    trainer: Any = built(variant, tiny_config(variant, orthogonal=0.0))
    assert trainer.players["G"].penalties == []


def test_the_minibatch_layer_is_as_set(variant: Variant) -> None:
    trainer: Any = built(variant, tiny_config(variant, minibatch="stddev"))
    assert isinstance(trainer.raw_D.head.minibatch, MinibatchStddev)


def test_it_needs_classes(variant: Variant) -> None:
    assert variant.task == "class-conditional"


def test_z_is_served_truncatable_with_a_class(trainer: AdversarialStep, config: Any) -> None:
    inputs = served(trainer.generator(), config).inputs
    expected = LatentInput(dim=12, truncation=Resampling()), LabelInput(classes=("a", "b", "c"))
    assert inputs == expected


def test_what_is_served_has_standing_statistics(trainer: AdversarialStep, config: Any) -> None:
    generator = ServedGenerator(trainer.generator(), served(trainer.generator(), config).inputs)
    expected = standing_statistics(generator, config.standing_batches, config.batch_size)
    ours, theirs = served(trainer.generator(), config).buffers(), expected.buffers()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_serving_leaves_the_generator_as_it_was(trainer: AdversarialStep, config: Any) -> None:
    generator = trainer.generator()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    served(generator, config)
    after = generator.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


class Norm(nn.Module):
    """A generator that is one batch norm, of z as an image of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.norm(z[:, :, None, None])
        return images


def test_standing_statistics_are_the_mean_of_all_batches() -> None:
    latent = LatentInput(dim=2)
    found: Any = standing_statistics(ServedGenerator(Norm(), (latent,)), 3, 4).network
    z = torch.from_numpy(draw((latent,), seed_range(0, 12))["z"])
    variances = torch.stack([batch.var(0) for batch in z.split(4)])
    torch.testing.assert_close(found.norm.running_mean, z.mean(0))
    torch.testing.assert_close(found.norm.running_var, variances.mean(0))


def test_what_has_standing_statistics_no_longer_gathers_any() -> None:
    latent = LatentInput(dim=2)
    found = standing_statistics(ServedGenerator(Norm(), (latent,)), 1, 4)
    assert not any(module.training for module in found.modules())


class WithoutOne(ProjectedBatchNorm2d):
    """The known error: a gain around 0."""

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scaled: Tensor = self.gain(condition)[:, :, None, None] * self.norm(x)
        return scaled


class Noisy(nn.Linear):
    """Draws from torch's own random state."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.randn_like(x))


def all_rows(inputs: PenaltyInputs) -> Tensor:
    """The known error: a row's product with itself counts, so that norms aren't free."""
    W: Tensor = inputs.generator.network.get_parameter("weight")
    return (W @ W.T).square().sum()


def same_chunk_for_all(trainer: AdversarialStep) -> None:
    conditions: list[Tensor] = []

    def first_condition(_block: nn.Module, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        conditions.append(inputs[1])
        return inputs[0], conditions[0]

    for block in part(trainer, "G.blocks"):
        block.register_forward_pre_hook(first_condition)


def serve_what_is_served(trainer: AdversarialStep) -> None:
    generator = ServedGenerator(
        trainer.generator(), (trainer.latent, LabelInput(classes=("0", "1", "2")))
    )
    trainer.ema = None
    trainer.raw_G = standing_statistics(generator, 2, 4).network


def noisy_generator(trainer: AdversarialStep) -> None:
    trainer.ema = None
    setattr(trainer.raw_G, "first", Noisy(4, 32 * 4**2))  # noqa: B010 no attribute of nn.Module


BREAKS: dict[str, Break] = {
    "spectral norm on every layer, with epsilon 1e-6": lambda t: bake(part(t, "D.head")),
    "spectral norm rests in evaluation": always_training("G"),
    "hinge loss": with_loss(NonSaturating()),
    "attention starts as the identity": lambda t: part(t, "D.attention").gamma.data.fill_(1),
    "a norm's gain is 1 + a projection of its condition": lambda t: setattr(
        part(t, "G.blocks.0.norm_1"), "__class__", WithoutOne
    ),
    "one class embedding is shared by all of G": with_module(
        "G.another", lambda: nn.Embedding(3, 8)
    ),
    "every block of G gets a chunk of z of its own": same_chunk_for_all,
    "D projects its features on the class": lambda t: setattr(part(t, "D.head"), "embedding", None),
    "no activation overwrites what a shortcut reads": with_module("G.blocks.0.norm_1", InPlace),
    "weights start orthogonal": lambda t: part(t, "G.shared").weight.data.normal_(),
    "orthogonal regularisation sees different rows alone, at 1e-4": with_player(
        "G", penalties=[Penalty("orthogonal", 1e-4, all_rows)]
    ),
    "Adam with betas 0 and 0.999, epsilon 1e-6": with_optimizer("G", eps=1e-8),
    "G learns at 5e-5, D at 2e-4": with_optimizer("G", lr=2e-4),
    "two D steps per G step": with_player("D", steps=lambda g_steps: 1),
    "a moving average of G is served": lambda t: setattr(t, "ema", None),
    "standing statistics aren't the running ones": serve_what_is_served,
    "standing statistics leave chance alone": noisy_generator,
    "truncation draws z again": lambda t: setattr(t, "latent", LatentInput(dim=12)),
}


test_every_claim_is_broken_above = all_broken(BREAKS)
test_a_claim_is_refuted_where_it_is_untrue = refuted(BREAKS)


@pytest.mark.parametrize(
    ("claim", "broken"),
    [
        (
            "spectral norm on every layer, with epsilon 1e-6",
            lambda t: spectrally_normalised(bake(part(t, "D.head")), eps=1e-12),
        ),
        (
            "attention starts as the identity",
            with_module("D.attention", lambda: PlainSelfAttention(8)),
        ),
    ],
)
def test_what_is_biggans_own_in_a_shared_claim_is_refuted_too(
    variant: Variant, claim: str, broken: Break
) -> None:
    assert not holds(variant, claim, broken)
