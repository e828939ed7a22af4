"""ganforge beside what users would otherwise write: one graph, one machine, one run.

Every server gives the picture of a seed, as PNG over HTTP (or pixels where it says so). The load
is `ganforge bench`'s closed loop, and every timed picture is compared with torch's. Contenders
take turns over several rounds; before and after each one's turn the reference is measured
(onnxruntime at batch 1 with 2 threads, and PNG, in one process), because a machine's pace drifts:
what means something is the part of their mean, and its median over the rounds.

    python -m benchmarks.serving.run --prepare       # the peers' virtual environments, once
    python -m benchmarks.serving.run --rounds 5 --json benchmarks/results/serving.json
    python -m benchmarks.serving.run --only ganforge-ort,ceiling --rounds 2 --requests 200
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import venv
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import platformdirs

from gan_serving.bench.environment import environment
from gan_serving.bench.lines import OK
from gan_serving.bench.measure import Plan, loop_factory, measure

from .contenders import CONTENDERS, ENVIRONMENTS, ROOT, Contender, Place, python_of
from .model import make
from .results import disturbance, markdown, summary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .model import Files

PICTURES = 256
START_S = 120.0
STOP_S = 20.0
WITHOUT_SERVER = ("reference", "ceiling")


def prepare(cache: Path) -> None:
    """Makes the virtual environments that aren't there yet, or hold something else."""
    for name, packages in ENVIRONMENTS.items():
        stamp = cache / name / "packages.json"
        if stamp.exists() and json.loads(stamp.read_text()) == list(packages):
            continue
        print(f"{name}: {' '.join(packages)}", file=sys.stderr)
        venv.create(cache / name, clear=True, with_pip=True)
        python = python_of(cache, name)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        stamp.write_text(json.dumps(packages))


def without_server(kind: str, files: Files, images: int) -> dict[str, Any]:
    """The reference or the ceiling, in a process of its own."""
    program = [sys.executable, "-m", "benchmarks.serving.reference"]
    command = [*program, str(files.graph), str(images), kind]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def running(
    contender: Contender, files: Files, cache: Path
) -> Iterator[tuple[Place, subprocess.Popen[bytes]]]:
    """The contender's process, from its start to the end of all that it started."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as scratch:
        probe.bind(("127.0.0.1", 0))
        place = Place(files, probe.getsockname()[1], Path(scratch), os.cpu_count() or 1)
        probe.close()
        process = contender.start(place, cache)
        try:
            yield place, process
        except Exception:
            print((place.scratch / "log").read_text(errors="replace")[-4000:], file=sys.stderr)
            raise
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and no mercy for what outlives it: LitServe's workers do."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


async def first_picture(
    contender: Contender, place: Place, process: subprocess.Popen[bytes]
) -> None:
    """Returns once the server answers."""
    deadline = time.monotonic() + START_S
    code = "no answer"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{contender.title} ended with {process.returncode}")
        try:
            target = contender.target(place)
            line = target.line()
        except OSError:  # it hasn't said yet where
            await asyncio.sleep(0.05)
            continue
        code = (await line.call(target.request(0, 1), 10)).code
        await line.close()
        if code == OK:
            return
        await asyncio.sleep(0.05)
    raise RuntimeError(f"{contender.title} doesn't start within {START_S:g} s: {code}")


async def turn(contender: Contender, files: Files, options: argparse.Namespace) -> dict[str, Any]:
    """One contender's turn: from its start over all levels to its end."""
    expected = np.load(files.expected)
    began = time.perf_counter()
    with running(contender, files, options.cache) as (place, process):
        await first_picture(contender, place, process)
        start_s = time.perf_counter() - began
        plan = Plan(requests=options.requests, duration_s=None, pid=process.pid)
        target = contender.target(place)
        levels = [
            asdict(await measure(target, plan, concurrency=callers, expected=expected))
            for callers in options.concurrency
        ]
    return {"start_s": start_s, "levels": levels}


def rounds(files: Files, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Everybody's turns, round by round, each with the reference's pace around it."""
    found = []
    before = without_server("reference", files, options.requests)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        for i in range(options.rounds):
            for name in options.only[:: -1 if i % 2 else 1]:  # there and back
                print(f"round {i + 1} of {options.rounds}: {name}", file=sys.stderr)
                if name in WITHOUT_SERVER:
                    result = without_server(name, files, options.requests)
                else:
                    result = runner.run(turn(CONTENDERS[name], files, options))
                after = without_server("reference", files, options.requests)
                around = {key: (before[key] + after[key]) / 2 for key in before}
                found.append({"round": i, "name": name, "reference": around, **result})
                before = after
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*WITHOUT_SERVER, *CONTENDERS]
    parser.add_argument("--prepare", action="store_true", help="make the peers' environments")
    parser.add_argument("--only", default=",".join(names), help="some of: %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=300, help="per level")
    parser.add_argument("--concurrency", default="1,8,32", help="callers of each level")
    parser.add_argument(
        "--cache",
        type=Path,
        default=platformdirs.user_cache_path("ganforge") / "peers",
        help="folder of the peers' virtual environments",
    )
    parser.add_argument("--json", type=Path, help="also write everything there")
    options = parser.parse_args()
    if options.prepare:
        prepare(options.cache)
        return
    options.only = options.only.split(",")
    options.concurrency = [int(callers) for callers in options.concurrency.split(",")]
    if unknown := [name for name in options.only if name not in names]:
        parser.error(f"--only {','.join(unknown)}: choose from {', '.join(names)}")
    with tempfile.TemporaryDirectory() as folder:
        found = rounds(make(Path(folder), PICTURES), options)
    medians = summary(found)
    print(markdown(medians), disturbance(found), sep="\n\n")
    if options.json:
        report = {**environment(), "requests": options.requests, "medians": medians, "turns": found}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    wrong = sum(level["wrong"] for one in found for level in one.get("levels", ()))
    sys.exit(f"{wrong} pictures were wrong" if wrong else 0)


if __name__ == "__main__":
    main()
