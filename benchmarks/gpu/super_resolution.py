"""How fast a GPU enlarges: each provider and precision of onnxruntime, beside one CPU core.

python -m benchmarks.gpu.super_resolution [NAME=FOLDER ...] [--network compact_x2]
    [--json benchmarks/results/gpu_super_resolution.json]

Needs an NVIDIA GPU and onnxruntime-gpu, which asks for its CUDA and cuDNN; TensorRT's provider is
measured where its libraries are there. What has no FOLDER with a model.onnx has fresh weights:
they don't change the pace, but hide what float16 costs. Each line has frames of 320×180 px per
second, tiles of 128 px (in batches of 8) per second, and the most levels by which a picture
differs from the CPU's. What a machine lacks is named, and left out.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.transformers.float16 import convert_float_to_float16

from gan_core.card import DataSource
from gan_core.console import say
from gan_core.export import export
from gan_core.upscalers import served_upscaler
from gan_srgan.networks import RRDB, Compact, SRResNet

if TYPE_CHECKING:
    from numpy.typing import NDArray

CPU = "CPUExecutionProvider"
PROVIDERS: dict[str, list[Any]] = {
    "cpu": [CPU],
    "cuda": [("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}), CPU],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", CPU],
}
NETWORKS = {
    "compact_x2": (Compact, 2, {}),
    "compact_x4": (Compact, 4, {}),
    "compact_w16_b8_x2": (Compact, 2, {"width": 16, "blocks": 8}),
    "srresnet_x4": (SRResNet, 4, {}),
    "rrdb_x4": (RRDB, 4, {}),
}
FRAME = (1, 180, 320, 3)
TILES = (8, 128, 128, 3)


def main() -> None:
    """Print a table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("models", nargs="*", metavar="NAME=FOLDER")
    parser.add_argument("--network", action="append", choices=NETWORKS)
    parser.add_argument("--provider", action="append", choices=PROVIDERS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    onnxruntime.preload_dlls()  # CUDA's libraries from the wheels that torch uses
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        folders = {name: Path(path) for name, _, path in (m.partition("=") for m in options.models)}
        for name in options.network or ([] if folders else NETWORKS):
            folders[name] = Path(folder) / name
            _export(name, folders[name])
        for name, path in folders.items():
            graphs = _graphs(path)
            expected = _session(graphs["float32"], "cpu").run(None, {"source": _noise(FRAME)})[0]
            for provider in options.provider or PROVIDERS:
                if not _works(graphs["float32"], provider):
                    print(f"{provider}: onnxruntime can't use it here", file=sys.stderr)
                    continue
                for precision, graph in graphs.items():
                    row = _measured(graph, provider, expected, options.rounds)
                    found.append({"network": name, "provider": provider, "of": precision, **row})
                    say(json.dumps(found[-1]))
    if options.json:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
        report = {"device": device, "onnxruntime": onnxruntime.__version__, "rows": found}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def _export(name: str, folder: Path) -> None:
    network, scale, settings = NETWORKS[name]
    torch.manual_seed(0)
    served = served_upscaler(network(3, scale, **settings).eval(), scale)
    data = DataSource(name="none", fingerprint="0" * 64)
    export(served, folder, model=name, variant="srgan", data=data, trained_kimg=0)


def _graphs(folder: Path) -> dict[str, bytes]:
    whole = onnx.load(folder / "model.onnx")
    half = convert_float_to_float16(onnx.load(folder / "model.onnx"), keep_io_types=True)
    return {"float32": whole.SerializeToString(), "float16": half.SerializeToString()}


def _session(graph: bytes, provider: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=PROVIDERS[provider])


def _works(graph: bytes, provider: str) -> bool:
    """Whether onnxruntime takes it, and doesn't fall back to another."""
    wanted = PROVIDERS[provider][0]
    name = wanted if isinstance(wanted, str) else wanted[0]
    there = name in onnxruntime.get_available_providers()
    return there and _session(graph, provider).get_providers()[0] == name


def _measured(
    graph: bytes, provider: str, expected: NDArray[np.uint16], rounds: int
) -> dict[str, float | int]:
    session = _session(graph, provider)
    (made,) = session.run(None, {"source": _noise(FRAME)})
    frame_s = _seconds(session, _noise(FRAME), rounds)
    tiles_s = _seconds(session, _noise(TILES), max(1, rounds // 4))
    return {
        "frames_per_s": round(1 / frame_s, 1),
        "tiles_per_s": round(TILES[0] / tiles_s, 1),
        "levels": math.ceil(np.abs(made.astype(int) - expected).max() / 257),
    }


def _seconds(
    session: onnxruntime.InferenceSession, pictures: NDArray[np.uint16], rounds: int
) -> float:
    session.run(None, {"source": pictures})
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        session.run(None, {"source": pictures})
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _noise(shape: tuple[int, ...]) -> NDArray[np.uint16]:
    return np.random.default_rng(0).integers(0, 65_536, shape, np.uint16)


if __name__ == "__main__":
    main()
