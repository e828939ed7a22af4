"""SRGAN: its networks and their sizes, both phases, and that each claim of its paper is tested."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import interpolate, l1_loss

from gan_core import checkpoint
from gan_core.card import DataSource
from gan_core.checks import norms
from gan_core.data import Batch
from gan_core.errors import ConfigError
from gan_core.export import export
from gan_core.losses import Hinge, RelativisticAverage
from gan_core.schedules import constant
from gan_core.testing import built, check_variant, tiny_config
from gan_srgan.networks import RRDB, Compact, Discriminator, SRResNet
from gan_srgan.steps import FeatureDistance, UpscalerStep
from gan_srgan.trainer import SRGANConfig, build, served
from tests.plugins.breaks import with_module, with_optimizer
from tests.plugins.claims import all_broken, refuted

if TYPE_CHECKING:
    from pathlib import Path

    from gan_core.variant import Variant
    from tests.plugins.breaks import Break

SMALL = {"width": 8, "blocks": 2, "batch_size": 4, "resolution_px": 16}
GAN = {**SMALL, "objective": "gan", "width_D": 2, "perceptual_weight": 0.0, "pixel_weight": 1.0}
NETWORKS = [SRResNet, RRDB, Compact]


def trained_by(**settings: Any) -> UpscalerStep:
    config = SRGANConfig.model_validate({**SMALL, **settings})
    return build(config, Accelerator(cpu=True))


def pictures(n: int = 4, side_px: int = 16) -> Batch:
    """Smooth pictures in [-1, 1], on 8-bit levels."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    smooth = interpolate(coarse, size=(side_px, side_px), mode="bilinear")
    return Batch((smooth * 255).round() / 127.5 - 1)


def parameters(network: nn.Module) -> int:
    return sum(one.numel() for one in network.parameters())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("scale", [2, 4])
def test_an_oblong_picture_becomes_as_many_times_as_large(
    network: type[SRResNet], scale: int
) -> None:
    made = network(3, scale, width=8, blocks=2)(torch.rand(2, 3, 5, 7))
    assert made.shape == (2, 3, 5 * scale, 7 * scale)


@pytest.mark.parametrize(
    ("network", "millions"),
    [(SRResNet(3, 4), 1.5), (RRDB(3, 4), 16.7), (Compact(3, 4), 0.6)],
    ids=["srresnet", "rrdb", "compact"],
)
def test_networks_have_as_many_parameters_as_published(network: nn.Module, millions: float) -> None:
    assert parameters(network) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("network", [RRDB, Compact])
def test_later_generators_have_no_norm(network: type[RRDB]) -> None:
    assert not norms(network(3, 4, width=8, blocks=2))


def test_a_dense_block_without_weights_is_the_identity_but_for_a_fifth() -> None:
    block = RRDB(3, 4, width=8, blocks=1).body[0]
    dense = block.get_submodule("blocks.0")
    x = torch.randn(1, 8, 4, 4)
    for layer in dense.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
    last = dense.get_submodule("layers.4")
    nn.init.ones_(last.get_parameter("bias"))
    torch.testing.assert_close(dense(x), x + 0.2)


def test_a_new_compact_network_repeats_pixels() -> None:
    images = torch.rand(1, 3, 4, 6)
    expected = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.equal(Compact(3, 4, width=8, blocks=2)(images), expected)


@pytest.mark.parametrize("side_px", [16, 32, 96])
def test_there_is_one_logit_per_image_of_any_side(side_px: int) -> None:
    assert Discriminator(3, side_px, 2)(torch.randn(2, 3, side_px, side_px)).shape == (2,)


def test_the_discriminator_is_the_papers() -> None:
    D = Discriminator(3, 96)
    widths = [one.out_channels for one in D.modules() if isinstance(one, nn.Conv2d)]
    dense = [one.out_features for one in D.modules() if isinstance(one, nn.Linear)]
    assert (widths, dense) == ([64, 64, 128, 128, 256, 256, 512, 512], [1024, 1])


