"""Fixtures of the training half: a cache of its own, a fresh accelerator, tiny networks."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from gan_core.plugins import Plugins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gan_core.variant import Variant


@pytest.fixture(scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", autouse=True)
def _own_environment(own_cache: Path) -> Iterator[None]:
    """Nothing is read from, or left in, the user's cache; no request leaves the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANFORGE_CACHE", str(own_cache))
        for name in ("http_proxy", "https_proxy"):
            patch.setenv(name, "http://127.0.0.1:9")  # refused at once
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny networks lose more than they gain by sharing the work among threads."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """On the CPU, in float32; its shared state is forgotten afterwards."""
    yield Accelerator(cpu=True)
    _forget()


@pytest.fixture
def bf16_accelerator() -> Iterator[Accelerator]:
    """On the CPU, with bfloat16 autocast."""
    _forget()
    yield Accelerator(cpu=True, mixed_precision="bf16")
    _forget()


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    """What is installed."""
    return Plugins()


@pytest.fixture(scope="session")
def vanilla(plugins: Plugins) -> Variant:
    """The cheapest variant there is."""
    return plugins.variant("vanilla")


@pytest.fixture(scope="session")
def ganforge() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line in a process of its own."""

    def run(
        *arguments: str | Path, check: bool = True, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "gan_core.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, **(env or {})},
        )
        if check and done.returncode:
            pytest.fail(f"exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return run


def _forget() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
