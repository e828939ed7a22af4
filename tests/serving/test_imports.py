"""What an import costs, and what it must not bring along."""

from __future__ import annotations

import statistics
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
    """Of a statement in a new process; CPU time, because the machine may be busy with others."""
    program = f"import time; t = time.process_time(); {statement}; print(time.process_time() - t)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def test_importing_the_sdk_loads_nothing_heavy() -> None:
    assert loaded_by("import gan_client") & set(HEAVY) == set()


def test_importing_the_sdk_costs_little_more_than_its_dependencies() -> None:
    # a single model is what makes pydantic load most of itself
    used = "import httpx, pydantic, numpy, PIL.Image; pydantic.create_model('Point', x=(int, 0))"
    dependencies, sdk = [], []
    for _ in range(7):  # by turns, so that a busy moment hits both
        dependencies.append(cpu_seconds(used))
        sdk.append(cpu_seconds("import gan_client"))
    assert statistics.median(sdk) <= 1.25 * statistics.median(dependencies)


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