def test_the_defaults_are_the_papers() -> None:
    config = SRGANConfig()
    assert (config.scale, config.batch_size, config.resolution_px) == (4, 16, 96)
    assert (config.lr_G, config.beta1, config.content) == (1e-4, 0.9, "mse")
    assert (config.perceptual_weight, config.adversarial_weight) == (1, 1e-3)


@pytest.mark.parametrize("generator", ["srresnet", "rrdb", "compact"])
def test_regression_lowers_its_loss_on_a_fixed_batch(generator: str) -> None:
    trainer, batch = trained_by(generator=generator, lr_G=3e-3), pictures()
    losses = [trainer.step(batch)["loss/content"].item() for _ in range(25)]
    assert min(losses[-5:]) < 0.7 * losses[0]


def test_the_content_loss_is_on_the_range_of_two() -> None:
    trainer = trained_by(generator="compact")
    with torch.no_grad():
        trainer.G.network.get_submodule("layers").get_parameter("6.bias").add_(1)
    # a new one repeats pixels: of black pictures it makes white ones now
    stats = trainer.step(Batch(-torch.ones(4, 3, 16, 16)))
    assert stats["loss/content"].item() == pytest.approx(4.0)


def test_the_discriminator_learns_to_tell() -> None:
    trainer, batch = trained_by(**{**GAN, "width_D": 4}, lr_D=3e-3), pictures()
    stats = [trainer.step(batch) for _ in range(25)]
    assert stats[-1]["loss/D"] < 0.7 * stats[0]["loss/D"]


def test_every_term_is_reported_and_they_add_up() -> None:
    weights = {"content": 0.5, "perceptual": 2.0, "adversarial": 0.25}
    trainer = trained_by(
        **{**GAN, "pixel_weight": 0.5, "perceptual_weight": 2.0, "adversarial_weight": 0.25},
        perceptual="untrained",
    )
    stats = trainer.step(pictures())
    total = sum(weight * stats[f"loss/{name}"].item() for name, weight in weights.items())
    assert stats["loss/G"].item() == pytest.approx(total, rel=1e-5)


def test_generator_steps_leave_the_discriminator_alone() -> None:
    trainer = trained_by(**GAN)
    assert trainer.rival is not None
    D = trainer.rival.side.network
    trainer.rival.learn(pictures().real, pictures().real)
    before = [one.grad for one in D.parameters()]
    trainer.rival.beats(pictures().real.requires_grad_(), pictures().real).backward()
    assert all(one.grad is grad for one, grad in zip(D.parameters(), before, strict=True))


def test_esrgans_losses_are_as_set() -> None:
    trainer = trained_by(
        **{**GAN, "perceptual_weight": 12.75},
        content="l1",
        adversarial_loss="relativistic",
        perceptual="untrained",
        perceptual_before_relu=True,
        perceptual_distance="l1",
    )
    content, perceptual = trainer.terms
    assert isinstance(perceptual.distance, FeatureDistance)
    assert (content.distance, perceptual.distance.distance) == (l1_loss, l1_loss)
    assert perceptual.distance.features(torch.rand(1, 3, 16, 16)).min() < 0
    assert trainer.rival is not None
    assert trainer.rival.loss == RelativisticAverage()


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        ({}, [1, 1, 1, 1]),
        ({"lr_schedule": "cosine"}, [1, 0.75, 0.5, 0]),
        ({**GAN, "kimg": 3}, [1, 1, 0.1, 0.01]),
    ],
)
def test_learning_rates_follow_the_schedule(settings: Any, factors: list[float]) -> None:
    factor = trained_by(**{"kimg": 3.0, **settings}).G.lr_factor
    assert [factor(kimg) for kimg in (0, 1, 1.5, 3)] == pytest.approx(factors)


