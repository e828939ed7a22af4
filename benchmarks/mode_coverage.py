"""Which technique keeps a GAN from dropping modes: 8 Gaussians on a ring, 25 on a grid.

Every case is a variant with settings of the toolbox, all with the same small networks, batch and
number of real points. The counts are those of the literature: of 2,500 generated points, how
many modes have one within 3 σ nearest to them, and which share lies within 3 σ of any.

    python benchmarks/mode_coverage.py                      # all of it: over an hour on 2 cores
    python benchmarks/mode_coverage.py --only plain r3gan --seeds 1 --data ring
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image, ImageDraw

from gan_core.data import Images
from gan_core.latents import draw, seed_range
from gan_core.plugins import Plugins
from gan_core.points import DATASETS, GRID, RING, high_quality_fraction, modes_covered
from gan_core.randomness import seed_everything
from gan_core.workflow import configured

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLES = 2500
BATCH = 64
KIMG = 640
SHARED = {"batch_size": BATCH, "z_dim": 2, "ema_halflife_kimg": 0}
# Metz et al. 2017: a G so much faster than D that a plain GAN chases one mode after another
UNEVEN = {"lr_G": 1e-3, "lr_D": 1e-4, "beta1": 0.5}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("vanilla", UNEVEN),
    "feature matching": ("vanilla", {**UNEVEN, "feature_matching": 1.0}),
    "historical averaging": ("vanilla", {**UNEVEN, "historical_averaging": 1e-3}),
    "instance noise": ("vanilla", {**UNEVEN, "instance_noise": 0.3, "instance_noise_kimg": KIMG}),
    "TTUR": ("vanilla", {**UNEVEN, "lr_G": 1e-4, "lr_D": 4e-4}),
    "minibatch stddev": ("vanilla", {**UNEVEN, "minibatch": "stddev"}),
    "minibatch discrimination": ("vanilla", {**UNEVEN, "minibatch": "discrimination"}),
    "spectral norm": ("vanilla", {**UNEVEN, "spectral_norm": True}),
    "R1": ("vanilla", {**UNEVEN, "r1_gamma": 0.1}),
    "unrolled": ("unrolled", {**UNEVEN, "unroll_steps": 5}),
    "WGAN": ("wgan", {}),
    "WGAN-GP": (
        "wgan_gp",
        {
            "lr_G": 1e-3,
            "lr_D": 1e-3,
            "n_critic": 3,
            "gp_weight": 0.1,
            "batch_size_G": BATCH,
            "lr_schedule": "cosine",
            "ema_halflife_kimg": 5,
        },
    ),
    "R3GAN": (
        "r3gan",
        {
            "lr_G": 2e-3,
            "lr_D": 2e-3,
            "gamma_start": 0.01,
            "gamma_end": 1e-5,
            "ema_halflife_kimg": 5,
        },
    ),
}


@dataclass(frozen=True)
class Result:
    case: str
    data: str
    seed: int
    modes: int
    of: int
    high_quality: float
    seconds: float


def one(job: tuple[str, str, int, float]) -> tuple[Result, NDArray[np.float32]]:
    """Train one case on one data set from one seed."""
    case, data, seed, kimg = job
    torch.set_num_threads(1)
    name, settings = CASES[case]
    variant = Plugins().variant(name)
    modes = {"ring": RING, "grid": GRID}[data]
    dataset = next(found for found in DATASETS if found.name == data)
    images: Images = dataset.open("", None)
    config = configured(variant, {**SHARED, **settings, "kimg": kimg, "seed": seed}, images)
    seed_everything(seed)
    trainer = variant.build(config, Accelerator(cpu=True))
    began, seen = time.perf_counter(), 0
    for batch in images.batches(config.batch_size, seed=seed):
        trainer.step(batch.to(torch.device("cpu")))
        seen += len(batch.real)
        if seen >= kimg * 1000:
            break
    served = variant.served(trainer.generator().eval(), config)
    with torch.no_grad():
        drawn = draw(served.inputs, seed_range(0, SAMPLES)).values()
        points = served.images(*map(torch.from_numpy, drawn)).flatten(1).numpy()
    distances = modes.distances(points)
    result = Result(
        case,
        data,
        seed,
        int(modes_covered(distances, distances)),
        len(modes.density.means),
        round(high_quality_fraction(distances, distances), 4),
        round(time.perf_counter() - began, 1),
    )
    return result, points


def picture(points: dict[tuple[str, str, int], NDArray[np.float32]], path: Path) -> None:
    """The first seed of every case: a row per data set, a column per case."""
    cases = list(dict.fromkeys(case for case, _, _ in points))
    data = list(dict.fromkeys(name for _, name, _ in points))
    side, title = 160, 16
    canvas = Image.new("RGB", (side * len(cases), (side + title) * len(data)), "white")
    pen = ImageDraw.Draw(canvas)
    for row, name in enumerate(data):
        centres = {"ring": RING, "grid": GRID}[name].density.means
        for column, case in enumerate(cases):
            left, top = column * side, row * (side + title)
            pen.text((left + 4, top + 2), case, fill="black")
            for x, y in centres:
                at = left + (x + 1) * side / 2, top + title + (1 - y) * side / 2
                pen.ellipse([at[0] - 4, at[1] - 4, at[0] + 4, at[1] + 4], outline=(200, 60, 60))
            first = next(p for (c, d, _), p in points.items() if (c, d) == (case, name))
            for x, y in np.clip(first, -1, 1):
                spot = left + (x + 1) * side / 2, top + title + (1 - y) * side / 2
                pen.point(spot, fill=(20, 40, 160))
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def table(results: list[Result]) -> str:
    """Markdown: mean and range over the seeds."""
    data = list(dict.fromkeys(result.data for result in results))
    heads = [f"{name}: modes (worst) | {name}: within 3 σ" for name in data]
    lines = [f"| case | {' | '.join(heads)} | s per run |", "|---" * (2 * len(data) + 2) + "|"]
    for case in dict.fromkeys(result.case for result in results):
        cells = []
        mine = [result for result in results if result.case == case]
        for name in data:
            rows = [result for result in mine if result.data == name]
            modes = [result.modes for result in rows]
            share = statistics.mean(result.high_quality for result in rows)
            cells += [f"{statistics.mean(modes):.1f}/{rows[0].of} ({min(modes)})", f"{share:.2f}"]
        seconds = statistics.mean(result.seconds for result in mine)
        lines.append(f"| {case} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--data", nargs="+", choices=["ring", "grid"], default=["ring", "grid"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--kimg", type=float, default=KIMG, help="10³ real points per run")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/mode_coverage"))
    args = parser.parse_args()
    jobs = [
        (case, data, seed, args.kimg)
        for case in args.only
        for data in args.data
        for seed in range(args.seeds)
    ]
    results, points = [], {}
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        for result, made in pool.imap(one, jobs):
            results.append(result)
            points[result.case, result.data, result.seed] = made
            print(
                f"{result.case:26} {result.data} seed {result.seed}: "
                f"{result.modes}/{result.of} modes, {result.high_quality:.2f} within 3 σ, "
                f"{result.seconds:.0f} s",
                flush=True,
            )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture(points, args.out.with_suffix(".png"))
    args.out.with_suffix(".json").write_text(json.dumps([asdict(r) for r in results], indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
