"""Installing the local Triton: the ``tritonserver`` binary of a wheel, in a virtual environment.

The environment is Triton's own because the Python backend's stub needs numpy < 2. The stub is
an isolated embedded interpreter: it ignores PYTHONPATH, but like every Python it takes its
prefix from the first ``python3`` on PATH, so that is how it finds numpy and onnxruntime.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import venv
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import platformdirs

from gan_core.errors import TritonError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Run = Callable[[Sequence[str], Mapping[str, str]], subprocess.CompletedProcess[str]]

__all__ = [
    "SHM",
    "Environment",
    "Finding",
    "doctor",
    "home",
    "install",
    "installed",
    "unsupported",
]

TRITON = "nvidia-pytriton==0.7.0"
RUNTIME = ("onnxruntime>=1.22,<2", "numpy>=1.26,<2")
STUB = "triton_python_backend_stub"
STAMP = json.dumps([TRITON, *RUNTIME])
PYTHONS = ((3, 11), (3, 12))  # the wheel's stubs that numpy < 2 has wheels for
GLIBC = (2, 35)  # the wheel's manylinux tag

SHM = Path("/dev/shm")  # noqa: S108  where POSIX shared memory is, not a temporary file
SHM_FREE_BYTES = 32 << 20


def home() -> Path:
    """Directory of the local Triton: $GANFORGE_TRITON_HOME, or the user's data directory."""
    named = os.environ.get("GANFORGE_TRITON_HOME")
    return Path(named) if named else platformdirs.user_data_path("ganforge") / "triton"


def unsupported() -> str | None:
    """Why this platform can have no local Triton, or None where it can."""
    machine = f"{platform.system()} {platform.machine()}"
    if machine != "Linux x86_64":
        return f"the local Triton is built for Linux x86_64, this is {machine}"
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < GLIBC:
        return f"the local Triton needs glibc 2.35 or newer, this is {name or 'no glibc'} {version}"
    if sys.version_info[:2] not in PYTHONS:
        return f"the local Triton needs Python 3.11 or 3.12, this is {platform.python_version()}"
    return None


@dataclass(frozen=True, slots=True)
class Environment:
    """Where things are in the virtual environment of a home."""

    root: Path

    @classmethod
    def of(cls, home: Path) -> Environment:
        """The environment that ``install`` makes under ``home``."""
        return cls(home.absolute() / "venv")

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.root / "bin" / "python3"

    @property
    def stamp(self) -> Path:
        """Written last: what was installed."""
        return self.root / "ganforge.json"

    @property
    def version(self) -> str:
        """Python version of the environment, which need not be this process's."""
        return next((self.root / "lib").glob("python3.*")).name.removeprefix("python")

    @property
    def libpython(self) -> str:
        """The shared library that the stub links against."""
        return f"libpython{self.version}"

    @property
    def wheel(self) -> Path:
        """The folder of the wheel that holds Triton."""
        packages = self.root / "lib" / f"python{self.version}" / "site-packages"
        return packages / "pytriton" / "tritonserver"

    @property
    def binary(self) -> Path:
        """Tritonserver."""
        return self.wheel / "bin" / "tritonserver"

    @property
    def backend(self) -> Path:
        """The wheel's Python backend."""
        return self.wheel / "backends" / "python"

    @property
    def stub(self) -> Path:
        """The process that runs a Python-based backend."""
        return self.backend / STUB

    def installed(self) -> bool:
        """Whether this very set of requirements was installed to the end."""
        return self.stamp.is_file() and self.stamp.read_text() == STAMP

    def variables(self) -> dict[str, str]:
        """Environment variables under which the stub finds this environment and libpython."""
        variables = dict(os.environ)
        _prepend(variables, "PATH", self.python.parent)
        libraries = self.python.resolve().parent.parent / "lib"
        if (libraries / f"{self.libpython}.so.1.0").exists():
            _prepend(variables, "LD_LIBRARY_PATH", libraries)
        return variables


def _prepend(variables: dict[str, str], name: str, directory: Path) -> None:
    variables[name] = os.pathsep.join(filter(None, [str(directory), variables.get(name)]))


def installed(home: Path) -> bool:
    """Whether ``home`` holds what this version of ganforge installs, complete."""
    return Environment.of(home).installed()


def install(home: Path, on_line: Callable[[str], None]) -> None:
    """Make the local Triton's environment under ``home``; at once done where it is there.

    ``on_line`` gets each line of progress. An environment that was left half made, or made for
    other requirements, is made anew. Installs that run at the same time wait for each other.

    Raises:
        TritonError: the platform has no local Triton, or pip failed; the message ends with
            the last lines it wrote.
    """
    if reason := unsupported():
        raise TritonError(reason)
    environment = Environment.of(home)
    try:
        home.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(home / "install.lock"):
            if environment.installed():
                on_line(f"{environment.root} is up to date")
                return
            _make(environment, on_line)
    except OSError as error:
        raise TritonError(f"can't install the local Triton into {home}: {error}") from error


