"""Averages, noise, gradient norms, clipping and historical averages, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gan_core.data import Batch
from gan_core.networks import Plain
from gan_core.penalties import PenaltyInputs
from gan_core.stabilisers import (
    EMA,
    ClipGradients,
    ClipWeights,
    HistoricalAverage,
    InstanceNoise,
    MonitorGradients,
    Stabiliser,
)


def followed(start: float = 0.0) -> nn.Linear:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, start)
    return network


def weight(network: nn.Module) -> float:
    (parameter,) = network.parameters()
    return parameter.item()


def test_the_average_is_half_way_after_one_half_life() -> None:
    generator = followed(0.0)
    ema = EMA(generator, halflife_kimg=1.0, rampup=0.0)
    nn.init.constant_(generator.weight, 1.0)
    for _ in range(10):
        ema.after_step({}, 100)
    assert weight(ema.module) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("n", [1, 50, 400])
def test_the_half_life_is_in_images_whatever_the_batch(n: int) -> None:
    generator = followed(0.0)
    ema = EMA(generator, halflife_kimg=0.4, rampup=0.0)
    nn.init.constant_(generator.weight, 1.0)
    for _ in range(1200 // n):
        ema.after_step({}, n)
    assert weight(ema.module) == pytest.approx(1 - 0.5**3, abs=1e-5)


def test_the_rampup_shortens_the_half_life_to_a_share_of_the_images_seen() -> None:
    generator = followed(0.0)
    ema = EMA(generator, halflife_kimg=1000.0, rampup=0.05)
    nn.init.constant_(generator.weight, 1.0)
    expected = 0.0
    for seen in (100, 200, 300):
        ema.after_step({}, 100)
        expected += (1 - 0.5 ** (100 / (0.05 * seen))) * (1 - expected)
    assert weight(ema.module) == pytest.approx(expected, abs=1e-6)


def test_the_rampup_ends_at_the_half_life() -> None:
    generator = followed(0.0)
    ema = EMA(generator, halflife_kimg=1.0, rampup=0.05)
    ema.seen = 1_000_000  # 5% of it is far above the half-life
    nn.init.constant_(generator.weight, 1.0)
    ema.after_step({}, 1000)
    assert weight(ema.module) == pytest.approx(0.5, abs=1e-6)


def test_buffers_are_copied_not_averaged() -> None:
    generator = nn.BatchNorm1d(2)
    ema = EMA(generator, halflife_kimg=1000.0)
    generator(torch.randn(64, 2) + 5)
    ema.after_step({}, 64)
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(ema.module.buffers(), generator.buffers(), strict=True)
    )


def test_spectral_norms_u_and_v_are_copied_not_averaged() -> None:
    generator = spectral_norm(nn.Linear(4, 4))
    ema = EMA(generator, halflife_kimg=1000.0)
    for _ in range(5):
        nn.init.normal_(generator.parametrizations["weight"].original)  # type: ignore[index, union-attr] # a list
        generator(torch.randn(2, 4))
    ema.after_step({}, 2)
    ours, theirs = dict(ema.module.named_buffers()), dict(generator.named_buffers())
    assert ours.keys() == {f"parametrizations.weight.0._{name}" for name in "uv"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_average_takes_no_gradient_and_leaves_the_generator_its_own() -> None:
    generator = followed()
    ema = EMA(generator, 1.0)
    learns = [p.requires_grad for n in (ema.module, generator) for p in n.parameters()]
    assert learns == [False, True]


def test_the_average_stays_in_evaluation_mode() -> None:
    generator = nn.BatchNorm1d(2).train()
    assert not EMA(generator, 1.0).module.training


def test_a_loaded_average_goes_on_as_the_saved_one() -> None:
    generator = followed(1.0)
    ours, theirs = EMA(generator, 1.0), EMA(followed(7.0), 1.0)
    nn.init.constant_(generator.weight, 3.0)
    ours.after_step({}, 64)
    theirs.load(ours.state())
    assert (weight(theirs.module), theirs.seen) == (weight(ours.module), 64)


@pytest.mark.parametrize("halflife", [0.0, -1.0])
def test_a_half_life_that_is_not_positive_is_refused(halflife: float) -> None:
    with pytest.raises(ValueError, match=r"halflife_kimg .* is not above 0"):
        EMA(followed(), halflife)


@pytest.mark.parametrize(("seen", "expected"), [(0, 0.5), (500, 0.25), (1000, 0.0), (2000, 0.0)])
def test_instance_noise_falls_linearly_to_none(seen: int, expected: float) -> None:
    noise = InstanceNoise(0.5, anneal_kimg=1.0)
    noise.after_step({}, seen)
    std = noise.view(torch.zeros(100_000)).std().item()
    assert std == pytest.approx(expected, abs=0.01)  # six standard errors are 0.007


def test_instance_noise_without_end_is_constant() -> None:
    noise = InstanceNoise(0.5)
    noise.after_step({}, 10**9)
    assert noise.view(torch.zeros(100_000)).std().item() == pytest.approx(0.5, abs=0.01)


def test_annealed_instance_noise_leaves_the_images_alone() -> None:
    noise = InstanceNoise(0.5, anneal_kimg=1.0)
    noise.after_step({}, 1000)
    images = torch.randn(2, 1, 2, 2)
    assert noise.view(images) is images


def test_instance_noise_remembers_how_far_it_is() -> None:
    ours, theirs = InstanceNoise(0.5, 1.0), InstanceNoise(0.5, 1.0)
    ours.after_step({}, 640)
    theirs.load(ours.state())
    assert theirs.seen == 640


@pytest.mark.parametrize(("sigma", "anneal_kimg"), [(-0.1, 1.0), (0.1, 0.0)])
def test_impossible_noise_is_refused(sigma: float, anneal_kimg: float) -> None:
    with pytest.raises(ValueError, match="is below 0, or anneal_kimg"):
        InstanceNoise(sigma, anneal_kimg)


def with_gradients(*values: float) -> nn.Linear:
    network = nn.Linear(len(values), 1, bias=False)
    network.weight.grad = torch.tensor([values])
    return network


def test_gradient_norms_are_reported_by_network() -> None:
    G, D = with_gradients(3.0, 4.0), with_gradients(5.0, 12.0)
    monitor = MonitorGradients(G=G, D=D)
    for network in (G, D):
        monitor.on_gradients(network)
    stats: dict[str, Tensor] = {}
    monitor.after_step(stats, 1)
    assert stats == {"gradient_norm/G": torch.tensor(5.0), "gradient_norm/D": torch.tensor(13.0)}


def test_a_network_that_did_not_step_reports_no_norm() -> None:
    D = with_gradients(1.0)
    monitor = MonitorGradients(D=D)
    monitor.on_gradients(D)
    monitor.after_step({}, 1)
    stats: dict[str, Tensor] = {}
    monitor.after_step(stats, 1)
    assert stats == {}


@pytest.mark.parametrize(("limit", "above"), [(4.9, 1.0), (5.0, 0.0)])
def test_a_norm_above_the_limit_is_reported(limit: float, above: float) -> None:
    G = with_gradients(3.0, 4.0)
    monitor = MonitorGradients(limit, G=G)
    monitor.on_gradients(G)
    stats: dict[str, Tensor] = {}
    monitor.after_step(stats, 1)
    assert stats["gradient_excess/G"].item() == above


def test_of_several_steps_the_mean_norm_and_the_share_above_the_limit_are_reported() -> None:
    monitor = MonitorGradients(10.0, G=(G := with_gradients(3.0, 4.0)))
    monitor.on_gradients(G)
    for parameter in G.parameters():
        parameter.grad = parameter.grad * 4 if parameter.grad is not None else None
    monitor.on_gradients(G)
    stats: dict[str, Tensor] = {}
    monitor.after_step(stats, 1)
    found = {name: value.item() for name, value in stats.items()}
    assert found == {"gradient_norm/G": 12.5, "gradient_excess/G": 0.5}


def test_without_a_limit_there_is_no_excess() -> None:
    G = with_gradients(1e9)
    monitor = MonitorGradients(G=G)
    monitor.on_gradients(G)
    stats: dict[str, Tensor] = {}
    monitor.after_step(stats, 1)
    assert stats.keys() == {"gradient_norm/G"}


@pytest.mark.parametrize(("max_norm", "expected"), [(2.5, 2.5), (10.0, 5.0)])
def test_clipping_bounds_the_norm_and_leaves_smaller_ones(max_norm: float, expected: float) -> None:
    network = with_gradients(3.0, 4.0)
    ClipGradients(max_norm).on_gradients(network)
    assert network.weight.grad is not None
    assert network.weight.grad.norm().item() == pytest.approx(expected, rel=1e-5)


def test_a_clipping_norm_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="max_norm 0 is not above 0"):
        ClipGradients(0)


def with_weights(*values: float) -> nn.Linear:
    network = nn.Linear(len(values), 1, bias=False)
    network.weight.data = torch.tensor([values])
    return network


def test_weights_are_clamped_to_the_limit_on_both_sides() -> None:
    critic = with_weights(-3.0, -0.01, 0.0, 0.01, 3.0)
    ClipWeights(critic, 0.02).after_update(critic)
    torch.testing.assert_close(critic.weight.data, torch.tensor([[-0.02, -0.01, 0.0, 0.01, 0.02]]))


def test_only_the_critics_weights_are_clamped() -> None:
    critic, generator = with_weights(3.0), with_weights(3.0)
    ClipWeights(critic, 0.02).after_update(generator)
    assert (weight(generator), weight(critic)) == (3.0, 3.0)


def test_a_limit_of_weights_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="limit 0 is not above 0"):
        ClipWeights(followed(), 0)


NETWORK, IMAGES = Plain(nn.Identity()), torch.zeros(2, 1)
NOTHING = PenaltyInputs(NETWORK, NETWORK, IMAGES, IMAGES, IMAGES, None)
"""A historical average looks at parameters alone."""


def distance(average: HistoricalAverage) -> float:
    return average.penalty(NOTHING).item()


def test_the_historical_mean_is_that_of_all_parameters_there_were() -> None:
    network = nn.Linear(3, 2)
    average = HistoricalAverage(network, 1.0)
    past = [network.weight.detach().clone()]
    for _ in range(20):
        nn.init.normal_(network.weight)
        average.after_update(network)
        past.append(network.weight.detach().clone())
    torch.testing.assert_close(average.mean[0], torch.stack(past).mean(0))


def test_historical_averaging_is_the_squared_distance_to_the_mean() -> None:
    network = with_weights(0.0, 0.0)
    average = HistoricalAverage(network, 0.5)
    network.weight.data = torch.tensor([[3.0, 4.0]])
    assert distance(average) == 12.5


def test_historical_averaging_starts_at_none() -> None:
    assert distance(HistoricalAverage(nn.Linear(3, 2), 1.0)) == 0.0


def test_historical_averaging_adds_up_over_parameters() -> None:
    network = nn.Linear(1, 1)
    for parameter, value in zip(network.parameters(), (1.0, 2.0), strict=True):
        nn.init.constant_(parameter, value)
    average = HistoricalAverage(network, 1.0)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    assert distance(average) == 5.0


def test_a_historical_average_follows_its_own_network() -> None:
    network, other = with_weights(1.0), with_weights(5.0)
    average = HistoricalAverage(network, 1.0)
    average.after_update(other)
    assert (average.mean[0].item(), average.count) == (1.0, 1)


def test_historical_averaging_gradient_equals_finite_differences() -> None:
    network = nn.Linear(3, 2).double()
    average = HistoricalAverage(network, 0.7)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    assert torch.autograd.gradcheck(
        lambda *parameters: average.penalty(NOTHING), tuple(network.parameters())
    )


def test_a_loaded_historical_average_goes_on_as_the_saved_one() -> None:
    ours, theirs = HistoricalAverage(followed(1.0), 1.0), HistoricalAverage(followed(7.0), 1.0)
    nn.init.constant_(ours.network.weight, 2.0)  # type: ignore[arg-type] # a parameter
    ours.after_update(ours.network)
    theirs.load(ours.state())
    ends = []
    for average in (ours, theirs):
        nn.init.constant_(average.network.weight, 6.0)  # type: ignore[arg-type] # a parameter
        average.after_update(average.network)
        ends.append(average.mean[0].item())
    assert ends == [3.0, 3.0]  # the mean of 1, 2 and 6


def test_the_base_does_nothing() -> None:
    base, stats = Stabiliser(), {"loss/D": torch.tensor(1.0)}
    images, network = torch.ones(1), followed(2.0)
    batch = Batch(images)
    base.on_gradients(network)
    base.after_update(network)
    base.after_step(stats, 1)
    base.load(base.state())
    assert (base.before_step(batch, 1.0) is batch, base.view(images) is images) == (True, True)
    assert (weight(network), list(stats)) == (2.0, ["loss/D"])


def test_an_average_of_an_endless_half_life_never_moves() -> None:
    generator = followed(0.0)
    ema = EMA(generator, math.inf, rampup=0.0)
    nn.init.constant_(generator.weight, 1.0)
    ema.after_step({}, 10**6)
    assert weight(ema.module) == 0.0
