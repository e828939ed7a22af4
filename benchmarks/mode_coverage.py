"""Which technique keeps a GAN from dropping modes: 8 Gaussians on a ring, 25 on a grid.

Every case is a variant with settings of the toolbox, all with the same small networks. The counts
are those of the literature: of 2,500 generated points, how many modes have one within 3 σ nearest
to them, and which share lies within 3 σ of any. What is done already is kept in ``--out``.

    python benchmarks/mode_coverage.py                      # all of it: 100 minutes on 2 cores
    python benchmarks/mode_coverage.py --only plain R3GAN --seeds 1 --data ring
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image, ImageDraw

from gan_core.latents import draw, seed_range
from gan_core.plugins import Plugins
from gan_core.points import DATASETS, GRID, RING, high_quality_fraction, modes_covered
from gan_core.randomness import seed_everything
from gan_core.workflow import configured

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLES = 2500
MODES = {"ring": RING, "grid": GRID}


@dataclass(frozen=True)
class Case:
    """A variant, what is set of it, and 10³ real points to learn from."""

    variant: str
    settings: dict[str, Any]
    kimg: float = 512


SHARED = {"z_dim": 2, "batch_size": 64}
COOLING = {"lr_schedule": "cosine", "lr_final": 0.02, "ema_halflife_kimg": 5}
EVEN = {**COOLING, "lr_G": 1e-3, "lr_D": 1e-3}
STEADY = {**EVEN, "lr_G": 2e-3, "lr_D": 2e-3, "beta1": 0.0, "r1_gamma": 0.01}

CASES = {
    "plain": Case("vanilla", EVEN),
    "plain, batch 256": Case("vanilla", {**EVEN, "batch_size": 256}, 1536),
    "feature matching": Case("vanilla", {**EVEN, "feature_matching": 1.0}),
    "historical averaging": Case("vanilla", {**EVEN, "historical_averaging": 1e-3}),
    "instance noise": Case(
        "vanilla", {**EVEN, "instance_noise": 0.2, "instance_noise_kimg": 384.0}
    ),
    "TTUR": Case("vanilla", {**EVEN, "lr_G": 2e-4, "lr_D": 8e-4}),
    "spectral norm": Case("vanilla", {**EVEN, "spectral_norm": True}),
    "minibatch stddev": Case("vanilla", {**EVEN, "minibatch": "stddev"}),
    "minibatch discr.": Case("vanilla", {**EVEN, "minibatch": "discrimination"}),
    "R1": Case("vanilla", {**EVEN, "r1_gamma": 1e-3}),
    "minibatch discr. + R1": Case(
        "vanilla", {**EVEN, "minibatch": "discrimination", "r1_gamma": 1e-3}, 768
    ),
    "zero-sum + R1": Case("unrolled", {**STEADY, "unroll_steps": 0}, 1024),
    "unrolled K=5 + R1": Case("unrolled", {**STEADY, "unroll_steps": 5}, 1024),
    "WGAN": Case("wgan", {}),
    "WGAN-GP": Case(
        "wgan_gp",
        {
            **COOLING,
            "lr_G": 1e-3,
            "lr_D": 2e-3,
            "beta2": 0.99,
            "n_critic": 1,
            "gp_weight": 0.1,
            "batch_size_G": 64,
        },
        1280,
    ),
    "R3GAN": Case(
        "r3gan",
        {**COOLING, "lr_G": 2e-3, "lr_D": 2e-3, "gamma_start": 0.01, "gamma_end": 1e-5},
        1600,
    ),
}


@dataclass(frozen=True)
class Result:
    """What one training came to."""

    case: str
    variant: str
    settings: dict[str, Any]
    kimg: float
    data: str
    seed: int
    modes: int
    of: int
    high_quality: float
    cpu_s: float


def one(job: tuple[str, str, int], out: Path) -> Result:
    """Train one case on one data set from one seed, unless that was done."""
    name, data, seed = job
    case = CASES[name]
    noted = out / f"{name} {data} {seed}.json"
    settings = {**SHARED, **case.settings}
    if noted.exists():
        found = Result(**json.loads(noted.read_text()))
        if (found.settings, found.kimg) == (settings, case.kimg):
            return found
    points, cpu_s = trained(case.variant, {**settings, "kimg": case.kimg, "seed": seed}, data)
    distances = MODES[data].distances(points)
    result = Result(
        name,
        case.variant,
        settings,
        case.kimg,
        data,
        seed,
        int(modes_covered(distances)),
        len(MODES[data].density.means),
        round(high_quality_fraction(distances), 4),
        round(cpu_s, 1),
    )
    np.save(noted.with_suffix(".npy"), points)
    noted.write_text(json.dumps(asdict(result)))
    return result


def trained(variant: str, settings: dict[str, Any], data: str) -> tuple[NDArray[np.float32], float]:
    """Points [2500, 2] of a newly trained generator, and the CPU seconds of its training."""
    torch.set_num_threads(1)
    found = Plugins().variant(variant)
    dataset = next(dataset for dataset in DATASETS if dataset.name == data)
    images = dataset.open("", None)
    config = configured(found, settings, images)
    seed_everything(config.seed)
    trainer = found.build(config, Accelerator(cpu=True))
    began, steps = time.process_time(), round(config.kimg * 1000 / config.batch_size)
    batches = images.batches(config.batch_size, seed=config.seed)
    for _ in range(steps):
        trainer.step(next(batches).to(torch.device("cpu")))
    cpu_s = time.process_time() - began
    served = found.served(trainer.generator().eval(), config)
    with torch.no_grad():
        drawn = draw(served.inputs, seed_range(0, SAMPLES)).values()
        points = served.images(*map(torch.from_numpy, drawn)).flatten(1).numpy()
    return points, cpu_s


def picture(cases: list[str], data: list[str], out: Path, path: Path) -> None:
    """The first seed of every case: its sets side by side, four cases in a row."""
    side, title, columns = 150, 18, 4
    cell = side * len(data) + 8, side + title
    canvas = Image.new("RGB", (cell[0] * columns, cell[1] * -(-len(cases) // columns)), "white")
    pen = ImageDraw.Draw(canvas)
    for i, case in enumerate(cases):
        left, top = i % columns * cell[0], i // columns * cell[1]
        pen.text((left + 6, top + 3), case, fill="black", font_size=12)
        for j, name in enumerate(data):
            corner = left + j * side, top + title
            scatter(pen, corner, side, name, np.load(out / f"{case} {name} 0.npy"))
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def scatter(
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    side: int,
    data: str,
    points: NDArray[np.float32],
) -> None:
    """Points in [-1, 1]² as dots, and a ring round each mode."""

    def place(x: float, y: float) -> tuple[float, float]:
        return corner[0] + (x + 1) * side / 2, corner[1] + (1 - y) * side / 2

    for mean in MODES[data].density.means:
        x, y = place(*mean)
        pen.ellipse([x - 4, y - 4, x + 4, y + 4], outline=(200, 60, 60))
    for point in np.clip(points, -0.99, 0.99):
        pen.point(place(*point), fill=(20, 40, 160))


def table(results: list[Result]) -> str:
    """Markdown: mean and worst over the seeds."""
    data = list(dict.fromkeys(result.data for result in results))
    heads = [f"{name}: modes (worst) | {name}: within 3 σ" for name in data]
    lines = [
        f"| case | kimg | CPU s | {' | '.join(heads)} |",
        "|---" * (2 * len(data) + 3) + "|",
    ]
    for case in dict.fromkeys(result.case for result in results):
        cells = []
        mine = [result for result in results if result.case == case]
        for name in data:
            rows = [result for result in mine if result.data == name]
            modes = [result.modes for result in rows]
            share = statistics.mean(result.high_quality for result in rows)
            cells += [f"{statistics.mean(modes):.1f}/{rows[0].of} ({min(modes)})", f"{share:.2f}"]
        cpu_s = statistics.mean(result.cpu_s for result in mine)
        lines.append(f"| {case} | {mine[0].kimg:g} | {cpu_s:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--data", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/mode_coverage"))
    parser.add_argument("--picture", type=Path, help="where the picture goes")
    parser.add_argument("--json", type=Path, help="where the results go")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    jobs = [
        (case, data, seed) for seed in range(args.seeds) for case in args.only for data in args.data
    ]
    results = []
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        for result in pool.imap(partial(one, out=args.out), jobs):
            results.append(result)
            print(
                f"{result.case:24} {result.data} seed {result.seed}: "
                f"{result.modes}/{result.of} modes, {result.high_quality:.2f} within 3 σ, "
                f"{result.cpu_s:.0f} s",
                flush=True,
            )
    results.sort(key=lambda result: args.only.index(result.case))
    if args.picture:
        picture(args.only, args.data, args.out, args.picture)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps([asdict(result) for result in results], indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
