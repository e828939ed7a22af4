"""Metrics of image pairs, for what makes an image from an image: PSNR, SSIM and LPIPS.

Each says what it was measured on: a protocol's choice of channel and border is worth two
decibels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .datasets import SUFFIXES, read_image
from .errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PAIRED", "compared", "lpips", "luma", "measured", "psnr", "ssim"]

Net = Literal["alex", "vgg", "squeeze"]
WINDOW_PX = 11
"""Side of SSIM's window."""
FILES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
"""What torchvision calls its weights of each."""


def luma(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Y of uint8 RGB [..., 3], 16 to 235, not rounded (ITU-R BT.601, MATLAB's rgb2ycbcr).

    Grey [..., 1] is brought to the same range.
    """
    rgb = np.broadcast_to(pixels, (*pixels.shape[:-1], 3)).astype(np.float64)
    found: NDArray[np.float64] = 16 + rgb @ np.array([65.481, 128.553, 24.966]) / 255
    return found


def psnr(reference: NDArray[np.uint8], image: NDArray[np.uint8], *, y: bool = False) -> float:
    """Peak signal-to-noise ratio in dB of uint8 [H, W, C], on Y or all channels; inf if equal."""
    a, b = (luma(side) if y else side.astype(np.float64) for side in (reference, image))
    error = float(np.square(a - b).mean())
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(reference: NDArray[np.uint8], image: NDArray[np.uint8], *, y: bool = False) -> float:
    """Structural similarity of uint8 [H, W, C], on Y or the mean of the channels.

    A Gaussian of σ 1.5 on 11×11 px, where it fits in whole (Wang et al. 2004).
    """
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = (luma(side)[..., None] if y else side.astype(np.float64) for side in (reference, image))
    ours, theirs = (torch.from_numpy(side).permute(2, 0, 1)[None] for side in (b, a))
    found: Any = structural_similarity_index_measure(ours, theirs, data_range=255.0)
    return float(found)


def lpips(reference: NDArray[np.uint8], image: NDArray[np.uint8], net: Net = "alex") -> float:
    """Learned perceptual distance of uint8 [H, W, C] (Zhang et al. 2018), by torchmetrics.

    Raises:
        ConfigError: the backbone's weights can't be downloaded.
    """
    import torch
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

    def scaled(pixels: NDArray[np.uint8]) -> torch.Tensor:
        images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
        return (images.float() / 127.5 - 1).expand(-1, 3, -1, -1)

    try:
        found = learned_perceptual_image_patch_similarity(scaled(image), scaled(reference), net)
    except OSError as error:  # URLError is one
        raise ConfigError(
            f"lpips needs torchvision's {net} weights, which can't be downloaded: {error}; put "
            f"{FILES[net]} into {torch.hub.get_dir()}/checkpoints"
        ) from error
    return found.item()


PAIRED: dict[str, Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]] = {
    "psnr_y": lambda a, b: psnr(a, b, y=True),
    "psnr_rgb": psnr,
    "ssim_y": lambda a, b: ssim(a, b, y=True),
    "ssim_rgb": ssim,
    "lpips_alex": lpips,
}


def compared(
    reference: Path,
    images: Path,
    metrics: Sequence[str],
    border_px: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[str, float]]:
    """Every one of ``metrics`` for two image files, or for two folders' files of the same names.

    Raises:
        ConfigError: a metric is unknown, a file is missing, or a pair doesn't fit.
        DataError: a file isn't an image.
    """
    if unknown := [name for name in metrics if name not in PAIRED]:
        raise ConfigError(f"no metric of pairs is called {unknown[0]!r}: {', '.join(PAIRED)}")
    pairs = _pairs(reference, images)
    found = {}
    for done, (ours, theirs) in enumerate(pairs, 1):
        try:
            found[ours.name] = measured(_read(ours), _read(theirs), metrics, border_px)
        except ConfigError as error:
            raise ConfigError(f"{ours} and {theirs}: {error}") from error
        progress(done, len(pairs))
    return found


def measured(
    reference: NDArray[np.uint8],
    image: NDArray[np.uint8],
    metrics: Sequence[str],
    border_px: int = 0,
) -> dict[str, float]:
    """Every one of ``metrics`` of a pair uint8 [H, W, C], without so many px at each edge.

    Raises:
        ConfigError: they differ in size or channels, or nothing is left of them.
    """
    if reference.shape != image.shape:
        a, b = ("×".join(map(str, side.shape)) for side in (reference, image))
        raise ConfigError(f"images of {a} and {b} don't compare")
    height, width, _ = reference.shape
    if min(height, width) <= 2 * border_px:
        raise ConfigError(f"nothing is left of {height}×{width} px without a border of {border_px}")
    if min(height, width) - 2 * border_px < WINDOW_PX and any("ssim" in name for name in metrics):
        raise ConfigError(f"ssim needs at least {WINDOW_PX} px a side, without the border")
    inner = slice(border_px, height - border_px), slice(border_px, width - border_px)
    return {name: PAIRED[name](reference[inner], image[inner]) for name in metrics}


def _pairs(reference: Path, images: Path) -> list[tuple[Path, Path]]:
    if reference.is_file() and images.is_file():
        return [(reference, images)]
    if absent := [path for path in (reference, images) if not path.exists()]:
        raise ConfigError(f"{absent[0]} isn't there")
    if not (reference.is_dir() and images.is_dir()):
        raise ConfigError(f"{reference} and {images}: give two files, or two folders")
    names = sorted(path.name for path in reference.iterdir() if path.suffix.lower() in SUFFIXES)
    if not names:
        raise ConfigError(f"{reference} holds no image: accepted are {', '.join(sorted(SUFFIXES))}")
    missing = [name for name in names if not (images / name).is_file()]
    if missing:
        raise ConfigError(
            f"{images} lacks {len(missing)} of {len(names)}: {', '.join(missing[:3])}"
        )
    return [(reference / name, images / name) for name in names]


def _read(path: Path) -> NDArray[np.uint8]:
    pixels = np.asarray(read_image(path), np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels
