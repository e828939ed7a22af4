"""SAGAN: where it attends, with classes and without, and that each claim of its paper is tested."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from torch import nn

from gan_core.data import Batch
from gan_core.layers import (
    BatchNorm2d,
    ConditionalBatchNorm2d,
    MinibatchStddev,
    PlainSelfAttention,
    SelfAttention,
    bake,
    is_spectral,
    raw_weight,
)
from gan_core.losses import NonSaturating
from gan_core.stabilisers import Stabiliser
from gan_core.testing import built, tiny_config
from gan_sagan.networks import Architecture, Discriminator, Generator
from gan_sagan.trainer import SAGANConfig, build, served
from tests.plugins.breaks import (
    InPlace,
    always_training,
    part,
    with_loss,
    with_module,
    with_optimizer,
    with_player,
)
from tests.plugins.claims import all_broken, refuted

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from torch import Tensor

    from gan_core.trainer import AdversarialStep
    from gan_core.variant import Variant
    from tests.plugins.breaks import Break

SIDES_PX = [8, 16, 32, 64, 128]


def shape(
    side_px: int, attention_px: int = 4, classes: int = 3, width: int = 8, channels: int = 1
) -> Architecture:
    return Architecture(side_px, channels, classes, width, attention_px, SelfAttention)


def attended_px(network: nn.Module, *inputs: Tensor) -> int:
    """Side of the map that a network's attention gets."""
    seen: list[int] = []
    layer = network.get_submodule("attention")
    layer.register_forward_pre_hook(lambda _layer, given: seen.append(given[0].shape[-1]))
    network(*inputs)
    return seen[0]


@pytest.mark.parametrize("side_px", SIDES_PX)
def test_images_have_the_side_asked_for(side_px: int) -> None:
    images = Generator(5, shape(side_px, channels=3))(torch.randn(2, 5), torch.tensor([0, 2]))
    assert (tuple(images.shape), bool(images.abs().max() <= 1)) == ((2, 3, side_px, side_px), True)


@pytest.mark.parametrize("side_px", SIDES_PX)
def test_there_is_one_logit_per_image_of_any_side(side_px: int) -> None:
    images = torch.randn(3, 1, side_px, side_px)
    assert Discriminator(shape(side_px))(images, torch.tensor([0, 1, 2])).shape == (3,)


@pytest.mark.parametrize("px", [4, 8, 16, 32])
def test_both_networks_attend_at_the_side_asked_for(px: int) -> None:
    label = torch.tensor([0, 1])
    G, D = Generator(5, shape(64, px)), Discriminator(shape(64, px))
    z, images = torch.randn(2, 5), torch.randn(2, 1, 64, 64)
    assert (attended_px(G, z, label), attended_px(D, images, label)) == (px, px)


def test_widths_are_the_papers_at_128_px() -> None:
    at_128 = shape(128)
    # authors' code: 16, 16, 8, 4, 2 and 1 times the width
    assert [at_128.width_at(4 << i) // 8 for i in range(6)] == [16, 16, 8, 4, 2, 1]


def test_the_discriminator_mirrors_the_generator() -> None:
    G, D = Generator(5, shape(128)), Discriminator(shape(128))
    up = [block.get_submodule("conv_1").out_channels for block in G.blocks]
    down = [block.get_submodule("conv_1").out_channels for block in D.blocks]
    assert down == [*up[::-1], up[0]]


def test_the_discriminator_sums_its_last_map_over_the_places() -> None:
    D = Discriminator(shape(16)).eval()
    images = torch.randn(2, 1, 16, 16)
    last: list[Tensor] = []
    D.blocks[-1].register_forward_hook(lambda _block, _inputs, output: last.append(output))
    torch.testing.assert_close(D.features(images), last[0].relu().flatten(2).sum(2))


@pytest.mark.parametrize(
    ("side_px", "expected"), [(8, 4), (16, 8), (32, 16), (64, 32), (128, 32), (256, 32)]
)
def test_attention_is_at_32_px_where_there_is_such_a_map(side_px: int, expected: int) -> None:
    assert SAGANConfig(resolution_px=side_px).attended_px() == expected


@pytest.mark.parametrize("px", [-8, 0, 2, 12, 64, 128])
def test_attention_at_a_side_without_a_map_is_refused(px: int) -> None:
    message = rf"attention_px {px} is the side of no feature map: .* from 4 to 32"
    with pytest.raises(ValidationError, match=message):
        SAGANConfig(resolution_px=64, attention_px=px)


@pytest.mark.parametrize("side_px", [12, 24, 100])
def test_a_side_that_is_no_power_of_two_is_refused(side_px: int) -> None:
    with pytest.raises(ValidationError, match=f"resolution_px {side_px} is not a power of two"):
        SAGANConfig(resolution_px=side_px)


def test_spectral_norm_cannot_be_switched_off() -> None:
    with pytest.raises(ValidationError, match="spectral_norm"):
        SAGANConfig.model_validate({"spectral_norm": False})


def test_the_defaults_are_the_papers() -> None:
    config = SAGANConfig()
    assert (config.batch_size, config.z_dim, config.width) == (256, 128, 64)
    assert (config.lr_G, config.lr_D, config.beta1, config.beta2) == (1e-4, 4e-4, 0.0, 0.9)


@pytest.mark.parametrize(
    ("kind", "layer"), [("pooled", SelfAttention), ("plain", PlainSelfAttention)]
)
def test_attention_is_of_the_kind_asked_for(kind: str, layer: type[nn.Module]) -> None:
    config = SAGANConfig.model_validate({"attention": kind, "width": 8, "resolution_px": 16})
    trainer: Any = build(config, Accelerator(cpu=True))
    assert {type(trainer.raw_G.attention), type(trainer.raw_D.attention)} == {layer}


def test_gains_per_class_are_not_normalised() -> None:
    norms = [m for m in Generator(5, shape(16)).modules() if isinstance(m, ConditionalBatchNorm2d)]
    assert not any(is_spectral(norm.gain) or is_spectral(norm.bias) for norm in norms)


def test_weights_start_as_glorots_and_biases_at_zero() -> None:
    layer = Generator(5, shape(16)).last
    limit = (6 / (9 * (8 + 1))) ** 0.5  # uniform on ±√(6 / (fan in + fan out))
    largest, bias = raw_weight(layer).abs().max().item(), layer.get_parameter("bias").tolist()
    assert (limit / 2 < largest <= limit, bias) == (True, [0.0])


def test_the_same_z_gives_another_image_for_another_class_once_trained(variant: Variant) -> None:
    config = tiny_config(variant, ema_halflife_kimg=0.0)
    trainer: Any = built(variant, config)
    trainer.step(Batch(torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])))
    G, z = trainer.raw_G.eval(), torch.randn(1, 8)
    assert not torch.equal(G(z, torch.tensor([0])), G(z, torch.tensor([1])))


