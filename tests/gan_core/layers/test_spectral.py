"""Spectral normalisation against singular values, and what becomes of it in copies and exports."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan_core.errors import ConfigError
from gan_core.layers import bake, is_spectral, raw_weight, spectrally_normalised
from gan_core.stabilisers import EMA


def critic() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 1))


IMAGES = torch.linspace(-1, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
LAYERS: list[tuple[nn.Module, Tensor]] = [
    (nn.Linear(5, 4), torch.randn(2, 5)),
    (nn.Conv2d(3, 4, 3), torch.randn(2, 3, 5, 5)),
    (nn.ConvTranspose2d(3, 4, 3), torch.randn(2, 3, 5, 5)),
    (nn.Embedding(6, 4), torch.tensor([0, 5])),
]


def matrix(layer: Any) -> Tensor:
    """The weight with a row per output."""
    weight: Tensor = layer.weight.detach()
    rows = weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight
    return rows.flatten(1)


@pytest.mark.parametrize(("layer", "values"), LAYERS, ids=lambda item: type(item).__name__)
def test_the_largest_singular_value_becomes_one(layer: nn.Module, values: Tensor) -> None:
    normalised = spectrally_normalised(copy.deepcopy(layer))
    for _ in range(200):  # one power iteration each
        normalised(values)
    largest = torch.linalg.svdvals(matrix(normalised.eval()))[0]
    assert largest.item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(("layer", "values"), LAYERS, ids=lambda item: type(item).__name__)
def test_a_weight_keeps_its_direction(layer: nn.Module, values: Tensor) -> None:
    plain, normalised = matrix(layer), matrix(spectrally_normalised(copy.deepcopy(layer)).eval())
    torch.testing.assert_close(normalised / normalised.norm(), plain / plain.norm())


def vectors(network: nn.Module) -> list[Tensor]:
    """u and v of every layer."""
    return [buffer.clone() for buffer in network.buffers()]


@pytest.mark.parametrize(("training", "moves"), [(True, True), (False, False)])
def test_power_iteration_is_frozen_in_evaluation(training: bool, moves: bool) -> None:
    network = spectrally_normalised(critic()).train(training)
    before = vectors(network)
    network(IMAGES)
    assert all(torch.equal(*pair) for pair in zip(before, vectors(network), strict=True)) != moves


def test_what_is_normalised_already_stays_as_it_is() -> None:
    once = spectrally_normalised(critic())
    names = list(once.state_dict())
    assert list(spectrally_normalised(once).state_dict()) == names


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.LayerNorm])
def test_norms_have_no_weight_matrix(kind: type[nn.Module]) -> None:
    assert not is_spectral(spectrally_normalised(kind(4)))


def test_the_raw_weight_is_what_the_optimiser_learns() -> None:
    plain = nn.Linear(5, 4)
    weight = plain.weight
    raw = [raw_weight(plain), raw_weight(spectrally_normalised(plain))]
    assert [found is weight for found in raw] == [True, True]


@pytest.mark.parametrize("training", [True, False])
def test_baking_leaves_the_outputs_as_they_were(training: bool) -> None:
    network = spectrally_normalised(critic())
    network(IMAGES)
    network.eval()
    before = network(IMAGES)
    after = bake(network.train(training)).eval()(IMAGES)
    torch.testing.assert_close(after, before)


def test_baked_weights_are_plain() -> None:
    network = bake(spectrally_normalised(critic()))
    assert dict(network.named_parameters()).keys() == dict(critic().named_parameters()).keys()
    assert list(network.buffers()) == []


def test_a_copy_is_a_network_of_its_own() -> None:
    network = spectrally_normalised(critic())
    twin = copy.deepcopy(network).eval()
    before = twin(IMAGES)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3.0)
    network(IMAGES)
    assert torch.equal(twin(IMAGES), before)


def test_the_average_takes_u_and_v_as_they_are() -> None:
    # averaged, they would have norms below 1, and weights would explode in evaluation
    network = spectrally_normalised(critic())
    ema = EMA(network, halflife_kimg=1.0)
    for _ in range(5):
        for parameter in network.parameters():
            nn.init.normal_(parameter)
        network(IMAGES)
        ema.after_step({}, 64)
    pairs = zip(vectors(ema.module), vectors(network), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    norms = [vector.norm().item() for vector in vectors(ema.module)]
    assert norms == pytest.approx([1.0] * 4, abs=1e-5)


def test_real_and_fake_can_be_judged_before_either_is_learnt_from() -> None:
    # u and v move at each call, and must not spoil the graph of the one before
    network = spectrally_normalised(critic())
    loss = network(IMAGES).sum() - network(-IMAGES).sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_weights_of_zero_are_refused_by_name() -> None:
    # as a residual branch may start with: there is no largest singular value to divide by
    network = critic()
    nn.init.zeros_(raw_weight(network[3]))
    with pytest.raises(ConfigError, match="layer '3' of Sequential starts with weights of 0"):
        spectrally_normalised(network)
