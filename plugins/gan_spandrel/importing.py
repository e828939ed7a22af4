"""From a file of weights to a served model: read, measured, exported, compared, published."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gan_core.card import NAMES, DataSource, ImageInput, ModelCard, is_name
from gan_core.errors import ConfigError
from gan_core.export import export
from gan_core.upscalers import served_upscaler

from . import checkpoints, ncnn

if TYPE_CHECKING:
    from gan_core.export import ServedGenerator
    from gan_core.plugins import Plugins

    from .weights import Weights

__all__ = ["READERS", "Imported", "import_weights", "read", "served"]

READERS: dict[str, Callable[[Path], Weights]] = {
    ".ckpt": checkpoints.read,
    ".param": ncnn.read,
    ".pt": checkpoints.read,
    ".pth": checkpoints.read,
    ".safetensors": checkpoints.read,
}


@dataclass(frozen=True, slots=True)
class Imported:
    """What was published."""

    card: ModelCard
    path: Path
    """The version's folder; its name is the version."""

    @property
    def source(self) -> ImageInput:
        """What the model asks for."""
        return _source(self.card)


def import_weights(
    path: Path,
    model: str,
    repository: Path,
    plugins: Plugins,
    *,
    tile_px: int = 0,
    licence: str = "unknown",
    progress: Callable[[str], None] = lambda line: None,
) -> Imported:
    """Publish the network that a file of weights holds, once its graph gives the same pixels.

    Args:
        path: see ``READERS`` for how its name may end.
        model: name to publish under.
        repository: created where it doesn't exist.
        plugins: one of them publishes.
        tile_px: side of the tiles that pictures are cut into; 0 = as fits the halo.
        licence: of the weights, as the card states it.
        progress: told what is being done, a line at a time.

    Raises:
        ConfigError: the file, the name or ``tile_px`` can't be used.
        ExportError: the network can't be exported, or gives other pixels once it is.
        PublishError: the repository refuses it.
    """
    if not is_name(model):
        raise ConfigError(f"--model {model!r}: use {NAMES}")
    progress(f"reading {path}")
    weights = read(path)
    size = sum(one.numel() for one in weights.network.parameters()) / 1e6
    progress(
        f"{weights.architecture}, ×{weights.scale}, {size:.2f} M parameters: measuring its halo"
    )
    generator = served(weights, tile_px)
    progress("exporting to ONNX, and comparing its pixels with torch's")
    with tempfile.TemporaryDirectory() as folder:
        card = export(
            generator,
            Path(folder),
            model=model,
            variant=weights.architecture,
            data=DataSource(
                name=f"weights of {path.name}", fingerprint=_sha256(weights.files), licence=licence
            ),
            trained_kimg=0,
            task="super-resolution" if weights.scale > 1 else "restoration",
        )
        published = plugins.publish(Path(folder), model, repository)
    return Imported(card, published)


def read(path: Path) -> Weights:
    """The network that a file holds; its name's end says in which form.

    Raises:
        ConfigError: it isn't there, is damaged, or can't be used.
    """
    reader = READERS.get(path.suffix)
    if reader is None:
        raise ConfigError(f"{path}: the name of a file of weights ends in {', '.join(READERS)}")
    for file in (path, path.with_suffix(".bin")) if path.suffix == ".param" else (path,):
        if not file.is_file():
            raise ConfigError(f"{file} isn't there: a file of weights is accepted")
    return reader(path)


def served(weights: Weights, tile_px: int = 0) -> ServedGenerator:
    """What is exported of weights: tiles of ``tile_px``, or 0 = as fits the halo.

    Raises:
        ConfigError: such tiles can't be had.
    """
    found = served_upscaler(
        weights.network,
        weights.scale,
        channels=weights.channels,
        multiple_of=weights.multiple_of,
        min_side_px=weights.min_side_px,
        tile=tile_px,
        tiled=weights.tiled,
    )
    if not tile_px:
        return found
    if not _source(found).tile_px:
        raise ConfigError(f"{weights.architecture} needs the whole picture: leave --tile-px out")
    halo = _source(found).halo_px
    least = max(2 * halo + weights.multiple_of, weights.min_side_px)
    if tile_px < least or tile_px % weights.multiple_of:
        raise ConfigError(
            f"--tile-px {tile_px}: the network looks {halo} px far, so multiples of "
            f"{weights.multiple_of} from {least} on are accepted"
        )
    return found


def _source(of: ServedGenerator | ModelCard) -> ImageInput:
    (source,) = of.inputs
    assert isinstance(source, ImageInput)  # noqa: S101 served_upscaler makes no other
    return source


def _sha256(files: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
