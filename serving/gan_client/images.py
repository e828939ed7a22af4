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
from gan_core.levels import of_depth

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GeneratedImage", "ImageBatch"]


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedImage:
    """One generated image."""

    pixels: NDArray[Any]
    """uint8 [H, W, C]; uint16 where a picture of 16 bits was made larger."""
    seed: int | None
    """``generate`` with it, the same label and truncation makes this image again; None where
    latents were given."""
    profile: bytes = b""
    """ICC profile of the colours, where a picture that was made larger came with one."""

    def __repr__(self) -> str:
        return f"GeneratedImage({_size(self.pixels)}, seed {self.seed})"

    def pil(self) -> Image.Image:
        """As a Pillow image: grey, RGB or RGBA, with the profile. Colours have 8 bits there."""
        grey = self.pixels.shape[2] == 1
        image = to_pil(self.pixels if grey else of_depth(self.pixels, 8))
        if self.profile:
            image.info["icc_profile"] = self.profile
        return image

    def numpy(self) -> NDArray[Any]:
        """As the [H, W, C] array that it is."""
        return self.pixels

    def save(self, path: str | Path) -> None:
        """Write it; the suffix decides the format."""
        if self.pixels.dtype == np.uint16:  # which Pillow doesn't write of colours
            from gan_serving import vips

            return vips.save(self.pixels, Path(path), self.profile)
        # of all formats, WebP alone doesn't take it from the image
        options: dict[str, Any] = {"icc_profile": self.profile} if self.profile else {}
        self.pil().save(path, **options)
        return None


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
    """The PNG of a generated image as uint8 [H, W, C].

    Raises:
        ValueError: it isn't one, or not of a size that a model makes.
    """
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            array: NDArray[Any] = np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a PNG of a generated image: {error}") from error
    return array[..., None] if array.ndim == 2 else array


def enlarged_of(png: bytes) -> GeneratedImage:
    """The PNG of a picture that was made larger, of any size.

    Raises:
        ValueError: it isn't one.
    """
    from gan_serving.vips import opened, said

    with said("not a PNG of an enlarged picture"):
        image = opened(png, "PNG")
        return GeneratedImage(image.whole(), None, image.profile)
