"""Networks that enlarge pictures: how they are served, and how far they look.

A picture of any size is cut into tiles of one size, whose borders overlap by a halo. The halo is
measured on the network itself: how far from a tile's edge are pixels those of the whole picture?
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from .card import ImageInput
from .export import ServedGenerator

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .levels import BitDepth

__all__ = ["halo_px", "served_upscaler", "tile_px"]

LEVEL = 1 / 255
TOLERANCE = LEVEL / 4
"""Of a pixel in [0, 1]: too little to change its level by more than one."""
FURTHEST_PX = 128
PROBED_PX = 8
"""Side of the square whose pixels are compared."""
TILE_STEP_PX = 32
TILES_PX = (128, 512)
HALOS_PER_TILE = 6
"""A tile's side in halos: a third of it is overlap then."""
LARGEST_SIDE_PX = 16_384


def served_upscaler(
    network: nn.Module,
    scale: int,
    *,
    channels: int = 3,
    multiple_of: int = 1,
    min_side_px: int = 1,
    tile: int = 0,
    tiled: bool = True,
    bit_depth: BitDepth = 16,
) -> ServedGenerator:
    """What is exported of an upscaler: pixels [N, h, w, C] in, pixels [N, scale·h, scale·w, C] out.

    Args:
        network: float32 [N, C, h, w] in [0, 1] -> [N, C, scale·h, scale·w] in [0, 1].
        scale: output px per input px.
        channels: of both.
        multiple_of: sides that the network takes, in px.
        min_side_px: the smallest side that it takes.
        tile: side of a tile in px; 0 = as fits the halo.
        tiled: whether pictures may be cut at all.
        bit_depth: of both; pictures of 8 bits go through 16 as they are.
    """
    takes = {"channels": channels, "multiple_of": multiple_of, "min_side_px": min_side_px}
    halo = halo_px(network, scale, **takes) if tiled else None
    source = ImageInput.model_validate({**takes, "bit_depth": bit_depth})
    if halo is not None:
        tiles = {"tile_px": tile or tile_px(halo, multiple_of), "halo_px": halo}
        source = source.model_copy(update={"max_side_px": LARGEST_SIDE_PX, **tiles})
    call = partial(_enlarged, white=2**bit_depth - 1)
    return ServedGenerator(network, [source], call=call, scale=scale, bit_depth=bit_depth)


def _enlarged(network: nn.Module, tensors: dict[str, Tensor], white: int) -> Tensor:
    (source,) = tensors.values()
    images: Tensor = network(source.permute(0, 3, 1, 2).float() / white)
    return images * 2 - 1


def tile_px(halo: int, multiple_of: int = 1) -> int:
    """A side of tiles, in px, for which a halo is no more than a sixth of it where that fits."""
    least, most = TILES_PX
    step = TILE_STEP_PX * multiple_of
    wanted = -(-HALOS_PER_TILE * halo // step) * step
    return max(min(wanted, most), -(-least // step) * step)


@torch.no_grad()
def halo_px(
    network: nn.Module,
    scale: int,
    *,
    channels: int = 3,
    multiple_of: int = 1,
    min_side_px: int = 1,
) -> int | None:
    """How far from a tile's edge its pixels are those of the whole picture, in input px.

    The smallest multiple of ``multiple_of`` for which, on noise, none differs by more than a
    quarter of a level, or up to a sixteenth more; at most the receptive field's radius. None
    where there is none up to 128, as of a network that looks at the whole picture.
    """
    device = next((one.device for one in network.parameters()), torch.device("cpu"))
    step, reach = multiple_of, max(8, min_side_px)
    probed = -(-PROBED_PX // step) * step
    too_small = -(-(min_side_px - probed) // (2 * step)) - 1
    was_training = network.training
    network.eval()
    try:
        while reach <= FURTHEST_PX:
            margin = -(-3 * reach // (2 * step))
            noise = _noise(margin * step, probed, channels).to(device)
            whole = _centre(network(noise), scale * probed)
            low, high = max(0, too_small), -(-reach // step)
            if _suffices(network, noise, whole, (margin - high) * step):
                while high - low > max(1, high // 16):
                    middle = (low + high) // 2
                    fits = _suffices(network, noise, whole, (margin - middle) * step)
                    low, high = (low, middle) if fits else (middle, high)
                return high * step
            reach *= 2
    finally:
        network.train(was_training)
    return None


def _noise(radius: int, probed: int, channels: int) -> Tensor:
    side = 2 * radius + probed
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, channels, side, side, generator=generator)


def _suffices(network: nn.Module, noise: Tensor, whole: Tensor, away: int) -> bool:
    """Whether the middle stays as it is without ``away`` px of noise at each edge."""
    inner = slice(away, noise.shape[-1] - away)
    tile = _centre(network(noise[..., inner, inner]), whole.shape[-1])
    return (tile - whole).abs().max().item() <= TOLERANCE


def _centre(images: Tensor, kept: int) -> Tensor:
    """The ``kept`` × ``kept`` px in the middle, clamped as they are served."""
    side = images.shape[-1]
    middle = slice((side - kept) // 2, (side + kept) // 2)
    return images[..., middle, middle].clamp(0, 1)
