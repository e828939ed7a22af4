"""How many video frames a second a server makes twice as large, from gRPC to gRPC.

python -m benchmarks.super_resolution.frames [--frames 60] [--engine ort] [--json FILE]

Frames of 320×180 px go through ``client.images.upscale_stream``; beside it onnxruntime alone runs
the same graph on whole frames, with all cores. What weights a network has doesn't change its pace:
these are fresh.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from gan_client import Client
from gan_core.card import DataSource
from gan_core.console import say
from gan_core.export import export
from gan_core.held_out import enlarged_by_graph
from gan_core.upscalers import served_upscaler
from gan_serving.repository import publish
from gan_srgan.networks import Compact

from .serving import serving

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALE = 2
HEIGHT, WIDTH = 180, 320
NETWORKS = {"compact": (64, 16), "compact_w32_b8": (32, 8), "compact_w16_b8": (16, 8)}
"""Width and blocks, by name."""
WARM = 8


def main() -> None:
    """Print a table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--engine", action="append", choices=["ort", "triton"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    frames = np.random.default_rng(0).integers(0, 256, (WARM, HEIGHT, WIDTH, 3), np.uint8)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, (width, blocks) in NETWORKS.items():
            network = Compact(3, SCALE, width=width, blocks=blocks).eval()
            served = served_upscaler(network, SCALE)
            data = DataSource(name="none", fingerprint="0" * 64)
            export(served, root / name, model=name, variant="srgan", data=data, trained_kimg=0)
            publish(root / name, root / "repository")
            found[name] = {"onnxruntime": _alone(root / name, frames)}
        for engine in options.engine or ("ort", "triton"):
            with serving(root / "repository", engine, grpc=True) as url, Client(url) as client:
                for name, row in found.items():
                    fps, latency_s = _streamed(client, name, frames, options.frames)
                    row |= {engine: fps, f"{engine} latency_ms": latency_s * 1000}
    for name, row in found.items():
        found[name] = {key: round(value, 1) for key, value in row.items()}
        say(f"{name}: frames/s {found[name]}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def _alone(directory: Path, frames: NDArray[np.uint8]) -> float:
    enlarge = enlarged_by_graph(directory)
    enlarge(frames[0])
    seconds = []
    for frame in frames:
        began = time.perf_counter()
        enlarge(frame)
        seconds.append(time.perf_counter() - began)
    return 1 / statistics.median(seconds)


def _streamed(client: Client, model: str, frames: NDArray[np.uint8], n: int) -> tuple[float, float]:
    """Frames a second, once it is warm, and a frame's median seconds from being sent."""
    given = (frames[i % len(frames)] for i in range(WARM + n))
    began, latencies = 0.0, []
    for i, (_, latency_s) in enumerate(client.images.upscale_stream(given, model=model)):
        if i == WARM - 1:
            began = time.perf_counter()
        elif i >= WARM:
            latencies.append(latency_s)
    return n / (time.perf_counter() - began), statistics.median(latencies)


if __name__ == "__main__":
    main()
