"""The conditional GAN: where the label enters, that it decides, and that each claim is tested."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from torch import nn

from gan_cgan.networks import ConvDiscriminator, ConvGenerator, Discriminator, Generator
from gan_cgan.trainer import CGANConfig, build, served
from gan_core.card import DataSource, LabelInput, LatentInput
from gan_core.data import Batch, Images
from gan_core.errors import ConfigError
from gan_core.layers import ConditionalBatchNorm2d, MinibatchStddev
from gan_core.losses import NonSaturating
from tests.plugins.breaks import with_module
from tests.plugins.claims import all_broken, refuted
from tests.plugins.measures import linear_sizes

if TYPE_CHECKING:
    from torch import Tensor

    from gan_core.trainer import AdversarialStep
    from tests.plugins.breaks import Break

CLASSES = ("a", "b", "c")
LABEL = torch.tensor([0, 1, 2, 0])


def trained_by(**settings: Any) -> AdversarialStep:
    small = {"z_dim": 8, "widths_G": (16, 16, 32), "widths_D": (32, 16, 32), "width": 4}
    shape = {"resolution_px": 8, "channels": 1, "classes": CLASSES, "batch_size": 4}
    config = CGANConfig.model_validate({**small, **shape, **settings})
    return build(config, Accelerator(cpu=True))


def test_the_generator_has_the_papers_widths() -> None:
    config = CGANConfig()
    network = Generator(config.z_dim, config.widths_G, 10, (1, 28, 28))
    # §4.1: z to 200 units, the label to 1000, both to 1200, and to 784 pixels
    assert linear_sizes(network) == [(100, 200), (1200, 1200), (1200, 784)]


def test_the_discriminator_has_as_many_linear_pieces_as_the_papers_maxout() -> None:
    assert CGANConfig().widths_D == (240 * 5, 50 * 5, 240 * 4)


@pytest.mark.parametrize("side_px", [7, 8, 28])
def test_perceptrons_take_any_side(side_px: int) -> None:
    shape = (3, side_px, side_px)
    images = Generator(5, (8, 8, 8), 3, shape)(torch.randn(4, 5), LABEL)
    logits = Discriminator((8, 8, 8), 3, shape)(images, LABEL)
    assert (images.shape[1:], logits.shape) == (shape, (4,))


@pytest.mark.parametrize("side_px", [8, 16, 32])
def test_convolutions_make_and_judge_images_of_the_side_asked_for(side_px: int) -> None:
    images = ConvGenerator(5, 4, 3, side_px, 1)(torch.randn(4, 5), LABEL)
    logits = ConvDiscriminator(4, 3, side_px, 1)(images, LABEL)
    assert (images.shape, logits.shape) == ((4, 1, side_px, side_px), (4,))


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_images_are_within_one(architecture: str) -> None:
    images = trained_by(architecture=architecture).raw_G(100 * torch.randn(4, 8), LABEL)
    assert images.abs().max() <= 1


@pytest.mark.parametrize("side_px", [12, 28])
def test_convolutions_refuse_a_side_that_is_no_power_of_two(side_px: int) -> None:
    with pytest.raises(ValidationError, match=f"resolution_px {side_px} is not a power of two"):
        CGANConfig(architecture="conv", resolution_px=side_px)


def test_data_without_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="cgan needs labelled data"):
        trained_by(classes=())


def test_a_class_is_served_beside_z() -> None:
    config = CGANConfig(z_dim=9, classes=CLASSES)
    inputs = served(nn.Identity(), config).inputs
    assert inputs == (LatentInput(dim=9), LabelInput(classes=CLASSES))


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
@pytest.mark.parametrize("projection", [False, True])
def test_the_label_decides_in_every_architecture(architecture: str, projection: bool) -> None:
    trainer = trained_by(architecture=architecture, projection=projection)
    z, other = torch.randn(4, 8), LABEL.roll(1)
    images = trainer.raw_G(z, LABEL)
    assert not torch.allclose(images, trainer.raw_G(z, other))
    assert not torch.allclose(trainer.raw_D(images, LABEL), trainer.raw_D(images, other))


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
@pytest.mark.parametrize(("projection", "before_the_head"), [(False, True), (True, False)])
def test_features_depend_on_the_label_unless_it_is_projected(
    architecture: str, projection: bool, before_the_head: bool
) -> None:
    D: Any = trained_by(architecture=architecture, projection=projection).raw_D
    images = torch.randn(4, 1, 8, 8)
    same = torch.equal(D.features(images, LABEL), D.features(images, LABEL.roll(1)))
    assert same is not before_the_head


@pytest.mark.parametrize("projection", [False, True])
def test_batch_norm_is_per_class_where_the_label_is_projected(projection: bool) -> None:
    G = trained_by(architecture="conv", projection=projection).raw_G
    assert any(isinstance(m, ConditionalBatchNorm2d) for m in G.modules()) is projection


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_the_discriminator_has_the_minibatch_layer_asked_for(architecture: str) -> None:
    D = trained_by(architecture=architecture, minibatch="stddev").raw_D
    assert any(isinstance(module, MinibatchStddev) for module in D.modules())


def test_z_and_the_label_start_with_about_as_much_to_say() -> None:
    network = Generator(100, (200, 1000, 16), 10, (1, 8, 8)).inputs
    assert network.label is not None
    vector = network.vector(torch.randn(500, 100)).square().sum(1).mean()
    label = network.label.weight.square().sum(1).mean()
    # He et al.'s gain² of 2/1.04, to within the label's few samples
    assert (vector / label).item() == pytest.approx(1.92, rel=0.2)


def test_label_smoothing_is_as_set() -> None:
    assert trained_by(real_target=0.9).loss == NonSaturating(0.9)


def test_fakes_have_the_label_distribution_of_the_data(trainer: AdversarialStep) -> None:
    labels = np.array([0] * 24 + [1] * 6 + [2] * 2)
    pixels = np.zeros((32, 3, 8, 8), np.uint8)
    data = Images(pixels, DataSource(name="skewed", fingerprint="0"), labels, CLASSES)
    asked: list[Tensor] = []
    trainer.raw_G.register_forward_pre_hook(lambda _, arguments: asked.append(arguments[1]))
    batches = data.batches(8, seed=0)
    for _ in range(4):  # one epoch, in which G is called twice per batch
        trainer.step(next(batches).to(torch.device("cpu")))
    assert torch.cat(asked).bincount().tolist() == [48, 12, 4]


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_it_learns_a_level_per_class(architecture: str) -> None:
    trainer = trained_by(architecture=architecture, lr_G=2e-3, lr_D=2e-3, ema_halflife_kimg=0)
    label = torch.arange(32) % 2
    real = (label - 0.5)[:, None, None, None].expand(-1, 1, 8, 8)
    for _ in range(200):
        trainer.step(Batch(real, label))
    with torch.no_grad():
        made = trainer.raw_G(torch.randn(32, 8), label).mean((1, 2, 3))
    levels = [made[label == one].mean().item() for one in (0, 1)]
    assert levels == pytest.approx([-0.5, 0.5], abs=0.25)


def forget(network: nn.Module) -> None:
    """Give every class the same embedding."""
    weight = network.get_parameter("inputs.label.weight")
    nn.init.zeros_(weight)


def other_labels(trainer: AdversarialStep) -> None:
    make = trainer.G
    trainer.G = lambda z, label: make(z, torch.zeros_like(label))


def unconditional_generator_loss(trainer: AdversarialStep) -> None:
    def judge(images: Tensor, label: Tensor | None) -> Tensor:
        logits: Tensor = trainer.D(images, torch.zeros(len(images), dtype=torch.int64))
        return logits

    trainer.opponent = lambda trainer, batch, fake: judge


BREAKS: dict[str, Break] = {
    "the label changes G's images": lambda t: forget(t.raw_G),
    "the label changes D's logits": lambda t: forget(t.raw_D),
    "in both networks the label has a layer of its own before the joint one": with_module(
        "G.inputs.norm", lambda: nn.BatchNorm1d(8)
    ),
    "fakes are made with the real batch's labels": other_labels,
    "both losses are conditional on the label": unconditional_generator_loss,
    "D has no normalisation": with_module("D.norm", lambda: nn.LayerNorm(8)),
}


test_every_claim_is_broken_above = all_broken(BREAKS)
test_a_claim_is_refuted_where_it_is_untrue = refuted(BREAKS)