def test_the_class_is_served_where_there_are_classes(variant: Variant) -> None:
    config = tiny_config(variant)
    inputs = served(nn.Identity(), SAGANConfig.model_validate(config.model_dump())).inputs
    assert [item.role for item in inputs] == ["latent", "label"]


def test_z_alone_is_served_without_classes(variant: Variant) -> None:
    config = tiny_config(variant, classes=())
    inputs = served(nn.Identity(), SAGANConfig.model_validate(config.model_dump())).inputs
    assert [item.role for item in inputs] == ["latent"]


def test_without_classes_it_trains_with_plain_batch_norm(variant: Variant) -> None:
    trainer: Any = built(variant, tiny_config(variant, classes=()))
    stats = trainer.step(Batch(torch.rand(4, 3, 16, 16)))
    kinds = {type(block.norm_1) for block in trainer.raw_G.blocks}
    assert (kinds, torch.isfinite(stats["loss/G"]).item()) == ({BatchNorm2d}, True)


def test_without_classes_nothing_is_projected(variant: Variant) -> None:
    trainer: Any = built(variant, tiny_config(variant, classes=()))
    assert trainer.raw_D.head.embedding is None


def test_the_minibatch_layer_is_as_set(variant: Variant) -> None:
    trainer: Any = built(variant, tiny_config(variant, minibatch="stddev"))
    assert isinstance(trainer.raw_D.head.minibatch, MinibatchStddev)


class OverQueries(SelfAttention):
    """The known error: the softmax runs over the wrong axis."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = nn.functional.max_pool2d
        query, key = self.query(x).flatten(2), pooled(self.key(x), 2).flatten(2)
        weights = (query.transpose(1, 2) @ key).softmax(1)
        attended = pooled(self.value(x), 2).flatten(2) @ weights.transpose(1, 2)
        added: Tensor = self.gamma * self.out(attended.unflatten(2, x.shape[2:]))
        return x + added


class AveragedVectors(Stabiliser):
    """The known error: singular vectors are averaged, and shrink."""

    def __init__(self, average: nn.Module) -> None:
        self.average = average

    def after_step(self, stats: MutableMapping[str, Tensor], n: int) -> None:
        for name, buffer in self.average.named_buffers():
            if name.endswith("._u"):
                buffer.mul_(0.9)


def average_vectors(trainer: AdversarialStep) -> None:
    trainer.stabilisers.append(AveragedVectors(trainer.generator()))


BREAKS: dict[str, Break] = {
    "spectral norm on every layer of both networks": lambda t: bake(part(t, "G.attention.key")),
    "spectral norm rests in evaluation": always_training("D"),
    "G's average has G's singular vectors": average_vectors,
    "hinge loss": with_loss(NonSaturating()),
    "attention starts as the identity": lambda t: part(t, "D.attention").gamma.data.fill_(1),
    "attention weights sum to 1 over the keys": with_module("D.attention", lambda: OverQueries(8)),
    "keys and values are pooled 2×2": with_module("D.attention", lambda: PlainSelfAttention(8)),
    "every block of G normalises per class": with_module(
        "G.blocks.1.norm_2", lambda: BatchNorm2d(8)
    ),
    "D projects its features on the class": lambda t: setattr(part(t, "D.head"), "embedding", None),
    "no activation overwrites what a shortcut reads": with_module("G.blocks.0.norm_1", InPlace),
    "D learns four times as fast as G": with_optimizer("D", lr=1e-4),
    "Adam with betas 0 and 0.9": with_optimizer("G", betas=(0.0, 0.999)),
    "one D step per G step": with_player("D", steps=lambda g_steps: 2),
}


test_every_claim_is_broken_above = all_broken(BREAKS)
test_a_claim_is_refuted_where_it_is_untrue = refuted(BREAKS)
