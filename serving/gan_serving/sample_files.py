"""Samples on disk: class folders or WebDataset shards, and a record of how far they are.

The record is behind the files, never ahead: whoever goes on from it writes the same bytes over
what came after, so a process may be killed at any moment.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from gan_core.errors import ConfigError

from . import webdataset
from .augmenting import Sample as File
from .schema import AugmentRequest

if TYPE_CHECKING:
    from gan_client import Sample

__all__ = ["Folders", "Record", "SampleFiles", "Shards", "is_free", "record_path"]


class Record(BaseModel):
    """What a folder or tar is to hold, and how far it is."""

    model_config = ConfigDict(extra="forbid")

    request: AugmentRequest
    """Its offset is the images that are there for good."""
    licence: str = ""
    """Of the model's training data; empty before the first image."""
    shard_size: int | None = None
    """Images per tar; None = all in one, or a folder."""
    shard_bytes: int = 0
    """Length of the tar that is being written."""

    def at(self, sample: Sample, shard_bytes: int) -> Record:
        """The record of what lies before a sample.

        Raises:
            ConfigError: it is of another graph than those.
        """
        origin, known = sample.origin, self.request.sha256
        if known not in (None, origin.sha256):
            raise ConfigError(
                f"version {origin.version} of {origin.model!r} is another graph now than the one "
                f"that the first {self.request.offset} images are of"
            )
        found = {"version": origin.version, "sha256": origin.sha256, "offset": sample.index}
        return Record(
            request=self.request.model_copy(update=found),
            licence=origin.licence,
            shard_size=self.shard_size,
            shard_bytes=shard_bytes,
        )

    def complete(self) -> Record:
        """The record of all there is to be."""
        request = self.request.model_copy(update={"offset": self.request.total})
        return self.model_copy(update={"request": request, "shard_bytes": 0})

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """The record in a file; None where there is none.

        Raises:
            ConfigError: the file isn't one.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValidationError) as error:
            raise ConfigError(f"{path} is no record of 'ganforge augment'") from error

    def write(self, path: Path) -> None:
        """Keep it; a reader sees this one or the one before."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        temporary.write_text(self.model_dump_json(indent=1, exclude_none=True) + "\n")
        temporary.replace(path)


def record_path(out: Path) -> Path:
    """Where the record of a folder or tar is."""
    return out.with_suffix(".json") if out.suffix == ".tar" else out / "augment.json"


def is_free(out: Path) -> bool:
    """Whether nothing of anybody's is where a new folder or tar would be."""
    if out.is_dir():
        return set(out.iterdir()) <= {_temporary(record_path(out))}
    return not out.exists()


class SampleFiles(Protocol):
    """Where samples go, in order."""

    def write(self, sample: Sample) -> None:
        """Write the next one."""

    def flush(self) -> int:
        """Let the files outlive this process; the length of an unfinished one."""

    def finish(self) -> None:
        """All samples are there."""

    def close(self) -> None:
        """Let go of files, finished or not."""


class Folders:
    """``<class>/<index>.png``, as ``--data folder:PATH`` reads them; no folder without classes."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def write(self, sample: Sample) -> None:
        """Write the next one, over what is there."""
        folder = self._out / _folder_name(sample)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{sample.index:09d}.png").write_bytes(_png(sample))

    def flush(self) -> int:
        """Nothing to do: each file is complete."""
        return 0

    def finish(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class Shards:
    """WebDataset tars.

    Args:
        out: of the only one; ``out-000012.tar`` is the name of the 13th of several.
        size: images of each; None = all in one.
        offset: images that are there already.
        length: of the tar in which they end, in bytes.

    Raises:
        ConfigError: that tar is shorter.
    """

    def __init__(self, out: Path, size: int | None, offset: int, length: int) -> None:
        self._out, self._size = out, size
        self._file: BinaryIO | None = None
        if not self._is_first(offset):
            self._file = self._continued(self._path(offset), length)

    def write(self, sample: Sample) -> None:
        """Write the next one."""
        if self._file is None:
            self._file = self._path(sample.index).open("wb")
        file = File(sample.index, sample.seed or 0, sample.label, sample.class_name, _png(sample))
        self._file.write(webdataset.members(file, "png", sample.origin))
        if self._is_first(sample.index + 1):
            self.finish()  # before a record says that the next one is due

    def flush(self) -> int:
        """Let the tar outlive this process; its length."""
        if self._file is None:
            return 0
        self._file.flush()
        return self._file.tell()

    def finish(self) -> None:
        """End the tar."""
        if self._file is not None:
            self._file.write(webdataset.END)
        self.close()

    def close(self) -> None:
        """Leave the tar as it is."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @staticmethod
    def _continued(path: Path, length: int) -> BinaryIO:
        file = path.open("r+b")
        if file.seek(0, io.SEEK_END) < length:
            file.close()
            raise ConfigError(f"{path} is shorter than the {length} bytes that were written to it")
        file.truncate(length)
        file.seek(length)
        return file

    def _is_first(self, index: int) -> bool:
        return index % self._size == 0 if self._size else index == 0

    def _path(self, index: int) -> Path:
        if self._size is None:
            return self._out
        return self._out.with_name(f"{self._out.stem}-{index // self._size:06d}.tar")


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp")


def _folder_name(sample: Sample) -> str:
    """Of a class: its name, with what could lead elsewhere escaped."""
    if sample.label is None:
        return ""
    name = quote(sample.class_name or str(sample.label), safe=" ")
    return f"%2E{name[1:]}" if name.startswith(".") else name


def _png(sample: Sample) -> bytes:
    buffer = io.BytesIO()
    sample.image.pil().save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
