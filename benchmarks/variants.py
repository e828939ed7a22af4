"""Every variant on the embedded digits for the same CPU time: trained, scored, served, compared.

Each is trained through the command line with one thread, exported, scored, published into one
repository, and served; the pictures come through the SDK. Class-conditional ones are asked for
classes, and a classifier that was trained on four fifths of the real digits says how often it
sees what was asked for.

    python benchmarks/variants.py                          # 4 CPU minutes each, 2 at a time
    python benchmarks/variants.py --only wgan_gp --cpu-s 60
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image, ImageDraw

from gan_client import Client
from gan_core.datasets import digits
from gan_core.errors import ServiceError
from gan_core.extractors import train_digits_classifier
from gan_core.grid import grid
from gan_core.plugins import Plugins
from gan_core.randomness import seed_everything
from gan_core.testing import checks, run_checks
from gan_core.workflow import configured

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS = 20
JUDGED = 1000
Settings = Callable[[float], dict[str, Any]]

SETTINGS: dict[str, Settings] = {
    "vanilla": lambda kimg: {"batch_size": 64, "real_target": 0.9},
    "dcgan": lambda kimg: {
        "width": 32,
        "batch_size": 64,
        "lr_G": 4e-4,
        "instance_noise": 0.3,
        "instance_noise_kimg": kimg,
        "real_target": 0.9,
    },
    "cgan": lambda kimg: {
        "architecture": "conv",
        "width": 16,
        "minibatch": "discrimination",
        "z_dim": 32,
        "batch_size": 64,
        "lr_G": 5e-4,
        "lr_D": 5e-4,
        "ema_halflife_kimg": 5,
    },
    "unrolled": lambda kimg: {
        "batch_size": 32,
        "z_dim": 64,
        "width": 16,
        "unroll_steps": 3,
        "lr_G": 2e-4,
        "lr_D": 2e-4,
        "ema_halflife_kimg": 1,
    },
    "wgan": lambda kimg: {
        "width": 16,
        "batch_size": 16,
        "clip": 0.03,
        "n_critic": 2,
        "n_critic_warmup": 20,
        "warmup_g_steps": 10,
        "lr_G": 1e-3,
        "lr_D": 5e-4,
        "lr_schedule": "linear",
    },
    "wgan_gp": lambda kimg: {
        "width": 16,
        "batch_size": 16,
        "batch_size_G": 16,
        "n_critic": 1,
        "lr_G": 1e-3,
        "lr_D": 2e-3,
    },
    "progan": lambda kimg: {
        "fmap_base": 128,
        "fmap_max": 64,
        "z_dim": 64,
        "batch_size": 8,
        "stabilise_kimg": round(kimg * 3 / 26, 3),
        "fade_kimg": round(kimg * 2 / 26, 3),
        "lr_D": 3e-3,
        "ema_halflife_kimg": 1,
    },
    "sagan": lambda kimg: {
        "width": 8,
        "batch_size": 32,
        "z_dim": 32,
        "attention_px": 8,
        "lr_G": 1e-3,
        "lr_D": 2e-3,
        "beta2": 0.99,
        "lr_schedule": "linear",
    },
    "biggan": lambda kimg: {
        "width": 8,
        "batch_size": 32,
        "z_dim": 40,
        "shared_dim": 64,
        "attention_px": 8,
        "lr_G": 1e-3,
        "lr_D": 1e-3,
        "ema_halflife_kimg": 1,
    },
    "r3gan": lambda kimg: {
        "width": 8,
        "max_width": 64,
        "group_size": 8,
        "blocks": 1,
        "batch_size": 16,
        "lr_G": 2e-3,
        "lr_D": 2e-3,
        "gamma_start": 1.0,
        "gamma_end": 0.1,
    },
}
"""Networks small enough for a CPU, by the budget in kimg."""


def ganforge(command: str) -> str:
    """Run a command with one thread; its output."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ganforge")), *shlex.split(command)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        sys.exit(f"'ganforge {command}' failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def cpu_s_per_kimg(name: str, kimg: float = 6.4) -> float:
    """CPU seconds that a variant takes for 10³ images, its schedules squeezed into a short run."""
    torch.set_num_threads(1)
    images = digits()
    variant = Plugins().variant(name)
    config = configured(variant, {**SETTINGS[name](kimg), "kimg": kimg}, images)
    seed_everything(0)
    trainer = variant.build(config, Accelerator(cpu=True))
    seen, began = 0, time.process_time()
    while seen < kimg * 1000:
        size = config.batch_size_at(seen / 1000)
        batch = next(images.batches(size, seed=0, start=seen))
        trainer.step(batch.to(torch.device("cpu")))
        seen += size
    return (time.process_time() - began) / kimg


def trained(name: str, out: Path, cpu_s: float) -> dict[str, Any]:
    """Train, score and publish one variant, unless that was done before; what came of it."""
    run = out / "runs" / name
    noted = run / "row.json"
    if noted.exists():
        found: dict[str, Any] = json.loads(noted.read_text())
        return found
    rate = json.loads(
        subprocess.run(
            [sys.executable, __file__, "--rate", name],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ).stdout
    )
    kimg = round(cpu_s / rate, 1)
    settings = " ".join(
        f"--set {key}={json.dumps(value)}" for key, value in SETTINGS[name](kimg).items()
    )
    ganforge(f"train {name} --data digits --run {run} --kimg {kimg} {settings}")
    scores = json.loads(ganforge(f"evaluate {run} --json"))["scores"]
    ganforge(f"publish {run} --model digits_{name} --repository {out / 'model_repository'}")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    batch = SETTINGS[name](kimg).get("batch_size", 64)
    print(f"{name}: {kimg} kimg, FID {scores[0]['value']:.2f}", flush=True)
    row = {
        "variant": name,
        "kimg": kimg,
        "cpu_s_per_kimg": round(rate, 3),
        "img_per_s_alone": round(1000 / rate),
        "img_per_s": round(float(np.median([row["img_per_s"] for row in rows]))),
        "batch_size": batch,
        "scores": {score["metric"]: score["value"] for score in scores},
        "settings": settings,
    }
    noted.write_text(json.dumps(row))
    return row


@contextmanager
def served(repository: Path) -> Iterator[str]:
    """The gateway's URL while the block runs."""
    command = f"serve --repository {repository} --http-port 0 --grpc-port -1"
    program = str(Path(sys.executable).with_name("ganforge"))
    with subprocess.Popen(
        [program, *shlex.split(command)], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            yield (server.stdout.readline() if server.stdout else "").split(" ")[0].strip()
        finally:
            server.send_signal(signal.SIGTERM)


def asked(client: Client, model: str, n: int, labels: list[int] | None) -> NDArray[np.uint8]:
    """n images, 50 a request."""
    parts = []
    for start in range(0, n, 50):
        count = min(50, n - start)
        wanted = labels[start : start + count] if labels else None
        for _ in range(100):
            try:
                batch = client.images.generate(model=model, n=count, seed=start, labels=wanted)
                break
            except ServiceError as error:
                last = error
                time.sleep(0.2)
        else:
            raise last
        parts.append(batch.numpy())
    return np.concatenate(parts)


def judge() -> tuple[Callable[[NDArray[Any]], NDArray[np.int64]], float]:
    """A classifier of four fifths of the digits, and its accuracy on the rest."""
    images = digits()
    order = np.random.default_rng(0).permutation(len(images))
    learnt, held_out = np.split(order, [len(order) * 4 // 5])
    labels = np.zeros(0, np.int64) if images.labels is None else images.labels
    network = train_digits_classifier(
        replace(images, pixels=images.pixels[learnt], labels=labels[learnt])
    )

    @torch.no_grad()
    def classes(pixels: NDArray[Any]) -> NDArray[np.int64]:
        scaled = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1
        found: NDArray[np.int64] = network(scaled)[1].argmax(1).numpy()
        return found

    right = classes(images.pixels[held_out].transpose(0, 2, 3, 1)) == labels[held_out]
    return classes, float(right.mean())


def picture(rows: dict[str, NDArray[np.uint8]], path: Path) -> None:
    """One row of images per variant, enlarged, its name on the left."""
    strips = {name: grid(images, COLUMNS) for name, images in rows.items()}
    width, height = next(iter(strips.values())).size
    canvas = Image.new("L", (width + 64, height * len(strips)), 255)
    pen = ImageDraw.Draw(canvas)
    for i, (name, strip) in enumerate(strips.items()):
        pen.text((4, i * height + height // 2 - 6), name, fill=0)
        canvas.paste(strip, (64, i * height))
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| variant | kimg | steps/s | FID | KID | label accuracy | check |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        accuracy = row.get("label_accuracy")
        steps = row["img_per_s_alone"] / row["batch_size"]
        lines.append(
            f"| {row['variant']} | {row['kimg']:g} | {steps:.1f} | {row['scores']['fid']:.2f} | "
            f"{row['scores']['kid']:.3f} | {f'{accuracy:.3f}' if accuracy else '-'} | "
            f"{row['check']} |"
        )
    return "\n".join(lines)


def check(name: str) -> str:
    plugins = Plugins()
    variant = plugins.variant(name)
    results = list(run_checks(variant, checks(variant, plugins)))
    failed = [result.name for result in results if result.error]
    return f"{len(results)} pass" if not failed else f"FAIL: {', '.join(failed)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--cpu-s", type=float, default=240, help="CPU seconds of training each")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/variants"))
    parser.add_argument("--picture", type=Path, help="where the picture goes")
    parser.add_argument("--rate", choices=SETTINGS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rate:
        print(cpu_s_per_kimg(args.rate))
        return
    with ThreadPoolExecutor(args.processes) as pool:
        rows = list(pool.map(lambda name: trained(name, args.out, args.cpu_s), args.only))
    classes, accuracy_on_reals = judge()
    pictures = {}
    with served(args.out / "model_repository") as url, Client(url) as client:
        for row in rows:
            model = f"digits_{row['variant']}"
            asked(client, model, 1, None)  # waits until it is there
            inputs = client.models.retrieve(model).inputs
            conditional = any(item.role == "label" for item in inputs)
            labels = [i % 10 for i in range(JUDGED)] if conditional else None
            images = asked(client, model, JUDGED if conditional else COLUMNS, labels)
            pictures[row["variant"]] = images[:COLUMNS]
            if conditional:
                row["label_accuracy"] = float((classes(images) == np.array(labels)).mean())
    for row in rows:
        row["check"] = check(row["variant"])
    picture(pictures, args.picture or args.out / "variants.png")
    document = {"cpu_s": args.cpu_s, "classifier_on_real_digits": accuracy_on_reals, "rows": rows}
    (args.out / "variants.json").write_text(json.dumps(document, indent=1))
    print(f"\nthe classifier is right about {accuracy_on_reals:.3f} of the real digits held out\n")
    print(table(rows))


if __name__ == "__main__":
    main()
