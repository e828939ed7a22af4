"""Progressive GAN: its growth, its networks at every stage, and each claim of its paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnxruntime
import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from torch import Tensor, nn

from gan_core import checkpoint
from gan_core.card import DataSource
from gan_core.data import Batch
from gan_core.errors import ConfigError
from gan_core.export import export
from gan_core.latents import draw, seed_range
from gan_core.layers import MinibatchDiscrimination, MinibatchStddev
from gan_core.losses import Wasserstein
from gan_core.testing import built, noise_images, tiny_config
from gan_progan.growth import Growth, Schedule, Stage
from gan_progan.layers import Equalised, PixelNorm, equalised
from gan_progan.networks import Discriminator, Generator
from gan_progan.trainer import ProGANConfig, build, served
from tests.plugins.breaks import with_loss, with_module, with_optimizer, with_player
from tests.plugins.claims import all_broken, refuted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gan_core.trainer import AdversarialStep
    from gan_core.variant import Variant
    from tests.plugins.breaks import Break

TINY = Schedule(first_level=0, last_level=2, stabilise_kimg=0.016, fade_kimg=0.016)
FOUR_TO_SIXTEEN = Schedule(first_level=0, last_level=2, stabilise_kimg=10, fade_kimg=5)
SETTINGS: dict[str, Any] = {"fmap_base": 32, "fmap_max": 8, "z_dim": 8, "channels": 1}


def made(**settings: Any) -> AdversarialStep:
    """A trainer of small networks."""
    return build(ProGANConfig.model_validate({**SETTINGS, **settings}), Accelerator(cpu=True))


def growth(trainer: AdversarialStep) -> Growth:
    (found,) = [s for s in trainer.stabilisers if isinstance(s, Growth)]
    return found


def batch(trainer: AdversarialStep, n: int = 4) -> Batch:
    """Noise of the tiny configuration's shape."""
    with torch.no_grad():
        shape = trainer.raw_G(torch.randn(n, trainer.latent.dim)).shape
    return Batch(torch.rand(shape) * 2 - 1)


def grown(trainer: AdversarialStep, kimg: float) -> AdversarialStep:
    """The trainer after a step at ``kimg``."""
    trainer.seen = round(1000 * kimg)
    trainer.step(batch(trainer))
    return trainer


@pytest.mark.parametrize(
    ("kimg", "stage"),
    [
        (0.0, Stage(0, 1.0)),
        (9.999, Stage(0, 1.0)),
        (10.0, Stage(1, 0.0)),
        (12.5, Stage(1, 0.5)),
        (14.999, Stage(1, 0.9998)),
        (15.0, Stage(1, 1.0)),
        (24.999, Stage(1, 1.0)),
        (25.0, Stage(2, 0.0)),
        (27.5, Stage(2, 0.5)),
        (30.0, Stage(2, 1.0)),
        (40.0, Stage(2, 1.0)),
        (1e6, Stage(2, 1.0)),
    ],
)
def test_a_level_is_stabilised_before_the_next_is_faded_in(kimg: float, stage: Stage) -> None:
    assert FOUR_TO_SIXTEEN(kimg) == stage


def test_the_networks_are_grown_when_the_last_fade_ends() -> None:
    end = FOUR_TO_SIXTEEN.grown_kimg
    assert (FOUR_TO_SIXTEEN(end - 0.001).fades, FOUR_TO_SIXTEEN(end)) == (True, Stage(2, 1.0))


def test_a_fade_of_no_length_lets_a_level_in_at_once() -> None:
    schedule = Schedule(0, 2, stabilise_kimg=10, fade_kimg=0)
    assert [schedule(kimg) for kimg in (9.9, 10, 20)] == [Stage(i, 1.0) for i in range(3)]


def test_growth_can_begin_at_a_larger_side() -> None:
    schedule = ProGANConfig(resolution_px=64, start_px=16).growth()
    assert schedule(0.0).side_px == 16


def test_images_that_start_at_their_full_side_do_not_grow() -> None:
    schedule = ProGANConfig(resolution_px=64, start_px=64).growth()
    assert {schedule(kimg) for kimg in (0, 600, 1e6)} == {Stage(4, 1.0)}


@pytest.mark.parametrize(("side_px", "size"), [(4, 16), (128, 16), (256, 14), (512, 6), (1024, 3)])
def test_batches_shrink_as_in_the_paper(side_px: int, size: int) -> None:
    config = ProGANConfig(resolution_px=1024, start_px=side_px)
    assert config.batch_size_at(0.0) == size


