"""How low-resolution images are made: as Pillow does, or blindly."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, pad

from gan_core.degradation import bicubic, blind
from gan_core.jpeg import compressed
from gan_core.kernels import blurred, gaussians, sincs
from gan_core.randomness import Draws


@pytest.fixture
def draws() -> Draws:
    return Draws(seeded(), torch.device("cpu"))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int = 3, side_px: int = 64, channels: int = 3) -> Tensor:
    """Smooth shapes with an edge and some grain, in levels of 255."""
    generator = seeded(7)
    y, x = torch.meshgrid(*[torch.linspace(0, 1, side_px)] * 2, indexing="ij")
    waves = torch.rand(n, channels, 4, 1, 1, generator=generator) * 12
    made = (waves[:, :, 0] * x + waves[:, :, 1] * y).sin() * 0.3 + 0.5
    made = made + 0.3 * ((x - 0.5).square() + (y - 0.4).square() < 0.06)
    made = made + 0.02 * torch.randn(made.shape, generator=generator)
    return (made.clamp(0, 1) * 255).round() / 255


def as_pillow(image: Tensor) -> Image.Image:
    levels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
    return Image.fromarray(levels.squeeze())


@pytest.mark.parametrize("scale", [2, 4])
def test_bicubic_is_pillows_to_a_level(scale: int) -> None:
    """Pillow rounds after each of its two passes: now and then that makes a second level."""
    (image,) = pictures(1)
    side = 64 // scale
    theirs = as_pillow(image).resize((side, side), Image.Resampling.BICUBIC)
    ours = bicubic(image[None], scale)[0].permute(1, 2, 0) * 255
    difference = np.abs(ours.numpy() - np.asarray(theirs))
    assert difference.max() < 2.01
    assert (difference > 0.5).mean() < 0.2
    assert (difference > 1.5).mean() < 0.01


@pytest.mark.parametrize("quality", [20, 50, 75, 95])
@pytest.mark.parametrize("channels", [1, 3])
def test_compression_is_pillows_to_a_few_levels(quality: int, channels: int) -> None:
    """libjpeg's integer cosines turn some coefficients the other way at a step's middle."""
    images = pictures(2, 50, channels)
    for image, ours in zip(images, compressed(images, torch.full((2,), quality)), strict=True):
        file = io.BytesIO()
        as_pillow(image).save(file, "JPEG", quality=quality)
        theirs = np.asarray(Image.open(file), float).reshape(50, 50, channels)
        difference = np.abs(ours.permute(1, 2, 0).numpy() * 255 - theirs)
        lost = np.abs(image.permute(1, 2, 0).numpy() * 255 - theirs)
        assert difference.mean() < min(1.2, lost.mean() / 3)
        assert np.quantile(difference, 0.99) <= 12


def test_each_image_is_compressed_at_its_own_quality() -> None:
    images = pictures()
    qualities = torch.tensor([10, 50, 95])
    together = compressed(images, qualities)
    for i in range(3):
        alone = compressed(images[i : i + 1], qualities[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)
    lost = (together - images).square().mean((1, 2, 3))
    assert lost[0] > lost[1] > lost[2]


@pytest.mark.parametrize("make", [partial(gaussians, n=50, sigma=(0.2, 3)), partial(sincs, n=50)])
def test_kernels_are_symmetric_and_sum_to_one(
    draws: Draws, make: Callable[[Draws], Tensor]
) -> None:
    kernels = make(draws)
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(50))
    torch.testing.assert_close(kernels, kernels.flip(1, 2), atol=1e-6, rtol=0)


def test_plain_gaussians_have_the_deviation_asked_for(draws: Draws) -> None:
    kernels = gaussians(draws, 400, (1.5, 1.5))
    x = torch.arange(-10, 11)
    deviations = (kernels * x.square()).sum((1, 2)).sqrt()
    plain = deviations[(deviations > 1.4) & (deviations < 1.51)]
    assert len(plain) > 150


def test_blurring_is_a_convolution_with_repeated_edges(draws: Draws) -> None:
    images, kernels = pictures(), gaussians(draws, 3, (0.5, 3))
    padded = pad(images, (10, 10, 10, 10), mode="replicate")
    for image, kernel, found in zip(padded, kernels, blurred(images, kernels), strict=True):
        expected = conv2d(image[:, None], kernel[None, None])[:, 0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("scale", "channels"), [(2, 3), (4, 1)])
def test_a_blind_image_is_small_and_in_levels(scale: int, channels: int) -> None:
    for seed in range(6):
        small = blind(pictures(2, 32, channels), scale, seeded(seed))
        assert small.shape == (2, channels, 32 // scale, 32 // scale)
        assert small.dtype == torch.float32
        assert small.min() >= 0
        assert small.max() <= 1
        torch.testing.assert_close(small * 255, (small * 255).round(), atol=1e-4, rtol=0)


def test_the_generator_decides_what_is_done() -> None:
    images = pictures()
    assert blind(images, 4, seeded()).equal(blind(images, 4, seeded()))
    assert not blind(images, 4, seeded()).equal(blind(images, 4, seeded(1)))


def test_global_randomness_is_left_alone() -> None:
    before = torch.get_rng_state()
    blind(pictures(), 4, seeded())
    assert torch.get_rng_state().equal(before)


def test_images_of_a_batch_are_degraded_differently() -> None:
    same = pictures(1).expand(4, -1, -1, -1)
    small = blind(same, 2, seeded())
    assert (small[1:] - small[:1]).abs().amax((1, 2, 3)).min() > 0.02


def test_what_is_seen_stays_the_same_picture() -> None:
    """Every blind image is nearer to its own picture than to another one."""
    images = pictures(6)
    clean = bicubic(images, 4).mean((2, 3))
    for seed in range(4):
        found = blind(images, 4, seeded(seed)).mean((2, 3))
        assert (found - clean).abs().max() < 0.1


def test_what_is_drawn_after_counts_does_not_depend_on_their_rates() -> None:
    found = []
    for rate in (1.0, 200.0):
        draws = Draws(seeded(), torch.device("cpu"))
        draws.poisson(torch.full((99,), rate))
        found.append(draws.uniform(9))
    assert torch.equal(*found)
