"""Who is compared: how each is installed, started and asked."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gan_serving.bench import Accept
from gan_serving.bench.targets import HttpTarget, Target

from .model import NAME
from .targets import PngTarget, PytritonTarget, TritonTarget

if TYPE_CHECKING:
    from .model import Files

__all__ = ["CONTENDERS", "ENVIRONMENTS", "ROOT", "Contender", "Place", "python_of"]

PEERS = Path(__file__).with_name("peers")
ROOT = Path(__file__).parents[2]
COMMON = ("onnxruntime==1.31.1", "pillow==12.0.0")
ENVIRONMENTS = {
    "bentoml": ("bentoml==1.4.39", "numpy==2.3.5", *COMMON),
    "litserve": ("litserve==0.2.19", "numpy==2.3.5", *COMMON),
    "pytriton": ("nvidia-pytriton==0.7.0", "numpy==1.26.4", *COMMON),
}
"""What is installed into each virtual environment; FastAPI's and Triton's is ganforge's own."""


def python_of(cache: Path, environment: str) -> Path:
    """The interpreter of one of them."""
    return cache / environment / "bin" / "python"


@dataclass(frozen=True, slots=True)
class Place:
    """What a server is started with."""

    files: Files
    port: int
    scratch: Path
    """A folder of its own, empty at the start."""
    cores: int

    @property
    def address(self) -> Path:
        """File in which Triton's address is."""
        return self.scratch / "address"


Command = Callable[[Place], list[str | Path]]


@dataclass(frozen=True, slots=True)
class Contender:
    """A server to compare."""

    title: str
    command: Command
    """Arguments of the environment's Python."""
    target: Callable[[Place], Target]
    """Raises OSError while it isn't known yet."""
    environment: str | None = None
    """One of ENVIRONMENTS; None is ganforge's own."""
    variables: Callable[[Place], dict[str, str]] = field(default=lambda place: {})

    def start(self, place: Place, cache: Path) -> subprocess.Popen[bytes]:
        """Its process, which leads a session of its own; its output goes to ``scratch/log``."""
        python = python_of(cache, self.environment) if self.environment else sys.executable
        # as users have it: no thread limits of whoever measures
        dropped = {"OMP_NUM_THREADS", *(["PYTHONPATH"] if self.environment else [])}
        inherited = {name: value for name, value in os.environ.items() if name not in dropped}
        with (place.scratch / "log").open("wb") as log:
            return subprocess.Popen(
                [python, *self.command(place)],
                cwd=PEERS if self.environment else ROOT,
                env={**inherited, **self.variables(place)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def png(place: Place) -> Target:
    return PngTarget(place.port)


def ganforge(title: str, engine: str) -> Contender:
    def command(place: Place) -> list[str | Path]:
        ports = ["--http-port", str(place.port), "--grpc-port", "-1"]
        serve = ["-m", "gan_core.cli", "serve", "--engine", engine, *ports]
        return [*serve, "--repository", place.files.repository]

    def target(place: Place) -> Target:
        return HttpTarget(f"http://127.0.0.1:{place.port}", NAME, Accept.PNG, timeout_s=30)

    return Contender(title, command, target)


def fastapi_onnx(threads: int) -> Contender:
    return Contender(
        f"FastAPI + onnxruntime, {threads} thread{'s' * (threads > 1)}",
        lambda at: [PEERS / "fastapi_onnx.py", at.files.graph, str(at.port), str(threads)],
        png,
    )


def litserve(workers: int) -> Contender:
    def command(at: Place) -> list[str | Path]:
        numbers = [str(at.port), str(max(1, at.cores // workers)), str(workers)]
        return [PEERS / "litserve_server.py", at.files.graph, *numbers]

    return Contender(_workers("LitServe", workers), command, png, "litserve")


def bentoml(workers: int) -> Contender:
    def command(at: Place) -> list[str | Path]:
        return ["-m", "bentoml", "serve", "bentoml_server:Images", "--port", str(at.port)]

    def variables(at: Place) -> dict[str, str]:
        return {
            "GRAPH": str(at.files.graph),
            "THREADS": str(max(1, at.cores // workers)),
            "WORKERS": str(workers),
            "BENTOML_HOME": str(at.scratch),
            "BENTOML_DO_NOT_TRACK": "true",
        }

    return Contender(_workers("BentoML", workers), command, png, "bentoml", variables)


def pytriton(output: str) -> Contender:
    def command(at: Place) -> list[str | Path]:
        numbers = [str(at.port), str(at.cores)]
        return [PEERS / "pytriton_server.py", at.files.graph, *numbers, output]

    return Contender(
        f"PyTriton HTTP, {output}",
        command,
        lambda at: PytritonTarget(at.port),
        "pytriton",
        # Triton's Python backend embeds a Python: it must be the one of its standard library
        lambda at: {"LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR"))},
    )


def triton(instances: int) -> Contender:
    def command(at: Place) -> list[str | Path]:
        repository = at.files.one_instance if instances == 1 else at.files.repository
        return [PEERS / "raw_triton.py", repository, at.address]

    title = f"Triton gRPC, pixels, {instances} instance{'s' * (instances > 1)}"
    return Contender(title, command, lambda at: TritonTarget(at.address.read_text()))


def _workers(title: str, workers: int) -> str:
    return f"{title}, {workers} worker{'s' * (workers > 1)}"


CONTENDERS = {
    "ganforge-ort": ganforge("**ganforge**, in process", "ort"),
    "ganforge-triton": ganforge("**ganforge**, Triton", "triton"),
    "fastapi-torch": Contender(
        "FastAPI + torch eager",
        lambda at: [PEERS / "fastapi_torch.py", at.files.network, str(at.port)],
        png,
    ),
    "fastapi-ort-1": fastapi_onnx(1),
    "fastapi-ort-2": fastapi_onnx(2),
    "litserve-1": litserve(1),
    "litserve-2": litserve(2),
    "bentoml-1": bentoml(1),
    "bentoml-2": bentoml(2),
    "pytriton": pytriton("pixels"),
    "pytriton-png": pytriton("PNG"),
    "triton-1": triton(1),
    "triton-2": triton(2),
}
"""By the name that ``--only`` takes."""