def test_the_batch_is_that_of_the_level_that_fades_in() -> None:
    config = ProGANConfig(
        resolution_px=8, stabilise_kimg=10, fade_kimg=5, batch_size=16, batch_sizes={8: 4}
    )
    assert [config.batch_size_at(kimg) for kimg in (0, 9.999, 10, 15)] == [16, 16, 4, 4]


def test_the_learning_rate_is_that_of_the_level() -> None:
    trainer = made(
        resolution_px=8, stabilise_kimg=0.1, fade_kimg=0.1, lr_factors={8: 1.5}, lr_D=2e-3
    )
    rates = []
    for kimg in (0.05, 0.1, 0.25):
        grown(trainer, kimg)
        groups = trainer.optimizer_G.param_groups + trainer.optimizer_D.param_groups
        rates.append([group["lr"] for group in groups])
    assert rates == [[1e-3, 2e-3], [1.5e-3, 3e-3], [1.5e-3, 3e-3]]


def test_a_learning_rate_schedule_goes_on_top_of_the_levels() -> None:
    config = ProGANConfig(
        resolution_px=8, kimg=1000, stabilise_kimg=10, fade_kimg=5, lr_factors={8: 1.5}
    )
    whole = config.model_copy(update={"lr_schedule": "linear"}).lr_factor()
    assert whole(500) == pytest.approx(0.5 * 1.5)


@pytest.mark.parametrize(
    ("side_px", "maps"),
    [(8, [512, 512]), (64, [512] * 4 + [256]), (1024, [512] * 4 + [256, 128, 64, 32, 16])],
)
def test_feature_maps_are_the_papers(side_px: int, maps: list[int]) -> None:
    assert ProGANConfig(resolution_px=side_px).maps() == maps


@pytest.mark.parametrize("side_px", [12, 48])
def test_a_side_that_is_no_power_of_two_is_refused(side_px: int) -> None:
    with pytest.raises(ValidationError, match=f"resolution_px {side_px} is not a power of two"):
        ProGANConfig(resolution_px=side_px)


def test_a_start_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ValidationError, match="start_px 6 is not a power of two"):
        ProGANConfig(resolution_px=32, start_px=6)


def test_a_start_above_the_images_side_is_refused() -> None:
    with pytest.raises(ConfigError, match="start_px 64 is above the images' side: at most 32"):
        made(resolution_px=32, start_px=64)


def test_a_budget_that_ends_before_the_last_level_is_refused() -> None:
    with pytest.raises(ConfigError, match="kimg 3599 ends before images are 32 px, which takes"):
        made(kimg=3599)


def test_a_budget_may_end_with_the_last_fade() -> None:
    made(kimg=3600)


STAGES = [Stage(0, 1.0), Stage(1, 0.3), Stage(1, 1.0), Stage(2, 0.7), Stage(2, 1.0)]


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_images_have_their_full_side_at_every_stage(stage: Stage) -> None:
    G = Generator(5, [8, 8, 4], 3)
    G.level, G.alpha = stage
    assert G(torch.randn(2, 5)).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_there_is_one_logit_per_full_sized_image_at_every_stage(stage: Stage) -> None:
    D = Discriminator([8, 8, 4], 1)
    D.level, D.alpha = stage
    assert D(torch.randn(3, 1, 16, 16)).shape == (3,)


def test_networks_that_nobody_grows_are_fully_grown() -> None:
    G, D = Generator(5, [8, 8, 4], 1), Discriminator([8, 8, 4], 1)
    assert [(network.level, network.alpha) for network in (G, D)] == [(2, 1.0), (2, 1.0)]


def test_an_equalised_layer_starts_with_he_initialisation() -> None:
    layer = equalised(nn.Conv2d(64, 64, 3))
    # 36 864 draws: six standard errors of the deviation are 2 %
    assert layer.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_the_largest_step_of_adam_is_the_same_share_of_any_layers_spread() -> None:
    shares = []
    for width in (4, 400):
        layer = equalised(nn.Linear(width, 8))
        optimizer = torch.optim.Adam(layer.parameters(), 0.01, (0.0, 0.99))
        before = layer.weight.detach().clone()
        layer(torch.ones(1, width)).sum().backward()
        optimizer.step()
        step = (layer.weight - before).abs().max().item()
        shares.append(step / (2 / width) ** 0.5)
    assert shares == pytest.approx([0.01, 0.01], rel=1e-3)


