"""A network as penalties see it: in float32, whatever the step is in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gan_core.layers import spectrally_normalised
from gan_core.networks import Plain

if TYPE_CHECKING:
    from accelerate import Accelerator


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def features(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        made: Tensor = self.layer(images)
        return made

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        offset = 0.0 if label is None else label[:, None]
        return self.features(images) + offset


def test_it_is_the_network_itself() -> None:
    network, images, label = Network(), torch.randn(4, 3), torch.arange(4)
    assert torch.equal(Plain(network)(images, label), network(images, label))


def test_it_computes_in_float32_where_accelerate_does_not(bf16_accelerator: Accelerator) -> None:
    network, images = Network(), torch.randn(4, 3)
    expected = network(images)
    prepared = bf16_accelerator.prepare(network)
    plain = Plain(network)(images)
    assert (torch.equal(plain, expected), torch.equal(prepared(images), expected)) == (True, False)


def test_its_features_are_the_networks() -> None:
    network, images = Network(), torch.randn(4, 3)
    assert torch.equal(Plain(network).features(images), network.layer(images))


def test_a_normalised_weight_stays_normalised() -> None:
    network = spectrally_normalised(Network()).eval()
    images = torch.randn(4, 3)
    assert torch.equal(Plain(network)(images), network(images))
