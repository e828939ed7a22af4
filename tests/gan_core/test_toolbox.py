"""The toolbox: what each setting does to the trainer, and which can't go together."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from gan_core import AdversarialConfig, TrainConfig
from gan_core.augment import AdaptiveAugment, DiffAugment
from gan_core.card import LatentInput
from gan_core.checkpoint import tensors
from gan_core.data import Batch
from gan_core.errors import ConfigError
from gan_core.layers import Head, Minibatch, MinibatchDiscrimination, MinibatchStddev, is_spectral
from gan_core.losses import Hinge, NonSaturating, Relativistic, Wasserstein
from gan_core.penalties import gradient_penalty, orthogonal
from gan_core.stabilisers import EMA, ClipGradients, ClipWeights, InstanceNoise, MonitorGradients
from gan_core.toolbox import Recipe, adam

if TYPE_CHECKING:
    from collections.abc import Callable

    from accelerate import Accelerator

    from gan_core.stabilisers import Stabiliser
    from gan_core.trainer import AdversarialStep


class Generator(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, side**2), nn.Tanh(), nn.Unflatten(1, (1, side, side))
        )

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        images: Tensor = self.layers(z)
        return images


class Discriminator(nn.Module):
    def __init__(self, side: int, minibatch: Minibatch = "none") -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(side**2, 6), nn.LeakyReLU(0.2))
        self.head = Head(6, minibatch=minibatch)

    def features(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        made: Tensor = self.body(images)
        return made

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def config(**settings: Any) -> AdversarialConfig:
    return AdversarialConfig.model_validate({"batch_size": 4, "resolution_px": 8, **settings})


def recipe(settings: AdversarialConfig, **parts: Any) -> Recipe:
    side = settings.resolution_px
    plain = Recipe(
        G=Generator(side),
        D=Discriminator(side, settings.minibatch),
        loss=NonSaturating(settings.real_target),
        latent=LatentInput(dim=3),
    )
    return replace(plain, **parts)


def assembled(accelerator: Accelerator, **settings: Any) -> AdversarialStep:
    return recipe(config(**settings)).trainer(config(**settings), accelerator)


def batch(side: int = 8) -> Batch:
    return Batch(torch.linspace(-1, 1, 4 * side**2).reshape(4, 1, side, side))


def group(trainer: AdversarialStep, side: str) -> dict[str, Any]:
    optimizer = {"G": trainer.optimizer_G, "D": trainer.optimizer_D}[side]
    found: dict[str, Any] = optimizer.param_groups[0]
    return found


def rates(trainer: AdversarialStep) -> list[float]:
    """Learning rates of G and D."""
    return [group(trainer, side)["lr"] for side in "GD"]


def rates_after(trainer: AdversarialStep, steps: int) -> list[float]:
    for _ in range(steps):
        trainer.step(batch())
    return rates(trainer)


def penalties(trainer: AdversarialStep, side: str) -> dict[str, tuple[Any, int]]:
    """Weight and interval by name."""
    return {p.name: (p.weight, p.interval) for p in trainer.players[side].penalties}


def only(trainer: AdversarialStep, kind: type[Stabiliser]) -> Any:
    (found,) = [s for s in trainer.stabilisers if isinstance(s, kind)]
    return found


def minibatch(trainer: AdversarialStep) -> type[nn.Module]:
    return type(trainer.raw_D.get_submodule("head.minibatch"))


EFFECTS: list[tuple[dict[str, Any], Callable[[AdversarialStep], Any], Any]] = [
    ({"lr_G": 0.03}, rates, [0.03, 2e-4]),
    ({"lr_D": 0.03}, rates, [2e-4, 0.03]),
    ({"lr_ratio": 0.5, "lr_D": 0.04}, rates, [0.02, 0.04]),
    ({"beta1": 0.1}, lambda t: [group(t, s)["betas"] for s in "GD"], [(0.1, 0.999)] * 2),
    ({"beta2": 0.9}, lambda t: [group(t, s)["betas"] for s in "GD"], [(0.5, 0.9)] * 2),
    # four steps of 4 images: 0.012 kimg were seen before the last
    (
        {"lr_schedule": "linear", "kimg": 0.024},
        lambda t: rates_after(t, 4),
        pytest.approx([1e-4] * 2),
    ),
    (
        {"lr_schedule": "linear", "lr_schedule_kimg": 0.048},
        lambda t: rates_after(t, 4),
        pytest.approx([1.5e-4] * 2),
    ),
    (
        {"lr_schedule": "linear", "lr_schedule_kimg": 0.004, "lr_final": 0.25},
        lambda t: rates_after(t, 4),
        pytest.approx([5e-5] * 2),
    ),
    (
        {"lr_schedule": "exponential", "lr_schedule_kimg": 0.005, "lr_decay": 0.1},
        lambda t: rates_after(t, 4),
        pytest.approx([2e-6] * 2),
    ),
    ({"n_critic": 3}, lambda t: t.players["D"].steps(0), 3),
    ({"n_generator": 3}, lambda t: t.players["G"].steps(0), 3),
    ({"real_target": 0.9}, lambda t: t.loss, NonSaturating(0.9)),
    ({"feature_matching": 0.3}, lambda t: penalties(t, "G"), {"feature_matching": (0.3, 1)}),
    ({"adversarial": 0.7}, lambda t: t.adversarial, 0.7),
    (
        {"historical_averaging": 0.2},
        lambda t: [penalties(t, side) for side in "GD"],
        [{"historical_average": (0.2, 1)}] * 2,
    ),
    ({"minibatch": "stddev"}, minibatch, MinibatchStddev),
    ({"minibatch": "discrimination"}, minibatch, MinibatchDiscrimination),
    ({"spectral_norm": True}, lambda t: is_spectral(t.raw_D.get_submodule("head.linear")), True),
    ({"r1_gamma": 5.0}, lambda t: penalties(t, "D"), {"r1": (5.0, 1)}),
    ({"r2_gamma": 5.0}, lambda t: penalties(t, "D"), {"r2": (5.0, 1)}),
    (
        {"r1_gamma": 5.0, "r2_gamma": 1.0, "r1_interval": 16},
        lambda t: penalties(t, "D"),
        {"r1": (5.0, 16), "r2": (1.0, 16)},
    ),
    ({"instance_noise": 0.1}, lambda t: only(t, InstanceNoise).sigma, 0.1),
    (
        {"instance_noise": 0.1, "instance_noise_kimg": 7},
        lambda t: only(t, InstanceNoise).anneal_kimg,
        7,
    ),
    ({"augment": "diffaugment"}, lambda t: bool(only(t, DiffAugment)), True),
    ({"augment": "ada"}, lambda t: only(t, AdaptiveAugment).target, 0.6),
    ({"augment": "ada", "ada_target": 0.7}, lambda t: only(t, AdaptiveAugment).target, 0.7),
    ({"augment": "ada", "ada_kimg": 90}, lambda t: only(t, AdaptiveAugment).kimg, 90),
    ({"clip_gradients": 2.0}, lambda t: only(t, ClipGradients).max_norm, 2.0),
    ({"gradient_limit": 2.0}, lambda t: only(t, MonitorGradients).limit, 2.0),
    ({"ema_halflife_kimg": 3.0}, lambda t: t.ema and t.ema.halflife_kimg, 3.0),
    ({"ema_halflife_kimg": 0.0}, lambda t: t.ema, None),
]
IDS = [str(settings) for settings, _, _ in EFFECTS]
OWN = AdversarialConfig.model_fields.keys() - TrainConfig.model_fields.keys()


@pytest.mark.parametrize(("settings", "observed", "expected"), EFFECTS, ids=IDS)
def test_a_setting_has_its_effect(
    accelerator: Accelerator,
    settings: dict[str, Any],
    observed: Callable[[AdversarialStep], Any],
    expected: Any,
) -> None:
    assert observed(assembled(accelerator, **settings)) == expected


def test_the_effect_of_every_setting_is_tested_above() -> None:
    assert {name for settings, _, _ in EFFECTS for name in settings} >= OWN


@pytest.mark.parametrize("settings", [settings for settings, _, _ in EFFECTS], ids=IDS)
def test_a_trainer_learns_with_it(accelerator: Accelerator, settings: dict[str, Any]) -> None:
    trainer = assembled(accelerator, **settings)
    for _ in range(2):
        stats = trainer.step(batch())
    assert all(torch.isfinite(value) for value in stats.values())
    assert all(torch.isfinite(t.float()).all() for t in tensors(trainer.state()).values())


def test_nothing_is_on_unless_set(accelerator: Accelerator) -> None:
    trainer = assembled(accelerator)
    assert [penalties(trainer, side) for side in "GD"] == [{}, {}]
    assert [type(s) for s in trainer.stabilisers] == [MonitorGradients, EMA]
    assert (trainer.opponent, trainer.adversarial) == (None, 1.0)


ALL = {
    "lr_ratio": 0.5,
    "lr_schedule": "cosine",
    "kimg": 0.04,
    "n_generator": 2,
    "real_target": 0.9,
    "feature_matching": 0.1,
    "historical_averaging": 0.1,
    "minibatch": "discrimination",
    "spectral_norm": True,
    "r1_gamma": 1.0,
    "r2_gamma": 1.0,
    "r1_interval": 2,
    "instance_noise": 0.1,
    "instance_noise_kimg": 0.03,
    "augment": "ada",
    "ada_kimg": 0.05,
    "clip_gradients": 1.0,
    "gradient_limit": 0.1,
}
RESUMED = [{}, {"historical_averaging": 0.1}, {"spectral_norm": True}, {"n_critic": 2}, ALL]


@pytest.mark.parametrize("settings", RESUMED, ids=[*map(str, RESUMED[:-1]), "all"])
def test_a_loaded_trainer_goes_on_exactly_as_the_saved_one(
    accelerator: Accelerator, settings: dict[str, Any]
) -> None:
    ours, theirs = (assembled(accelerator, **settings) for _ in range(2))
    for _ in range(5):
        ours.step(batch())
    theirs.load(copy.deepcopy(ours.state()))
    ends = []
    for trainer in (ours, theirs):
        torch.manual_seed(1)
        for _ in range(4):
            trainer.step(batch())
        ends.append(tensors(trainer.state()))
    assert ends[0].keys() == ends[1].keys()
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []


# share of the learning rates before each of six steps of 4 images, of a budget of 16
SHAPES = {
    "constant": [1.0] * 6,
    "linear": [1.0, 0.75, 0.5, 0.25, 0.0, 0.0],
    "cosine": [1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0.0, 0.0],
    "exponential": [0.95 ** (20 * step // 4) for step in range(6)],  # a twentieth at a time
}


@pytest.mark.parametrize("shape", SHAPES)
def test_both_learning_rates_follow_the_schedule_over_the_budget(
    accelerator: Accelerator, shape: str
) -> None:
    trainer = assembled(accelerator, lr_schedule=shape, kimg=0.016, lr_G=0.01, lr_D=0.04)
    found = [rates_after(trainer, 1) for _ in range(6)]
    assert found == [pytest.approx([0.01 * f, 0.04 * f], abs=1e-12) for f in SHAPES[shape]]


def gradient(network: nn.Module) -> Tensor:
    found = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return torch.cat(found)


@pytest.mark.parametrize("side", ["raw_G", "raw_D"])
def test_historical_averaging_is_in_the_same_loss_as_the_adversarial_term(
    accelerator: Accelerator, side: str
) -> None:
    gradients, away = [], 0.1
    for weight in (0.0, 0.5):
        torch.manual_seed(0)
        trainer = assembled(accelerator, historical_averaging=weight, lr_G=1e-12, lr_D=1e-12)
        with torch.no_grad():
            for network in (trainer.raw_G, trainer.raw_D):
                for parameter in network.parameters():
                    parameter.add_(away)
        trainer.step(batch())
        gradients.append(gradient(getattr(trainer, side)))
    # ∂/∂θ w·‖θ − mean‖² = 2w·(θ − mean)
    added = torch.full_like(gradients[0], 2 * 0.5 * away)
    torch.testing.assert_close(gradients[1] - gradients[0], added)


def test_gradients_are_clipped_and_their_norm_is_that_from_before(
    accelerator: Accelerator,
) -> None:
    trainer = assembled(accelerator, clip_gradients=1e-4)
    stats = trainer.step(batch())
    assert stats["gradient_norm/D"].item() > 1e-3
    assert gradient(trainer.raw_D).norm().item() == pytest.approx(1e-4, rel=1e-2)


@pytest.mark.parametrize(("limit", "excess"), [(1e-6, 1.0), (1e6, 0.0)])
def test_a_gradient_beyond_the_limit_is_reported(
    accelerator: Accelerator, limit: float, excess: float
) -> None:
    stats = assembled(accelerator, gradient_limit=limit).step(batch())
    found = [stats[f"gradient_excess/{side}"].item() for side in "GD"]
    assert found == [excess, excess]


def test_the_normalised_weights_are_what_the_optimiser_learns(accelerator: Accelerator) -> None:
    trainer = assembled(accelerator, spectral_norm=True)
    learned = {id(p) for p in group(trainer, "D")["params"]}
    assert learned == {id(p) for p in trainer.raw_D.parameters()}


CONTRADICTIONS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {"real_target": 0.9},
        {"loss": Hinge()},
        "real_target 0.9 has no meaning for the Hinge loss: leave it 1",
    ),
    ({"real_target": 0.9}, {"loss": Wasserstein()}, "real_target 0.9 has no meaning for the Wass"),
    ({"real_target": 0.9}, {"loss": Relativistic()}, "real_target 0.9 has no meaning for the Rel"),
    (
        {"feature_matching": 1.0},
        {"D": nn.Linear(1, 1)},
        r"feature_matching needs a discriminator with a method features\(\), which Linear hasn't",
    ),
    ({"adversarial": 0.0}, {}, "adversarial 0 leaves G without a loss: set feature_matching"),
    (
        {"augment": "ada", "resolution_px": 1, "channels": 2},  # points in the plane
        {},
        "augment 'ada' is for images, not for 1 px",
    ),
]


@pytest.mark.parametrize(
    ("settings", "parts", "message"), CONTRADICTIONS, ids=[str(c[0]) for c in CONTRADICTIONS]
)
def test_settings_that_contradict_each_other_are_refused(
    accelerator: Accelerator, settings: dict[str, Any], parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(config(**settings), **parts).trainer(config(**settings), accelerator)


IDLE = [
    ({"lr_schedule_kimg": 9.0}, "lr_schedule linear, cosine or exponential"),
    ({"lr_final": 0.5}, "lr_schedule linear or cosine"),
    ({"lr_final": 0.5, "lr_schedule": "exponential"}, "lr_schedule linear or cosine"),
    ({"lr_decay": 0.5, "lr_schedule": "cosine"}, "lr_schedule exponential"),
    ({"r1_interval": 4}, "r1_gamma or r2_gamma"),
    ({"instance_noise_kimg": 9.0}, "instance_noise"),
    ({"ada_target": 0.5, "augment": "diffaugment"}, "augment ada"),
    ({"ada_kimg": 9.0}, "augment ada"),
]


@pytest.mark.parametrize(("settings", "needed"), IDLE, ids=[str(c[0]) for c in IDLE])
def test_a_setting_that_would_do_nothing_is_refused(settings: dict[str, Any], needed: str) -> None:
    (name, value), *_ = settings.items()
    with pytest.raises(ValidationError, match=f"{name} {value} has no effect without {needed}"):
        config(**settings)


def test_a_learning_rate_beside_the_ratio_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"lr_G 0.1 has no effect beside lr_ratio"):
        config(lr_G=0.1, lr_ratio=0.5)


@pytest.mark.parametrize(
    "settings",
    [
        {"lr_final": 0.5, "lr_schedule_kimg": 9.0, "lr_schedule": "linear"},
        {"lr_decay": 0.5, "lr_schedule_kimg": 9.0, "lr_schedule": "exponential"},
        {"r1_interval": 4, "r2_gamma": 1.0},
        {"instance_noise_kimg": 9.0, "instance_noise": 0.1},
        {"ada_target": 0.5, "ada_kimg": 9.0, "augment": "ada"},
    ],
    ids=str,
)
def test_a_setting_that_does_something_is_taken(settings: dict[str, Any]) -> None:
    assert config(**settings).model_dump().items() >= settings.items()


def test_feature_matching_can_stand_for_the_adversarial_term(accelerator: Accelerator) -> None:
    # as in Salimans et al. 2016
    stats = assembled(accelerator, adversarial=0.0, feature_matching=1.0).step(batch())
    assert "penalty/feature_matching_G" in stats


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr_G", 0),
        ("lr_D", 0),
        ("lr_ratio", 0),
        ("beta1", 1),
        ("beta2", 1),
        ("lr_schedule", "steps"),
        ("lr_final", 1.1),
        ("lr_decay", 0),
        ("n_critic", 0),
        ("n_generator", 0),
        ("real_target", 0.5),
        ("feature_matching", -1),
        ("adversarial", -1),
        ("historical_averaging", -1),
        ("minibatch", "some"),
        ("r1_gamma", -1),
        ("r2_gamma", -1),
        ("r1_interval", 0),
        ("instance_noise", -1),
        ("instance_noise_kimg", 0),
        ("augment", "some"),
        ("ada_target", 1),
        ("ada_kimg", 0),
        ("clip_gradients", -1),
        ("gradient_limit", -1),
    ],
)
def test_a_setting_out_of_range_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        config(**{field: value})


@pytest.mark.parametrize("field", sorted(OWN))
def test_a_setting_says_what_it_is(field: str) -> None:
    assert (AdversarialConfig.model_fields[field].description or "").endswith(".")


def test_a_variants_own_penalties_come_beside_the_configured_ones(
    accelerator: Accelerator,
) -> None:
    settings = config(r1_gamma=1.0, feature_matching=1.0)
    parts = {"penalties_D": [gradient_penalty()], "penalties_G": [orthogonal()]}
    trainer = recipe(settings, **parts).trainer(settings, accelerator)
    names = [list(penalties(trainer, side)) for side in "DG"]
    assert names == [["gp", "r1"], ["orthogonal", "feature_matching"]]


def test_a_variants_own_stabilisers_come_before_the_configured_ones(
    accelerator: Accelerator,
) -> None:
    made = recipe(config())
    trainer = replace(made, stabilisers=[ClipWeights(made.D, 0.01)]).trainer(config(), accelerator)
    assert [type(s) for s in trainer.stabilisers] == [ClipWeights, MonitorGradients, EMA]


def test_a_variant_may_bring_its_own_optimiser(accelerator: Accelerator) -> None:
    made = recipe(config(), optimizer=torch.optim.RMSprop)
    trainer = made.trainer(config(lr_D=0.3), accelerator)
    assert isinstance(trainer.players["D"].optimizer, torch.optim.RMSprop)
    assert rates(trainer)[1] == 0.3


def test_adams_epsilon_can_be_chosen() -> None:
    optimizer = adam(config(beta1=0.0), eps=1e-6)([nn.Parameter(torch.ones(1))], 0.1)
    found = {key: optimizer.param_groups[0][key] for key in ("lr", "betas", "eps")}
    assert found == {"lr": 0.1, "betas": (0.0, 0.999), "eps": 1e-6}


def never(*given: Any) -> Any:
    """An opponent that is never asked."""


def rhythm(g_steps: int) -> int:
    return 100 if g_steps < 25 else 5


def half(kimg: float) -> float:
    return 0.5


RECIPES: list[tuple[str, Any, Callable[[AdversarialStep], Any], Any]] = [
    ("loss", Hinge(), lambda t: t.loss, Hinge()),
    ("latent", LatentInput(dim=7), lambda t: t.latent, LatentInput(dim=7)),
    ("opponent", never, lambda t: t.opponent, never),
    ("n_critic", rhythm, lambda t: t.players["D"].steps(0), 100),
    ("beta2", half, lambda t: [p.beta2 for p in t.players.values()], [half, half]),
    ("batch_size_G", 6, lambda t: [t.players[s].batch_size for s in "GD"], [6, None]),
]


@pytest.mark.parametrize(
    ("part", "value", "observed", "expected"), RECIPES, ids=[r[0] for r in RECIPES]
)
def test_what_a_variant_says_is_its_own_holds(
    accelerator: Accelerator,
    part: str,
    value: Any,
    observed: Callable[[AdversarialStep], Any],
    expected: Any,
) -> None:
    settings = config(n_critic=2, lr_schedule="linear")
    trainer = recipe(settings, **{part: value}).trainer(settings, accelerator)
    assert observed(trainer) == expected
