"""How far upscalers look, and what is served of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from gan_core.card import DataSource, ImageInput
from gan_core.export import export
from gan_core.levels import DTYPES, BitDepth
from gan_core.upscalers import halo_px, served_upscaler, tile_px

if TYPE_CHECKING:
    from torch import Tensor


def convolutions(n: int, scale: int = 2) -> nn.Module:
    """Averages over 3 × 3 px, n times over, and pixels ``scale`` times as large."""
    layers: list[nn.Module] = []
    for _ in range(n):
        layer = nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False)
        nn.init.constant_(layer.weight, 1 / 9)
        layers.append(layer)
    return nn.Sequential(*layers, nn.Upsample(scale_factor=scale))


class Everywhere(nn.Module):
    """Looks at the whole picture."""

    def forward(self, images: Tensor) -> Tensor:
        return images - images.mean((2, 3), keepdim=True) + 0.5


@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_halo_of_few_convolutions_is_their_receptive_field(n: int) -> None:
    assert halo_px(convolutions(n), 2) == n


def test_the_halo_is_no_more_than_the_receptive_field() -> None:
    halo = halo_px(convolutions(40), 2)
    assert halo is not None
    assert 10 < halo < 40  # what lies further weighs less than a level


def test_the_halo_keeps_what_sides_are_multiples_of() -> None:
    network = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 48, 3, padding=1))
    assert halo_px(nn.Sequential(network, nn.PixelShuffle(4)), 1, multiple_of=4) == 4


def test_a_network_that_looks_everywhere_has_no_tiles() -> None:
    assert halo_px(Everywhere(), 1) is None
    (source,) = served_upscaler(Everywhere(), 1).inputs
    assert isinstance(source, ImageInput)
    assert (source.tile_px, source.halo_px) == (None, 0)


@pytest.mark.parametrize(("halo", "multiple_of", "side"), [(1, 1, 128), (30, 1, 192), (30, 8, 256)])
def test_a_tile_is_several_halos_wide(halo: int, multiple_of: int, side: int) -> None:
    assert tile_px(halo, multiple_of) == side


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_an_upscaler_is_exported_for_pictures_of_any_shape(
    tmp_path: Path, bit_depth: BitDepth
) -> None:
    source = DataSource(name="none", fingerprint="0" * 64)
    served = served_upscaler(convolutions(2, 4), 4, bit_depth=bit_depth)
    card = export(served, tmp_path, model="m", variant="v", data=source, trained_kimg=0)
    assert (card.output.scale, card.output.height) == (4, None)
    assert (card.inputs[0].tensor.dtype, card.output.bit_depth) == (f"uint{bit_depth}", bit_depth)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    grey = np.full((1, 7, 5, 3), 77, DTYPES[bit_depth])
    (image,) = session.run(None, {"source": grey})
    assert image.shape == (1, 28, 20, 3)
    assert (image[:, 8:-8, 8:-8] == 77).all()
    assert torch.is_grad_enabled()