def test_pixel_norm_leaves_a_pixel_without_features_at_zero() -> None:
    assert PixelNorm()(torch.zeros(1, 3, 2, 2)).abs().max() == 0


@pytest.mark.parametrize(
    ("name", "kind"), [("stddev", MinibatchStddev), ("discrimination", MinibatchDiscrimination)]
)
def test_the_minibatch_layer_is_as_set(name: str, kind: type[nn.Module]) -> None:
    D = made(minibatch=name).raw_D
    assert sum(isinstance(module, kind) for module in D.modules()) == 1


def test_the_discriminator_can_go_without_a_minibatch_layer() -> None:
    one_by_one = Discriminator([8, 4], 1, "none")
    images = torch.randn(4, 1, 8, 8)
    assert torch.allclose(one_by_one(images)[:1], one_by_one(images[:1]), atol=1e-6)


def test_spectral_norm_takes_the_place_of_the_equalised_scale() -> None:
    D = made(spectral_norm=True, resolution_px=8).raw_D.eval()
    weights: list[Any] = [m.weight for m in D.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    # one power iteration per pass, from the 15 that it begins with: near 1, not exactly
    norms = [torch.linalg.matrix_norm(weight.flatten(1), 2).item() for weight in weights]
    assert norms == pytest.approx([1.0] * len(norms), rel=0.2)


def test_reals_below_the_last_level_are_means_enlarged(trainer: AdversarialStep) -> None:
    real = batch(trainer).real
    shown = growth(trainer).before_step(batch(trainer), 0.0)
    growth(trainer).show(Stage(0, 1.0))
    blocks = growth(trainer).at_stage(real).unfold(2, 4, 4).unfold(3, 4, 4)  # 4×4 px in 4×4 px
    assert shown.real.shape == real.shape
    assert torch.allclose(
        blocks, real.unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5))[..., None, None]
    )


def test_reals_of_the_last_level_are_untouched(trainer: AdversarialStep) -> None:
    given = batch(trainer)
    assert torch.equal(growth(trainer).before_step(given, 1.0).real, given.real)


def test_labels_pass_growth_unchanged(variant: Variant, trainer: AdversarialStep) -> None:
    images = noise_images(tiny_config(variant), 4)
    given = next(images.batches(4, seed=0)).to(torch.device("cpu"))
    assert growth(trainer).before_step(given, 0.0).label is given.label


def test_all_phases_and_both_batch_sizes_fall_into_the_kits_steps(variant: Variant) -> None:
    config = tiny_config(variant)
    assert isinstance(config, ProGANConfig)
    kimg, phases, sizes = 0.0, [], []
    for _ in range(12):
        stage = config.growth()(kimg)
        phases.append((stage.side_px, stage.fades))
        sizes.append(config.batch_size_at(kimg))
        kimg += sizes[-1] / 1000
    assert list(dict.fromkeys(phases)) == [
        (4, False),
        (8, True),
        (8, False),
        (16, True),
        (16, False),
    ]
    assert set(sizes) == {8, 4}


@pytest.mark.parametrize("kimg", [0.016, 0.032, 0.048, 0.064])
def test_moments_are_forgotten_when_a_phase_begins(trainer: AdversarialStep, kimg: float) -> None:
    grown(trainer, kimg - 0.008)
    grown(trainer, kimg)
    steps = {
        state["step"].item()
        for optimizer in (trainer.optimizer_G, trainer.optimizer_D)
        for state in optimizer.state.values()
    }
    assert steps == {1.0}


def test_moments_are_kept_within_a_phase(trainer: AdversarialStep) -> None:
    grown(trainer, 0.016)
    grown(trainer, 0.024)
    assert {state["step"].item() for state in trainer.optimizer_G.state.values()} == {2.0}


def test_layers_above_the_level_do_not_learn(trainer: AdversarialStep) -> None:
    def top() -> list[Tensor]:
        blocks: Any = (trainer.raw_G.blocks, trainer.raw_D.blocks)
        return [p.detach().clone() for part in blocks for p in part[-1].parameters()]

    before = top()
    grown(trainer, 0.032)
    assert all(torch.equal(a, b) for a, b in zip(before, top(), strict=True))