@pytest.mark.parametrize("ema_halflife_kimg", [0.0, 10.0])
def test_the_gan_phase_starts_from_a_runs_average(tmp_path: Path, ema_halflife_kimg: float) -> None:
    first = trained_by(ema_halflife_kimg=ema_halflife_kimg)
    first.step(pictures())
    checkpoint.save(tmp_path / "checkpoints", "000000.004", {"trainer": first.state()})
    second = trained_by(**{**GAN, "lr_G": 1e-12}, start_from=str(tmp_path))
    second.step(pictures())
    for ours, theirs in zip(
        second.G.network.parameters(), first.generator().parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_file_of_weights_is_taken_once(tmp_path: Path) -> None:
    save_file(trained_by(seed=1).G.network.state_dict(), path := tmp_path / "G.safetensors")
    trainer = trained_by(start_from=str(path))
    trainer.step(pictures())
    path.unlink()
    trainer.step(pictures())
    trained_by(start_from=str(path)).load(trainer.state())  # nor does an export need it


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 4}, "is of another generator: head.0.weight is"),
        ({"scale": 2}, "generator, scale, width and blocks must be the same"),
    ],
)
def test_weights_of_another_generator_are_refused(
    tmp_path: Path, settings: Any, message: str
) -> None:
    save_file(trained_by(**settings).G.network.state_dict(), path := tmp_path / "G.safetensors")
    with pytest.raises(ConfigError, match=message):
        trained_by(start_from=str(path)).step(pictures())


