"""``ganforge serve`` in a process of its own, and what processes leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil

__all__ = [
    "Load",
    "Serving",
    "ganforge",
    "marked_processes",
    "shared_memory",
    "tritons",
    "unclaimed",
    "wait_until",
]


def ganforge(*arguments: str | Path, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Runs the command line to its end."""
    command = [sys.executable, "-m", "gan_core.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


class Serving:
    """A running ``ganforge serve``; leaving the context ends it with SIGTERM.

    Args:
        repository: what it serves.
        engine: ``triton`` or ``ort``.
        options: more of its command line.
        within: a command that becomes the server.
    """

    def __init__(
        self, repository: Path, engine: str, *options: str, within: Sequence[str] = ()
    ) -> None:
        command = [*within, sys.executable, "-m", "gan_core.cli", "serve", "--http-port", "0"]
        command += [
            "--grpc-port",
            "0",
            "--repository",
            str(repository),
            "--engine",
            engine,
            *options,
        ]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  as long as the process
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        words = self._first_line().split()
        self.url = words[0]
        self.grpc = next((word for word in words if word.startswith("grpc")), "")
        self.admin = words[words.index("admin") + 1] if "admin" in words else ""

    def _first_line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(10)
            raise AssertionError(f"ganforge serve ended: {self.errors()}")
        return line

    def errors(self) -> str:
        """What it wrote to stderr so far."""
        self._errors.seek(0)
        return self._errors.read().decode()

    def triton(self) -> psutil.Process:
        """Its tritonserver."""
        (found,) = tritons(self.process.pid)
        return found

    def stubs(self) -> list[psutil.Process]:
        """Triton's backend processes, one for each instance of a version."""
        return [child for child in self.triton().children() if "stub" in child.name()]

    def ready(self) -> bool:
        """Whether /readyz says so."""
        return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 30) -> int:
        """Signals it and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self._errors.close()


class Load:
    """Callers that ask without pause, each from a thread of its own, until they are stopped."""

    def __init__(self, callers: int, call: Callable[[int], object]) -> None:
        self._over = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._work, args=(i, callers, call)) for i in range(callers)
        ]

    def _work(self, first: int, step: int, call: Callable[[int], object]) -> None:
        turn = first
        while not self._over.is_set():
            try:
                call(turn)
            except BaseException as error:  # noqa: BLE001  raised again where it is stopped
                self._failures.append(error)
                return
            turn += step

    @property
    def failed(self) -> bool:
        """Whether a caller has given up."""
        return bool(self._failures)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
        if self._failures and exception[0] is None:
            raise self._failures[0]


def tritons(parent: int) -> list[psutil.Process]:
    """The living tritonservers that a process started."""
    children = psutil.Process(parent).children()
    return [child for child in children if child.name() == "tritonserver"]


def shared_memory() -> set[Path]:
    """Shared memory regions of every local Triton on this machine."""
    return set(Path("/dev/shm").glob("ganforge-*"))


def marked_processes(name: str, value: str) -> list[psutil.Process]:
    """Living processes, but for this one, whose environment has the variable."""
    found = []
    for process in psutil.process_iter(["environ", "status"]):
        environment = process.info["environ"] or {}
        living = process.info["status"] != psutil.STATUS_ZOMBIE
        if environment.get(name) == value and living and process.pid != os.getpid():
            found.append(process)
    return found


def unclaimed(regions: Sequence[Path] | set[Path]) -> list[Path]:
    """Those regions that no living tritonserver was started with."""
    lines = [
        " ".join(process.info["cmdline"] or ())
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "tritonserver"
    ]
    prefixes = {region: "-".join(region.name.split("-")[:3]) + "-" for region in regions}
    return [r for r, prefix in prefixes.items() if not any(prefix in line for line in lines)]


def wait_until(claim: Callable[[], object], timeout_s: float = 15) -> bool:
    """Whether the claim comes true in time."""
    deadline = time.monotonic() + timeout_s
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
