"""Networks of points in the plane."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gan_core.layers import Minibatch, PointDiscriminator, PointGenerator


def test_points_are_images_of_one_pixel() -> None:
    assert PointGenerator(5)(torch.randn(3, 5)).shape == (3, 2, 1, 1)


def test_points_may_lie_anywhere() -> None:
    # no tanh: the last layer is linear
    generator = PointGenerator(5, norm=False)
    assert generator(1e4 * torch.randn(3, 5)).abs().max() > 10


@pytest.mark.parametrize("kind", ["none", "discrimination", "stddev"])
def test_there_is_one_logit_per_point(kind: Minibatch) -> None:
    assert PointDiscriminator(kind)(torch.randn(4, 2, 1, 1)).shape == (4,)


def test_the_head_judges_the_features() -> None:
    D, points = PointDiscriminator(), torch.randn(4, 2, 1, 1)
    assert torch.equal(D.head(D.features(points)), D(points))


def test_a_label_changes_nothing() -> None:
    D, points, label = PointDiscriminator(), torch.randn(4, 2, 1, 1), torch.arange(4)
    assert torch.equal(D(points, label), D(points))


@pytest.mark.parametrize("network", [PointGenerator(5, norm=False), PointDiscriminator()])
def test_no_layer_looks_at_the_batch(network: nn.Module) -> None:
    assert not any("Norm" in type(layer).__name__ for layer in network.modules())
