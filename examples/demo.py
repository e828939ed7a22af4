"""The whole way once, for real: images → trained → exported → published → served → a picture.

Run by ``make demo``. Every stage is a command of ``ganforge`` that you can type yourself; the
picture comes through the SDK over HTTP. Run again, it goes on from what is there.
"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gan_client import Client
from gan_core.assets import path_of
from gan_core.errors import ServiceError
from gan_serving import local_triton

HERE = Path("demo")
RUN, REPOSITORY, GRID = HERE / "run", HERE / "model_repository", HERE / "grid.png"
UPSCALER_RUN, LARGER = HERE / "upscaler", HERE / "larger.png"
MODEL, UPSCALER = "digits_dcgan", "photos_x4"
SETTINGS = {
    # a network small enough for a minute of CPU; noise, soft targets and a faster G keep D
    # from winning
    "width": 32,
    "batch_size": 64,
    "lr_G": 4e-4,
    "ema_halflife_kimg": 2,
    "instance_noise": 0.3,
    "instance_noise_kimg": 60,
    "real_target": 0.9,
}
UPSCALER_SETTINGS = {
    # a third of the usual network's work, and a rate that ends at 0
    "generator": "compact",
    "width": 48,
    "blocks": 8,
    "content": "l1",
    "lr_G": 4e-4,
    "lr_schedule": "cosine",
    "sample_kimg": 100,  # none: the picture below says more
}
KIMG, UPSCALER_KIMG = 60, 20
SEED = 7
N = 64
READY_TIMEOUT_S = 60

times: dict[str, float] = {}


def main() -> None:
    """Run every stage, then say what was done."""
    HERE.mkdir(exist_ok=True)
    train(RUN, KIMG, f"dcgan --data digits {written(SETTINGS)}")
    if not (RUN / "export" / "card.json").exists():
        stage("export", f"export {RUN} --model {MODEL}")
    if not json.loads((RUN / "export" / "card.json").read_text())["metrics"]:
        stage("evaluate", f"evaluate {RUN}")
    if not (REPOSITORY / MODEL / "config.pbtxt").exists():
        stage("publish", f"publish {RUN} --repository {REPOSITORY}")
    has_upscaler = learn_to_upscale()
    engine, why = choose_engine()
    with served(engine) as url:
        generate(url)
        if has_upscaler:
            upscale(url)
    report(engine, why)


def learn_to_upscale() -> bool:
    """Train and publish an upscaler, if its photographs can be had here."""
    print("\n$ ganforge data fetch photos", flush=True)
    with timed("photographs"):
        fetched = subprocess.run([ganforge(), "data", "fetch", "photos"], check=False)
    if fetched.returncode:
        print("No upscaler is trained without them; 'ganforge import-sr' brings one of others.")
        return False
    train(UPSCALER_RUN, UPSCALER_KIMG, f"srgan --data photos {written(UPSCALER_SETTINGS)}")
    if not (UPSCALER_RUN / "export" / "card.json").exists():
        stage("export", f"export {UPSCALER_RUN} --model {UPSCALER}")
    if not (REPOSITORY / UPSCALER / "config.pbtxt").exists():
        stage("publish", f"publish {UPSCALER_RUN} --repository {REPOSITORY}")
    return True


def train(run: Path, kimg: int, options: str) -> None:
    """Train, unless that is done; a run that was stopped goes on."""
    newest = max((path.name for path in run.glob("checkpoints/[0-9]*")), default="0")
    if float(newest) < kimg:
        stage("train", f"train --run {run} --kimg {kimg} {'--resume' if run.exists() else options}")


def written(settings: Mapping[str, object]) -> str:
    return " ".join(f"--set {key}={value}" for key, value in settings.items())


def stage(name: str, command: str) -> None:
    """Run a command of ganforge, and note how long it took."""
    print(f"\n$ ganforge {command}", flush=True)
    with timed(name):
        done = subprocess.run([ganforge(), *shlex.split(command)], check=False)
    if done.returncode:
        sys.exit(f"demo stopped: 'ganforge {command}' failed")


@contextmanager
def timed(name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    times[name] = times.get(name, 0) + time.perf_counter() - started


def ganforge() -> str:
    return str(Path(sys.executable).with_name("ganforge"))


def choose_engine() -> tuple[str, str]:
    findings = local_triton.doctor(local_triton.home())
    lacking = next((finding for finding in findings if not finding.ok), None)
    if lacking is None:
        return "triton", "on the local Triton"
    remedy = f" ({lacking.remedy})" if lacking.remedy else ""
    return "ort", f"in process, as there is no local Triton: {lacking.detail}{remedy}"


@contextmanager
def served(engine: str) -> Iterator[str]:
    """The gateway's URL, for as long as the block runs."""
    command = f"serve --repository {REPOSITORY} --engine {engine} --http-port 0 --grpc-port -1"
    print(f"\n$ ganforge {command}", flush=True)
    with subprocess.Popen(
        [ganforge(), *shlex.split(command)], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            with timed("serve"):
                url = (server.stdout.readline() if server.stdout else "").split(" ")[0].strip()
                if not url:
                    sys.exit("demo stopped: the server didn't start")
                wait_until(lambda: answers(url))
            yield url
        finally:
            server.send_signal(signal.SIGTERM)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"demo stopped: no picture within {READY_TIMEOUT_S} s")
        time.sleep(0.1)


def answers(url: str) -> bool:
    with Client(url, max_retries=0) as client:
        try:
            client.images.generate(model=MODEL)
        except ServiceError:
            return False
        return True


def generate(url: str) -> None:
    print(f"\n>>> Client({url!r}).images.generate(model={MODEL!r}, n={N}, seed={SEED})")
    with timed("generate"), Client(url) as client:
        batch = client.images.generate(model=MODEL, n=N, seed=SEED)
        batch.grid().save(GRID)


def upscale(url: str) -> None:
    """One of the photographs that were held out."""
    photograph = path_of("photos") / "test" / "chelsea.png"
    stage(
        "upscale", f"upscale {shlex.quote(str(photograph))} {LARGER} --model {UPSCALER} --url {url}"
    )


def report(engine: str, why: str) -> None:
    stages = "  ".join(f"{name} {seconds:.1f} s" for name, seconds in times.items())
    serve = f"ganforge serve --repository {REPOSITORY}"
    print(
        f"""
Done: a DCGAN learnt the digits, became an ONNX graph with the same pixels, and made
{N} new digits, served {why}.

  picture     {GRID}{f", and {LARGER} by {UPSCALER}" if LARGER.exists() else ""}
  run         {RUN}   (samples/ shows how it learnt, export/card.json how it scored)
  repository  {REPOSITORY}
  took        {stages}

Next:
  . .venv/bin/activate
  {serve}{" --engine ort" if engine == "ort" else ""}
  ganforge generate {MODEL} -n 16 --out more.png
  ganforge train dcgan --data folder:PATH --run runs/mine"""
    )


if __name__ == "__main__":
    main()
