"""What the server takes from the network: tiles per second beside onnxruntime alone.

python -m benchmarks.super_resolution.serving [--rounds 3] [--engine ort] [--json FILE]

Eight clients send pictures of one size, then of eight; the reference runs the same graph on the
same tiles in one process, a tile per core. All is measured in turns within one run, and every
picture is compared with what the reference makes of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import httpx
import numpy as np
import onnxruntime
import torch

from gan_client.images import decoded
from gan_core.card import DataSource, ImageInput, Input
from gan_core.console import say
from gan_core.export import export
from gan_core.levels import of_depth
from gan_core.upscalers import served_upscaler
from gan_serving.cores import usable_cores
from gan_serving.encode import png
from gan_serving.repository import publish
from gan_serving.tiles import Tiling
from gan_srgan.networks import Compact

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALE = 4
EQUAL = ((200, 200),) * 8
MIXED = (
    (64, 90),
    (90, 300),
    (100, 100),
    (120, 320),
    (135, 240),
    (180, 320),
    (200, 200),
    (310, 310),
)
BATCH = 1
"""Tiles that the reference runs at once in each thread: on CPUs more gain nothing."""
LEVELS = 1
"""By which a picture may differ from the reference's."""

Pictures = list["NDArray[np.uint8]"]


class Reference:
    """onnxruntime alone, with a session of one thread for each core."""

    def __init__(self, graph: Path, source: Input) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(graph, options)
        if not isinstance(source, ImageInput):
            raise TypeError(f"{source.name} is no picture")
        self._source = source

    def tilings(self, pictures: Pictures) -> list[Tiling]:
        """How each picture is cut."""
        side, halo = self._source.tile_px or 0, self._source.halo_px
        sizes = (picture.shape[:2] for picture in pictures)
        return [Tiling(height, width, side, halo, SCALE) for height, width in sizes]

    def enlarged(self, pictures: Pictures) -> tuple[Pictures, float]:
        """What the graph makes of them, and the seconds that its runs took."""
        bands = [next(tiling.bands(10**6)) for tiling in self.tilings(pictures)]
        cut = [band.cut(picture) for band, picture in zip(bands, pictures, strict=True)]
        tiles = of_depth(np.concatenate(cut), self._source.bit_depth)
        starts = range(0, len(tiles), BATCH)
        began = time.perf_counter()
        with ThreadPoolExecutor(usable_cores()) as pool:
            parts = list(pool.map(lambda at: self._run(tiles[at : at + BATCH]), starts))
        seconds = time.perf_counter() - began
        made, found, at = np.concatenate(parts), [], 0
        for band, own in zip(bands, cut, strict=True):
            image = band.empty(3, 8)
            band.place(made[at : at + len(own)], 0, image)
            found.append(image)
            at += len(own)
        return found, seconds

    def _run(self, tiles: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = self._session.run(None, {self._source.name: tiles})[0]
        return found


@contextmanager
def serving(repository: Path, engine: str, *, grpc: bool = False) -> Iterator[str]:
    """A server's URL, of its HTTP or its gRPC face."""
    command = [sys.executable, "-m", "gan_core.cli", "serve", "--engine", engine]
    ports = ["--http-port", "0", "--grpc-port", "0" if grpc else "-1"]
    command += ["--repository", str(repository), *ports]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines = cast("IO[str]", process.stdout)
    try:
        yield lines.readline().split()[int(grpc)]
    finally:
        process.terminate()
        process.wait()


async def asked(url: str, files: Sequence[bytes], times: int) -> tuple[list[bytes], float]:
    """The answers of a client for each file, ``times`` over, and the seconds that all took."""
    limits = httpx.Limits(max_connections=len(files))
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:

        async def one(file: bytes) -> bytes:
            for _ in range(times):
                answer = await client.post(
                    "/v1/images/upscale",
                    files={"image": file},
                    data={"model": "compact"},
                    headers={"Accept": "image/png"},
                )
                answer.raise_for_status()
            return answer.content

        began = time.perf_counter()
        found = await asyncio.gather(*map(one, files))
        return found, time.perf_counter() - began


def pictures(sizes: Sequence[tuple[int, int]]) -> Pictures:
    """Smooth noise, so that files are of a photograph's size."""
    rng = np.random.default_rng(0)
    found = []
    for height, width in sizes:
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        found.append(coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width])
    return found


def measured(reference: Reference, url: str, sizes: Sequence[tuple[int, int]], times: int) -> float:
    """Throughput in parts of the reference's, which is measured before and after."""
    given = pictures(sizes)
    tiles = sum(
        len(band.cut(p))
        for p, t in zip(given, reference.tilings(given), strict=True)
        for band in t.bands(10**6)
    )
    expected, before = reference.enlarged(given)
    answers, seconds = asyncio.run(asked(url, [png(one) for one in given], times))
    _, after = reference.enlarged(given)
    for answer, wanted in zip(answers, expected, strict=True):
        difference = np.abs(decoded(answer).astype(int) - wanted).max()
        if difference > LEVELS:
            raise SystemExit(f"a picture differs by {difference} levels")
    alone = 2 * tiles / (before + after)
    return times * tiles / seconds / alone


def main() -> None:
    """Print a table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=3, help="pictures of each client and round")
    parser.add_argument("--engine", action="append", choices=["ort", "triton"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        run, repository = Path(folder) / "run", Path(folder) / "repository"
        served = served_upscaler(Compact(3, SCALE).eval(), SCALE)
        data = DataSource(name="none", fingerprint="0" * 64)
        card = export(served, run, model="compact", variant="srgan", data=data, trained_kimg=0)
        publish(run, repository)
        (source,) = card.inputs
        reference = Reference(run / "model.onnx", source)
        for engine in options.engine or ("ort", "triton"):
            with serving(repository, engine) as url:
                asyncio.run(asked(url, [png(one) for one in pictures(EQUAL)], 1))  # warm
                rounds = [
                    {
                        "equal": measured(reference, url, EQUAL, options.times),
                        "mixed": measured(reference, url, MIXED, options.times),
                    }
                    for _ in range(options.rounds)
                ]
            found[engine] = {
                name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]
            }
            say(f"{engine}: parts of onnxruntime alone: {found[engine]}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
