"""What an import costs, and what it must not bring along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from tests.serving.processes import Serving

HEAVY = ("torch", "onnxruntime", "onnx", "fastapi", "uvicorn", "starlette", "tritonclient", "grpc")


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a statement leaves loaded."""
    program = f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def cpu_seconds(statement: str) -> float:
    """Of a statement in a new process; CPU time, because the machine may be busy with others.

    Of its own thread: those that NumPy's BLAS starts spin for a while, which is the dearer the
    earlier NumPy is imported.
    """
    program = f"import time; t = time.thread_time(); {statement}; print(time.thread_time() - t)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def relative_cost(statement: str) -> float:
    """CPU time of a statement, in parts of importing what the SDK depends on."""
    dependencies, found = [], []
    for _ in range(7):  # by turns, so that a busy moment hits both
        dependencies.append(cpu_seconds("import httpx, pydantic, numpy, PIL.Image"))
        found.append(cpu_seconds(statement))
    return min(found) / min(dependencies)  # others only ever add to it


def test_importing_the_sdk_loads_nothing_heavy() -> None:
    assert loaded_by("import gan_client") & {*HEAVY, "httpx", "pydantic"} == set()


def test_importing_the_sdk_costs_less_than_importing_its_dependencies() -> None:
    assert relative_cost("import gan_client") < 1


def test_what_a_client_over_http_loads_costs_little_more_than_its_dependencies() -> None:
    assert relative_cost("import gan_client, gan_client.http_transport") <= 1.6


def test_a_client_in_this_process_loads_nothing_of_the_network(repository: Path) -> None:
    statement = f"import gan_client; gan_client.Client('local:{repository}').close()"
    assert loaded_by(statement) & {"httpx", "grpc", "tritonclient"} == set()


HELP = """
import sys
sys.argv = ["ganforge", "--help"]
try:
    from gan_core.cli import main
    main()
except SystemExit:
    print(*sys.modules, file=sys.stderr)
"""


def test_the_command_lines_help_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert {name.split(".")[0] for name in done.stderr.split()} & set(HEAVY) == set()


def test_the_gateway_needs_no_torch() -> None:
    statement = "import gan_serving.server, gan_serving.commands, gan_serving.local_triton"
    assert "torch" not in loaded_by(statement)


def test_a_serving_process_has_loaded_no_torch(repository: Path) -> None:
    with Serving(repository, "ort") as serving:
        assert serving.ready()
        maps = psutil.Process(serving.process.pid).memory_maps()
    assert [one.path for one in maps if "libtorch" in one.path] == []