def _make(environment: Environment, on_line: Callable[[str], None]) -> None:
    shutil.rmtree(environment.root, ignore_errors=True)
    on_line(f"making the virtual environment {environment.root}")
    try:
        venv.create(environment.root, symlinks=True, with_pip=True)
    except subprocess.CalledProcessError as error:
        raise TritonError(
            "can't make a virtual environment with pip (Debian: apt-get install python3-venv): "
            f"{error}"
        ) from error
    pip = [str(environment.python), "-I", "-m", "pip", "install", "--only-binary=:all:"]
    pip += ["--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    _stream([*pip, *RUNTIME], on_line)
    _stream([*pip, "--no-deps", TRITON], on_line)  # its dependencies are for PyTriton's Python API
    # Triton starts the stub that lies beside the backend: there it gets the one of this Python.
    environment.stub.symlink_to(f"../../python_backend_stubs/{environment.version}/{STUB}")
    partial = environment.stamp.with_suffix(".partial")
    partial.write_text(STAMP)
    partial.rename(environment.stamp)


def _stream(command: Sequence[str], on_line: Callable[[str], None]) -> None:
    last: deque[str] = deque(maxlen=5)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            last.append(line.rstrip())
            on_line(line.rstrip())
    if process.returncode:
        raise TritonError(f"{' '.join(command)} failed: {' | '.join(last)}")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that ``doctor`` looked at."""

    name: str
    ok: bool
    detail: str
    """What was found."""
    remedy: str
    """What to do about it; empty where all is well."""


def _run(command: Sequence[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def doctor(home: Path, *, run: Run = _run) -> list[Finding]:
    """Check everything that the local Triton needs, in the order to put it right.

    ``run`` runs a command under environment variables; checks that can't be made before an
    earlier one is put right are left out.
    """
    if reason := unsupported():
        return [Finding("platform", ok=False, detail=reason, remedy="use --engine ort, or Docker")]
    findings = [Finding("platform", ok=True, detail=platform.platform(), remedy="")]
    environment = Environment.of(home)
    findings.append(_check_environment(environment))
    if findings[-1].ok:
        findings += [
            _check_binary(environment, run),
            _check_stub(environment, run),
            _check_package(environment, run, "numpy", "numpy < 2"),
            _check_package(environment, run, "onnxruntime", "onnxruntime"),
        ]
    return [*findings, _check_shared_memory()]


def _check_environment(environment: Environment) -> Finding:
    ok = environment.installed()
    detail = str(environment.root) if ok else f"{environment.root} is missing or out of date"
    return Finding("environment", ok, detail, "" if ok else "ganforge triton install")


def _check_binary(environment: Environment, run: Run) -> Finding:
    # Triton has no --version: it prints its usage and exits with 1.
    done = run([str(environment.binary), "--help"], environment.variables())
    ok = "Usage: tritonserver" in done.stdout + done.stderr
    detail = str(environment.binary) if ok else _last_line(done)
    remedy = "" if ok else f"delete {environment.root}, then ganforge triton install"
    return Finding("tritonserver", ok, detail, remedy)


def _check_stub(environment: Environment, run: Run) -> Finding:
    # Without its nine arguments the stub says so; without its libraries it doesn't get so far.
    done = run([str(environment.stub)], environment.variables())
    package = environment.libpython
    ok = "error while loading shared libraries" not in done.stderr and done.returncode != 127
    detail = f"{package}.so.1.0 is found" if ok else _last_line(done)
    remedy = f"install the shared {package}, e.g. on Debian: apt-get install {package}"
    return Finding("libpython", ok, detail, "" if ok else remedy)


def _check_package(environment: Environment, run: Run, package: str, wanted: str) -> Finding:
    program = f"import {package}; print({package}.__version__)"
    done = run([str(environment.python), "-I", "-c", program], environment.variables())
    version = done.stdout.strip()
    ok = done.returncode == 0 and not (package == "numpy" and int(version.split(".")[0]) >= 2)
    detail = f"{package} {version}" if done.returncode == 0 else _last_line(done)
    remedy = "" if ok else f"delete {environment.root}, then ganforge triton install"
    return Finding(wanted, ok, detail, remedy)


def _check_shared_memory() -> Finding:
    name = str(SHM)
    if not os.access(SHM, os.W_OK):
        return Finding(name, ok=False, detail="not writable", remedy=f"mount a tmpfs on {SHM}")
    free = shutil.disk_usage(SHM).free
    ok = free >= SHM_FREE_BYTES
    detail = f"{free >> 20} MiB free, at least {SHM_FREE_BYTES >> 20} needed"
    return Finding(name, ok, detail, "" if ok else "free some, e.g. docker run --shm-size=1g")


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"
