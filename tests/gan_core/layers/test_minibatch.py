"""Minibatch discrimination and standard deviation, against slow versions of themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gan_core.layers import Minibatch, MinibatchDiscrimination, MinibatchStddev, minibatch_layer

LAYERS = [MinibatchDiscrimination(6, kernels=4, dims=3), MinibatchStddev()]


def closeness(layer: MinibatchDiscrimination, features: Tensor) -> Tensor:
    """What the layer appends, without its bias."""
    appended: Tensor = layer(features)[:, features.shape[1] :]
    return appended - layer.bias


def test_discrimination_equals_a_loop_over_pairs_and_kernels() -> None:
    layer = MinibatchDiscrimination(6, kernels=4, dims=3).double()
    torch.nn.init.normal_(layer.log_scale)
    features = torch.randn(5, 6, dtype=torch.float64)
    T = layer.log_scale.exp() * layer.direction / layer.direction.norm(dim=0)
    M = (features @ T).reshape(5, 4, 3)
    expected = torch.zeros(5, 4, dtype=torch.float64)
    for i in range(5):
        for j in range(5):
            for b in range(4):
                if i != j:
                    expected[i, b] += torch.exp(-(M[i, b] - M[j, b]).abs().sum())
    torch.testing.assert_close(closeness(layer, features), expected)


def test_a_lone_sample_is_close_to_nobody() -> None:
    layer = MinibatchDiscrimination(6, kernels=4, dims=3)
    assert torch.equal(closeness(layer, torch.randn(1, 6)), torch.zeros(1, 4))


@pytest.mark.parametrize("n", [2, 7])
def test_identical_samples_are_close_to_all_but_themselves(n: int) -> None:
    layer = MinibatchDiscrimination(6, kernels=4, dims=3)
    found = closeness(layer, torch.randn(1, 6).expand(n, 6))
    torch.testing.assert_close(found, torch.full((n, 4), n - 1.0))


def test_the_projection_is_weight_normalised() -> None:
    layer = MinibatchDiscrimination(6, kernels=4, dims=3)
    features = torch.randn(5, 6)
    before = layer(features)
    with torch.no_grad():
        layer.direction.mul_(7.0)
    torch.testing.assert_close(layer(features), before)


def test_what_is_far_is_not_lost_beside_a_samples_own_closeness() -> None:
    # e⁻²⁰ would vanish beside a 1 that is taken off again
    layer = MinibatchDiscrimination(1, kernels=1, dims=1)
    torch.nn.init.zeros_(layer.bias)
    found = closeness(layer, torch.tensor([[0.0], [20.0]]))
    assert found.flatten().tolist() == pytest.approx([math.exp(-20)] * 2, rel=1e-4)


def test_discrimination_gradient_equals_finite_differences() -> None:
    layer = MinibatchDiscrimination(4, kernels=3, dims=2).double()
    features = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (features,))


@pytest.mark.parametrize("shape", [(4, 10), (8, 10), (8, 3, 2, 2), (6, 10), (3, 10), (1, 10)])
def test_stddev_equals_numpys_over_groups_of_four(shape: tuple[int, ...]) -> None:
    features = torch.randn(shape)
    n = shape[0]
    groups = n // 4 if n % 4 == 0 else 1  # sample i is in group i mod groups
    flat = features.flatten(1).numpy()
    spread = [float(np.mean(np.std(flat[i % groups :: groups], axis=0))) for i in range(n)]
    found = MinibatchStddev()(features)[:, shape[1]].reshape(n, -1)[:, 0]
    torch.testing.assert_close(found, torch.tensor(spread), rtol=1e-4, atol=2e-4)


def test_stddev_is_the_same_at_every_place() -> None:
    appended = MinibatchStddev()(torch.randn(4, 3, 2, 5))[:, 3]
    assert (appended.shape, len(appended.unique())) == ((4, 2, 5), 1)


def test_stddev_of_identical_samples_is_as_good_as_none() -> None:
    appended = MinibatchStddev()(torch.randn(1, 9).expand(4, 9))[:, 9]
    assert appended.tolist() == pytest.approx([1e-4] * 4)  # √1e-8


def test_stddev_has_a_finite_gradient_where_nothing_varies() -> None:
    features = torch.ones(4, 3, requires_grad=True)
    MinibatchStddev()(features).sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_stddev_gradient_equals_finite_differences() -> None:
    # where nothing in the layer is float32: the statistic is, so its slope is taken by hand
    features = torch.tensor([[0.0], [2.0], [4.0], [6.0]], requires_grad=True)
    MinibatchStddev()(features)[0, 1].backward()
    # σ = √5, ∂σ/∂x_i = (x_i − 3) / (4σ)
    assert features.grad is not None
    expected = (features.detach() - 3) / (4 * math.sqrt(5))
    torch.testing.assert_close(features.grad, expected)


@given(order=st.permutations(range(4)))
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_the_order_of_a_batch_does_not_matter(layer: torch.nn.Module, order: list[int]) -> None:
    features = torch.randn(4, 6)
    torch.testing.assert_close(layer(features[order]), layer(features)[order])


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_the_features_themselves_come_first_and_unchanged(layer: torch.nn.Module) -> None:
    features = torch.randn(4, 6)
    assert torch.equal(layer(features)[:, :6], features)


@pytest.mark.parametrize(("kind", "added"), [("none", 0), ("discrimination", 1), ("stddev", 1)])
@pytest.mark.parametrize("shape", [(8, 12), (8, 3, 2, 2)], ids=["vectors", "maps"])
def test_a_layer_says_how_many_it_appends(
    kind: Minibatch, added: int, shape: tuple[int, ...]
) -> None:
    layer = minibatch_layer(kind, features=12)
    made = layer(torch.randn(shape))
    assert (layer.added, made.shape) == (added, (8, shape[1] + added, *shape[2:]))


@pytest.mark.parametrize(("features", "kernels"), [(4, 1), (40, 5), (400, 50), (8192, 100)])
def test_a_small_network_gets_fewer_kernels(features: int, kernels: int) -> None:
    assert minibatch_layer("discrimination", features).added == kernels


@pytest.mark.parametrize("kind", ["discrimination", "stddev"])
def test_a_batch_without_variety_looks_different(kind: Minibatch) -> None:
    torch.manual_seed(0)
    layer = minibatch_layer(kind, features=6)
    varied = torch.randn(8, 6)
    collapsed = varied[:1].expand(8, 6)
    assert not torch.allclose(layer(varied)[0, 6:], layer(collapsed)[0, 6:], atol=0.1)