@pytest.mark.parametrize(
    ("path", "message"), [(".", "has no checkpoint"), ("none.safetensors", "can't read")]
)
def test_what_holds_no_weights_is_refused(tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"start_from: .*{message}.*a run or a safetensors"):
        trained_by(start_from=str(tmp_path / path)).step(pictures())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_D": 1e-3}, "lr_D 0.001 has no effect without objective gan"),
        ({"pixel_weight": 1.0}, "pixel_weight 1.0 has no effect without objective gan"),
        ({**GAN, "pixel_weight": 0.0}, "without pixel_weight and perceptual_weight"),
        ({**GAN, "resolution_px": 40}, "resolution_px 40 is not a multiple of 16"),
        ({"resolution_px": 18}, "resolution_px 18 is not a multiple of 4"),
        ({"channels": 4}, r"channels 4: photographs are grey \(1\) or RGB \(3\)"),
        ({**GAN, "perceptual": "vgg11"}, "no perceptual network 'vgg11'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SRGANConfig.model_validate({**SMALL, **settings})


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_served_enlarges_an_oblong_picture(tmp_path: Path, channels: int) -> None:
    config = SRGANConfig.model_validate({**SMALL, "generator": "compact", "channels": channels})
    trainer = build(config, Accelerator(cpu=True))
    with torch.no_grad():
        for parameter in trainer.generator().parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    made = served(trainer.generator(), config)
    source = DataSource(name="noise", fingerprint="0" * 64)
    card = export(made, tmp_path, model="m", variant="srgan", data=source, trained_kimg=0.0)
    assert (card.output.scale, card.parity_levels) == (4, card.parity_levels and 1)
    picture = np.random.default_rng(0).integers(0, 65_536, (1, 13, 29, channels), dtype=np.uint16)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (image,) = session.run(None, {card.inputs[0].name: picture})
    expected = made(torch.from_numpy(picture)).numpy()
    assert image.shape == (1, 52, 116, channels)
    assert np.abs(image.astype(int) - expected.astype(int)).max() <= 257


def test_blind_degradation_is_the_process_noise_alone() -> None:
    trainer, real = trained_by(degradation="blind"), pictures().real / 2 + 0.5
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(trainer.degraded(real))
    assert made[0].shape == (4, 3, 4, 4)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


@pytest.mark.parametrize(
    ("generator", "degradation"), [("srresnet", "bicubic"), ("compact", "blind")]
)
def test_regression_keeps_the_kits_promises_too(
    variant: Variant, generator: str, degradation: str
) -> None:
    tiny = {"width": 4, "blocks": 1, "generator": generator, "degradation": degradation}
    check_variant(replace(variant, tiny=tiny, paper_checks=()))


def test_an_upscaler_without_an_average_serves_its_weights(variant: Variant) -> None:
    trainer = built(variant, tiny_config(variant, ema_halflife_kimg=0.0))
    assert isinstance(trainer, UpscalerStep)
    assert trainer.generator() is trainer.G.network


def distance(trainer: Any) -> FeatureDistance:
    (term,) = trainer.terms
    assert isinstance(term.distance, FeatureDistance)
    return term.distance


def without(path: str, old: type[nn.Module]) -> Break:
    """Submodules of a kind do nothing."""
    side, _, name = path.partition(".")

    def change(trainer: Any) -> None:
        for module in trainer.players[side].network.get_submodule(name).modules():
            for child, one in module.named_children():
                if isinstance(one, old):
                    setattr(module, child, nn.Identity())

    return change


def one_shuffle(trainer: Any) -> None:
    trainer.G.network.upsampler = nn.Sequential(
        nn.Conv2d(4, 64, 3, padding=1), nn.PixelShuffle(4), nn.PReLU()
    )


def hr_in_lr_range(trainer: Any) -> None:
    degraded = trainer.degraded
    trainer.degraded = lambda real: degraded(real) * 2 - 1


def nearest(trainer: Any) -> None:
    trainer.degraded = lambda real: real[..., ::4, ::4]


def every_other_stride(trainer: Any) -> None:
    trainer.players["D"].network.layers[2].stride = (1, 1)


def hinge(trainer: Any) -> None:
    trainer.rival.loss = Hinge()


BREAKS: dict[str, Break] = {
    "G's convolutions are 9×9 outside and 3×3 inside": with_module(
        "G.tail", lambda: nn.Conv2d(4, 3, 3, padding=1)
    ),
    "BatchNorm in G's body, and nowhere else in G": with_module(
        "G.upsampler.0.1", lambda: nn.BatchNorm2d(16)
    ),
    "×4 is two PixelShuffles of 2, each before a PReLU": one_shuffle,
    "G ends with a convolution, without tanh": with_module("G.last", nn.Tanh),
    "LR is in [0, 1] and HR in [-1, 1]": hr_in_lr_range,
    "LR is HR reduced by an antialiased bicubic filter": nearest,
    "D halves the side four times, by strides": every_other_stride,
    "BatchNorm in D but after its first convolution": with_module(
        "D.layers.1", lambda: nn.BatchNorm2d(4)
    ),
    "LeakyReLU with slope 0.2 in D": with_module("D.layers.1", lambda: nn.LeakyReLU(0.01)),
    "VGG is frozen, and belongs to no checkpoint": lambda t: distance(t).features.requires_grad_(
        requires_grad=True
    ),
    "VGG's features are those of φ₅,₄ × 1/12.75": lambda t: distance(t).features.std.mul_(2),
    "G's loss is the features' MSE + 1e-3 · −log D": hinge,
    "Adam with learning rate 1e-4 and beta1 0.9": with_optimizer("D", lr=1e-3),
    "learning rates fall to a tenth after half of it": lambda t: setattr(
        t.G, "lr_factor", constant(1.0)
    ),
}


test_every_claim_is_broken_above = all_broken(BREAKS)
test_a_claim_is_refuted_where_it_is_untrue = refuted(BREAKS)


def test_a_picture_comes_through_all_layers_of_a_new_compact() -> None:
    """With torch's own first weights its 17th layer sees nothing of it, and never learns to."""
    torch.manual_seed(0)
    network = Compact(3, 4)
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    features = network.layers[:-2](images)
    assert 0.3 < features.std(dim=(2, 3)).mean() / images.std() < 3