@pytest.mark.parametrize("kimg", [0.0, 0.024, 0.056, 0.08])
def test_the_average_grows_with_the_generator(trainer: AdversarialStep, kimg: float) -> None:
    grown(trainer, kimg)
    assert trainer.ema is not None
    average: Any = trainer.ema.module
    assert Stage(average.level, average.alpha) == TINY(kimg)


def test_growth_works_without_an_average() -> None:
    trainer = made(ema_halflife_kimg=0.0, resolution_px=8, stabilise_kimg=0.1, fade_kimg=0.1)
    G: Any = grown(trainer, 0.15).generator()
    assert (G.level, G.alpha) == (1, 0.5)


def resumed(variant: Variant, trainer: AdversarialStep, folder: Path) -> AdversarialStep:
    """Another trainer that took over the first one's checkpoint."""
    other: Any = built(variant, tiny_config(variant, seed=1))
    checkpoint.restore(other, checkpoint.save(folder, "1", {"trainer": trainer.state()}))
    return other  # type: ignore[no-any-return] # a Trainer to the kit


def samples(trainer: AdversarialStep, config: Any) -> Tensor:
    """What is shown of a run: the served generator's images of fixed seeds."""
    network = served(trainer.generator().eval(), config)
    drawn = draw(network.inputs, seed_range(0, 4)).values()
    with torch.no_grad():
        pixels: Tensor = network(*map(torch.from_numpy, drawn))
    return pixels


def test_samples_are_the_same_after_resuming_in_mid_fade(
    variant: Variant, trainer: AdversarialStep, tmp_path: Path
) -> None:
    config, other = tiny_config(variant), resumed(variant, grown(trainer, 0.056), tmp_path)
    assert growth(trainer).stage == Stage(2, 0.5)
    assert torch.equal(samples(trainer, config), samples(other, config))


def test_resuming_does_not_forget_the_moments_again(
    variant: Variant, trainer: AdversarialStep, tmp_path: Path
) -> None:
    other = resumed(variant, grown(trainer, 0.052), tmp_path)
    other.step(batch(other))
    assert {state["step"].item() for state in other.optimizer_D.state.values()} == {2.0}


def test_a_generator_in_mid_growth_exports_to_the_same_pixels(
    variant: Variant, trainer: AdversarialStep, tmp_path: Path
) -> None:
    growth(trainer).show(Stage(1, 0.25))
    config: Any = tiny_config(variant)
    network, expected = served(trainer.generator().eval(), config), samples(trainer, config)
    source = DataSource(name="noise", fingerprint="0")
    export(network, tmp_path, model="m", variant="progan", data=source, trained_kimg=0.0)
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    inputs = draw(network.inputs, seed_range(0, 4))
    pixels = torch.from_numpy(session.run(["image"], inputs)[0])
    assert (pixels.int() - expected.int()).abs().max() <= 1


def test_several_processes_allow_for_layers_without_a_gradient() -> None:
    accelerator = Accelerator(cpu=True)
    build(ProGANConfig.model_validate(SETTINGS), accelerator)
    assert accelerator.ddp_handler.find_unused_parameters


def test_the_stage_is_reported(trainer: AdversarialStep) -> None:
    stats = trainer.step(batch(trainer))
    assert (stats["growth/side_px"].item(), stats["growth/alpha"].item()) == (4.0, 1.0)


def test_the_defaults_are_the_papers() -> None:
    config = ProGANConfig()
    assert (config.lr_G, config.lr_D, config.beta1, config.beta2) == (1e-3, 1e-3, 0.0, 0.99)
    assert (config.z_dim, config.fmap_base, config.fmap_max) == (512, 8192, 512)
    assert (config.gp_weight, config.drift, config.n_critic, config.minibatch) == (
        10.0,
        0.001,
        1,
        "stddev",
    )


def normal(deviation: float) -> Break:
    def set_weights(trainer: AdversarialStep) -> None:
        for name, parameter in trainer.raw_G.named_parameters():
            if name.endswith("original"):
                nn.init.normal_(parameter, 0.0, deviation)

    return set_weights


def unscaled(trainer: AdversarialStep) -> None:
    scale = next(module for module in trainer.raw_D.modules() if isinstance(module, Equalised))
    scale.scale = 1.0


