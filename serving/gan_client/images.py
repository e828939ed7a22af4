"""What a client gets back: images that know the seed that makes them again."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from gan_core.grid import grid, to_pil

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GeneratedImage", "ImageBatch"]


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedImage:
    """One generated image."""

    pixels: NDArray[np.uint8]
    """uint8 [H, W, C]."""
    seed: int | None
    """``generate`` with it, the same label and truncation makes this image again; None where
    latents were given."""
    profile: bytes = b""
    """ICC profile of the colours, where a picture that was made larger came with one."""

    def __repr__(self) -> str:
        return f"GeneratedImage({_size(self.pixels)}, seed {self.seed})"

    def pil(self) -> Image.Image:
        """As a Pillow image: grey, RGB or RGBA, with the profile."""
        image = to_pil(self.pixels)
        if self.profile:
            image.info["icc_profile"] = self.profile
        return image

    def numpy(self) -> NDArray[np.uint8]:
        """As a uint8 [H, W, C] array."""
        return self.pixels

    def save(self, path: str | Path) -> None:
        """Write it; the suffix decides the format."""
        # of all formats, WebP alone doesn't take it from the image
        options: dict[str, Any] = {"icc_profile": self.profile} if self.profile else {}
        self.pil().save(path, **options)


@dataclass(frozen=True, slots=True, eq=False)
class ImageBatch(Sequence[GeneratedImage]):
    """The images of one request."""

    images: tuple[GeneratedImage, ...]
    model: str
    version: int
    """The model's version that made them."""

    def __repr__(self) -> str:
        size = _size(self.images[0].pixels) if self.images else "nothing"
        return f"ImageBatch({len(self.images)} of {size}, {self.model!r} version {self.version})"

    @property
    def seeds(self) -> list[int | None]:
        """Of each image."""
        return [image.seed for image in self.images]

    def numpy(self) -> NDArray[np.uint8]:
        """All of them as uint8 [N, H, W, C]."""
        return np.stack([image.pixels for image in self.images])

    def save(self, folder: str | Path) -> list[Path]:
        """Write each as folder/<model>-<seed or position>.png, over what is there; the paths."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        paths = []
        for i, image in enumerate(self.images):
            name = f"{i:04d}" if image.seed is None else image.seed
            paths.append(target / f"{self.model}-{name}.png")
            image.save(paths[-1])
        return paths

    def grid(self, columns: int | None = None) -> Image.Image:
        """All of them in one picture, about a square unless ``columns`` says otherwise."""
        return grid(self.numpy(), columns)

    @overload
    def __getitem__(self, index: int) -> GeneratedImage: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[GeneratedImage]: ...
    def __getitem__(self, index: int | slice) -> GeneratedImage | Sequence[GeneratedImage]:
        return self.images[index]

    def __len__(self) -> int:
        return len(self.images)


def _size(pixels: NDArray[np.uint8]) -> str:
    return "×".join(map(str, pixels.shape))


def decoded(png: bytes) -> NDArray[np.uint8]:
    """A PNG as uint8 [H, W, C].

    Raises:
        ValueError: it isn't one, or not of a size that a model makes.
    """
    return profiled(png)[0]


def profiled(png: bytes) -> tuple[NDArray[np.uint8], bytes]:
    """A PNG as uint8 [H, W, C], and its ICC profile or nothing.

    Raises:
        ValueError: it isn't one, or not of a size that a model makes.
    """
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            array: NDArray[Any] = np.asarray(image)
            profile: bytes = image.info.get("icc_profile") or b""
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a PNG of a generated image: {error}") from error
    return array[..., None] if array.ndim == 2 else array, profile
