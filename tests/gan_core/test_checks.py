"""The shared predicates: true of a trainer that is right, false of one that is wrong in one way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from gan_core.card import LatentInput
from gan_core.checks import (
    attention_starts_off,
    drawn,
    hinge,
    linear_loss,
    modules,
    no_norm_in_discriminator,
    norms,
    one_to_one,
    own_images,
    param_group,
    projection,
    shortcuts,
    singular_vectors,
    spectral_norm,
    spectral_norm_rests,
)
from gan_core.layers import (
    ConditionalBatchNorm2d,
    DownBlock,
    Head,
    PlainSelfAttention,
    SelfAttention,
    UpBlock,
    bake,
    spectrally_normalised,
)
from gan_core.losses import Hinge, NonSaturating, Wasserstein
from gan_core.trainer import AdversarialStep, Player
from tests.plugins.breaks import InPlace, always_training, part, with_loss, with_module, with_player

if TYPE_CHECKING:
    from collections.abc import Callable

    from accelerate import Accelerator

    from tests.plugins.breaks import Break

CLASSES = 3


class Generator(nn.Module):
    """Latents z [N, 5] and classes [N] -> images [N, 1, 4, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = spectrally_normalised(nn.Linear(5, 8 * 2**2))
        self.attention = spectrally_normalised(SelfAttention(8))
        self.block = UpBlock(8, 8, lambda channels: ConditionalBatchNorm2d(channels, CLASSES))
        for layer in (self.block.conv_1, self.block.conv_2, self.block.shortcut):
            spectrally_normalised(layer)
        self.last = spectrally_normalised(nn.Conv2d(8, 1, 3, padding=1))

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        x = self.attention(self.first(z).unflatten(1, (8, 2, 2)))
        images: Tensor = self.last(self.block(x, label))
        return images


class Discriminator(nn.Module):
    """Images [N, 1, 4, 4] and classes [N] -> logits [N]."""

    def __init__(self) -> None:
        super().__init__()
        self.block = DownBlock(1, 8, first=True)
        self.attention = PlainSelfAttention(8)
        self.head = Head(8, CLASSES)
        spectrally_normalised(self)

    def features(self, images: Tensor) -> Tensor:
        found: Tensor = self.attention(self.block(images)).relu().sum((2, 3))
        return found

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        logits: Tensor = self.head(self.features(images), label)
        return logits


class Squared(Head):
    """The known error: logits aren't linear in the class embedding."""

    def forward(self, features: Tensor, label: Tensor | None = None) -> Tensor:
        return super().forward(features, label).square()


class HalfLinear(Wasserstein):
    """The critic's loss is linear, G's isn't."""

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        return NonSaturating().generator(fake_logits, real_logits)


class Blockless(nn.Module):
    """An unconditional G of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 4**2)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        images: Tensor = self.layer(z).unflatten(1, (1, 4, 4))
        return images


class Headless(nn.Module):
    """An unconditional D of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4**2, 1)

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        logits: Tensor = self.layer(images.flatten(1)).flatten()
        return logits


def trained_by(accelerator: Accelerator, G: nn.Module, D: nn.Module) -> AdversarialStep:
    return AdversarialStep(
        Player(G, torch.optim.Adam(G.parameters(), 1e-4)),
        Player(D, torch.optim.Adam(D.parameters(), 4e-4)),
        loss=Hinge(),
        latent=LatentInput(dim=5),
        accelerator=accelerator,
    )


@pytest.fixture
def trainer(accelerator: Accelerator) -> AdversarialStep:
    return trained_by(accelerator, Generator(), Discriminator())


def without_classes(trainer: AdversarialStep) -> None:
    part(trainer, "D.head").embedding = None


def with_one_embedding_for_all(trainer: AdversarialStep) -> None:
    nn.init.ones_(bake(part(trainer, "D.head.embedding")).get_parameter("weight"))


def without_spectral_norm(trainer: AdversarialStep) -> None:
    for side in "GD":
        bake(part(trainer, side))


@pytest.mark.parametrize(
    "predicate",
    [
        attention_starts_off,
        hinge,
        one_to_one,
        projection,
        shortcuts,
        spectral_norm,
        spectral_norm_rests,
    ],
)
def test_it_holds_of_a_right_trainer(
    trainer: AdversarialStep, predicate: Callable[[AdversarialStep], bool]
) -> None:
    assert predicate(trainer)


def test_wasserstein_losses_are_linear(trainer: AdversarialStep) -> None:
    with_loss(Wasserstein())(trainer)
    assert linear_loss(trainer)


@pytest.mark.parametrize(
    ("predicate", "broken"),
    [
        (attention_starts_off, lambda t: part(t, "D.attention").gamma.data.fill_(1)),
        (attention_starts_off, with_module("D.attention", nn.Identity)),
        (hinge, with_loss(Wasserstein())),
        (linear_loss, with_loss(Hinge())),
        (linear_loss, with_loss(NonSaturating())),
        (linear_loss, with_loss(HalfLinear())),
        (one_to_one, with_player("D", steps=lambda g_steps: 2)),
        (one_to_one, with_player("G", steps=lambda g_steps: 2)),
        (projection, without_classes),
        (projection, with_one_embedding_for_all),
        (projection, lambda t: setattr(part(t, "D.head"), "__class__", Squared)),
        (projection, lambda t: setattr(t, "raw_D", Headless())),
        (shortcuts, with_module("G.block.norm_1", InPlace)),
        (spectral_norm, lambda t: bake(part(t, "G.first"))),
        (spectral_norm, lambda t: bake(part(t, "D.attention.key"))),
        (spectral_norm, lambda t: bake(part(t, "D.head.embedding"))),
        (spectral_norm, with_module("G.extra", lambda: nn.ConvTranspose2d(1, 1, 1))),
        (spectral_norm_rests, always_training("G")),
        (spectral_norm_rests, always_training("D")),
        (spectral_norm_rests, without_spectral_norm),
    ],
)
def test_it_is_refuted_where_it_is_untrue(
    trainer: AdversarialStep, predicate: Callable[[AdversarialStep], bool], broken: Break
) -> None:
    broken(trainer)
    assert not predicate(trainer)


def test_batch_norm_in_the_generator_is_none_in_the_discriminator(
    trainer: AdversarialStep,
) -> None:
    without_spectral_norm(trainer)
    assert no_norm_in_discriminator(trainer)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(8), nn.InstanceNorm2d(8), nn.LayerNorm(8), nn.GroupNorm(2, 8)]
)
def test_any_norm_in_the_discriminator_is_found(trainer: AdversarialStep, norm: nn.Module) -> None:
    without_spectral_norm(trainer)
    with_module("D.head.norm", lambda: norm)(trainer)
    assert not no_norm_in_discriminator(trainer)


def test_spectral_norm_of_the_discriminator_is_a_norm(trainer: AdversarialStep) -> None:
    assert not no_norm_in_discriminator(trainer)


def test_two_layers_of_attention_in_one_network_are_not_one_in_each(
    trainer: AdversarialStep,
) -> None:
    with_module("D.attention", nn.Identity)(trainer)
    with_module("G.attention", lambda: nn.Sequential(SelfAttention(8), SelfAttention(8)))(trainer)
    assert not attention_starts_off(trainer)


def test_without_residual_blocks_no_shortcut_is_intact(accelerator: Accelerator) -> None:
    assert not shortcuts(trained_by(accelerator, Blockless(), Headless()))


def test_modules_are_those_of_both_networks(trainer: AdversarialStep) -> None:
    found = set(modules(trainer))
    assert {part(trainer, "G.first"), part(trainer, "D.head.linear")} <= found


def test_norms_are_known_by_their_names() -> None:
    norm = ConditionalBatchNorm2d(8, CLASSES)
    assert norms(nn.Sequential(nn.Linear(8, 8), norm)) == [norm, norm.norm]


def test_singular_vectors_have_the_layers_sides() -> None:
    layer = spectrally_normalised(nn.Linear(3, 2))
    lengths = {name[-2:]: len(vector) for name, vector in singular_vectors(layer).items()}
    assert lengths == {"_u": 2, "_v": 3}


@pytest.mark.parametrize(("side", "lr"), [("G", 1e-4), ("D", 4e-4)])
def test_settings_are_of_the_sides_optimiser(
    trainer: AdversarialStep, side: str, lr: float
) -> None:
    assert param_group(trainer, side)["lr"] == lr


def test_several_groups_of_parameters_are_refused(trainer: AdversarialStep) -> None:
    trainer.players["G"].optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match="too many values"):
        param_group(trainer, "G")


def test_classes_are_drawn_in_turn(trainer: AdversarialStep) -> None:
    z, label = drawn(trainer)
    assert label is not None
    assert (z.shape, label.tolist()) == ((4, 5), [0, 1, 2, 0])


def test_no_class_is_drawn_where_the_discriminator_knows_none(trainer: AdversarialStep) -> None:
    without_classes(trainer)
    assert drawn(trainer)[1] is None


def test_own_images_are_a_batch_to_train_on(trainer: AdversarialStep) -> None:
    batch = own_images(trainer)
    assert batch.label is not None
    assert (batch.real.shape, batch.real.requires_grad) == ((4, 1, 4, 4), False)