class NormOverPlaces(PixelNorm):
    """Normalises over height and width, as instance norm does."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(tuple(range(1, x.ndim)), keepdim=True) + 1e-8).sqrt()


def norm_over_places(trainer: AdversarialStep) -> None:
    for module in trainer.raw_G.modules():
        if isinstance(module, PixelNorm):
            module.__class__ = NormOverPlaces


def with_tanh(trainer: AdversarialStep) -> None:
    to_images: Any = trainer.raw_G.to_images
    to_images[-1] = nn.Sequential(to_images[-1], nn.Tanh())


def steep(trainer: AdversarialStep) -> None:
    next(m for m in trainer.raw_D.modules() if isinstance(m, nn.LeakyReLU)).negative_slope = 0.01


def comparing(trainer: AdversarialStep) -> MinibatchStddev:
    return next(m for m in trainer.raw_D.modules() if isinstance(m, MinibatchStddev))


class OverNLessOne(MinibatchStddev):
    """The sample's standard deviation, not the population's."""

    def forward(self, features: Tensor) -> Tensor:
        extra = features.std(0).mean().expand(len(features), 1, *features.shape[2:])
        return torch.cat([features, extra], 1)


def over_n_less_one(trainer: AdversarialStep) -> None:
    comparing(trainer).__class__ = OverNLessOne


def scheduled(change: Callable[[Schedule, float], Stage]) -> Break:
    """A schedule that is another one, but for its lengths."""

    def set_schedule(trainer: AdversarialStep) -> None:
        original = growth(trainer).schedule

        class Changed(Schedule):
            def __call__(self, kimg: float) -> Stage:
                return change(original, kimg)

        growth(trainer).schedule = Changed(0, 2, original.stabilise_kimg, original.fade_kimg)

    return set_schedule


def fading_first(schedule: Schedule, kimg: float) -> Stage:
    return schedule(kimg + schedule.stabilise_kimg)


def fading_downwards(schedule: Schedule, kimg: float) -> Stage:
    stage = schedule(kimg)
    return Stage(stage.level, 1 - stage.alpha) if stage.fades else stage


class UnfadedReals(Growth):
    """Shows D what is new in the reals all at once."""

    def at_stage(self, real: Tensor) -> Tensor:
        faded, self.stage = self.stage, Stage(self.stage.level, 1.0)
        shown = super().at_stage(real)
        self.stage = faded
        return shown


def unfaded_reals(trainer: AdversarialStep) -> None:
    growth(trainer).__class__ = UnfadedReals


class Halved(Growth):
    """Stops every fade at a half."""

    def show(self, stage: Stage) -> None:
        super().show(Stage(stage.level, min(stage.alpha, 0.5) if stage.level else 1.0))


def halved(trainer: AdversarialStep) -> None:
    growth(trainer).__class__ = Halved


def average_left_behind(trainer: AdversarialStep) -> None:
    growth(trainer).networks.pop().alpha = 1.0


def optimizers_left_alone(trainer: AdversarialStep) -> None:
    growth(trainer).optimizers = []


BREAKS: dict[str, Break] = {
    "weights start as N(0, 1)": normal(0.02),
    "weights are used times gain / sqrt(fan_in)": unscaled,
    "pixel norm follows every hidden layer of G": with_module("G.first.0", nn.Identity),
    "features of a pixel have a mean square of 1": norm_over_places,
    "no tanh: G's last layer is linear": with_tanh,
    "LeakyReLU with slope 0.2 everywhere": steep,
    "no normalisation in D": with_module("D.norm", lambda: nn.BatchNorm1d(8)),
    "D compares groups of 4 at 4x4 px": lambda t: setattr(comparing(t), "group", 8),
    "the spread in a group is divided by N": over_n_less_one,
    "drift 0.001 and gradient penalty 10": with_loss(Wasserstein()),
    "one D step per G step": with_player("D", steps=lambda g_steps: 5),
    "Adam with 1e-3, betas (0, 0.99), eps 1e-8": with_optimizer("G", betas=(0.5, 0.99)),
    "nothing fades before 4 px are stable": scheduled(fading_first),
    "every fade goes from 0 to 1": scheduled(fading_downwards),
    "at alpha 0 all is as at the level before": unfaded_reals,
    "at alpha 1 nothing of the level before is left": halved,
    "G, D and the reals have the same alpha": average_left_behind,
    "optimisers start afresh at a new level": optimizers_left_alone,
}


test_every_claim_is_broken_above = all_broken(BREAKS)
test_a_claim_is_refuted_where_it_is_untrue = refuted(BREAKS)
