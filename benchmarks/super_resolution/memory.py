"""Memory that enlarging one large photograph takes, of the client and of the gateway.

    python -m benchmarks.super_resolution.memory --json memory.json

``ganforge upscale`` sends a photograph to a server and writes the PNG that comes back; for both
processes it is told how much higher their memory peaked than for a picture of one pixel.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks.super_resolution.serving import serving
from gan_core.card import DataSource
from gan_core.console import say
from gan_core.export import export
from gan_core.upscalers import served_upscaler
from gan_serving.repository import publish
from gan_srgan.networks import Compact

SCALE = 4
MIB = 1 << 20


def main() -> None:
    """Print a table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--width-px", type=int, default=2560)
    parser.add_argument("--height-px", type=int, default=1640)
    parser.add_argument("--network-width", type=int, default=64, help="channels; less is quicker")
    parser.add_argument("--engine", action="append", choices=["ort", "triton"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        served = served_upscaler(Compact(3, SCALE, width=options.network_width).eval(), SCALE)
        data = DataSource(name="none", fingerprint="0" * 64)
        export(served, root / "run", model="compact", variant="srgan", data=data, trained_kimg=0)
        publish(root / "run", root / "repository")
        photograph, pixel = root / "photograph.jpg", root / "pixel.png"
        _smooth(options.height_px, options.width_px).save(photograph, quality=95)
        Image.new("RGB", (1, 1)).save(pixel)
        for engine in options.engine or ("ort", "triton"):
            for place, face in enumerate(("http", "grpc")):
                with serving(root / "repository", engine, grpc=bool(place)) as url:
                    server = _server().pid
                    idle = _client_peak(url, pixel, root / "out.png"), _peak(server)
                    busy = _client_peak(url, photograph, root / "out.png"), _peak(server)
                client_mb, gateway_mb = ((b - i) / MIB for b, i in zip(busy, idle, strict=True))
                row = {
                    "engine": engine,
                    "over": face,
                    "client_mb": round(client_mb),
                    "gateway_mb": round(gateway_mb),
                    "idle_client_mb": round(idle[0] / MIB),
                    "idle_gateway_mb": round(idle[1] / MIB),
                }
                found.append(row)
                say(json.dumps(row))
    if options.json:
        size = f"{options.width_px} x {options.height_px} px, x{SCALE}"
        options.json.write_text(json.dumps({"photograph": size, "rows": found}, indent=1) + "\n")


def _smooth(height: int, width: int) -> Image.Image:
    """Smooth noise, so that the file is of a photograph's size."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def _server() -> psutil.Process:
    """The gateway that runs: of this process's children the one that serves."""
    children = psutil.Process().children(recursive=True)
    return next(one for one in children if "serve" in one.cmdline())


def _peak(pid: int) -> int:
    """Highest resident memory of a process so far, in bytes; 0 once it has ended."""
    status = Path(f"/proc/{pid}/status").read_text()
    peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(peaks[0]) * 1024 if peaks else 0


def _client_peak(url: str, picture: Path, out: Path) -> int:
    """Highest resident memory of the command, in bytes."""
    command = [sys.executable, "-m", "gan_core.cli", "upscale", str(picture), str(out)]
    process = subprocess.Popen([*command, "--url", url], stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:  # what wait4 tells is this process's own, where that had more
        peak = max(peak, _peak(process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{picture.name} wasn't enlarged")
    return peak


if __name__ == "__main__":
    main()
