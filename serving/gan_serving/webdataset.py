"""Samples as members of a tar, as the WebDataset format has them.

``000000123.png``, ``000000123.cls`` with the class index where there is one, and
``000000123.json`` with all that is known. The same samples are the same bytes.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .augmenting import Origin, Sample

__all__ = ["END", "members"]

END = bytes(2 * tarfile.BLOCKSIZE)
"""Ends an archive; one without it is incomplete."""


def members(sample: Sample, suffix: str, origin: Origin) -> bytes:
    """A sample's files, of which the image's name ends in ``suffix``."""
    name = f"{sample.index:09d}"
    known = {
        "index": sample.index,
        "seed": sample.seed,
        "label": sample.label,
        "class_name": sample.class_name,
        **asdict(origin),
    }
    label = b"" if sample.label is None else _member(f"{name}.cls", str(sample.label).encode())
    about = _member(f"{name}.json", json.dumps(known).encode())
    return _member(f"{name}.{suffix}", sample.file) + label + about


def _member(name: str, data: bytes) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    padding = bytes(-len(data) % tarfile.BLOCKSIZE)
    return header.tobuf(tarfile.USTAR_FORMAT) + data + padding
