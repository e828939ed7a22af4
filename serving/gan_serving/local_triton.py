"""The local Triton: the ``tritonserver`` binary of a wheel, kept in a virtual environment.

The environment is Triton's own because the Python backend's stub needs numpy < 2. The stub is
an isolated embedded interpreter: it ignores PYTHONPATH, but like every Python it takes its
prefix from the first ``python3`` on PATH, so that is how it finds numpy and onnxruntime.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import platformdirs

from gan_core.errors import TritonError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Run = Callable[[Sequence[str], Mapping[str, str]], subprocess.CompletedProcess[str]]

__all__ = ["Finding", "LocalTriton", "doctor", "home", "install", "installed", "unsupported"]

TRITON = "nvidia-pytriton==0.7.0"
RUNTIME = ("onnxruntime>=1.22,<2", "numpy>=1.26,<2")
STUB = "triton_python_backend_stub"
STAMP = json.dumps([TRITON, *RUNTIME])
PYTHONS = ((3, 11), (3, 12))  # the wheel's stubs that numpy < 2 has wheels for
GLIBC = (2, 35)  # the wheel's manylinux tag

SHM = Path("/dev/shm")  # noqa: S108  where POSIX shared memory is, not a temporary file
SHM_FREE_BYTES = 32 << 20
EXIT_TIMEOUT_S = 5  # a stub that died can't be unloaded: such a server waits all of it
PORT_ATTEMPTS = 3
BACKEND = Path(__file__).with_name("triton_backend")

# A child's death signal is asked for by the child itself: a fork hook isn't safe beside threads.
EXEC_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 = PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


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
class _Environment:
    """Where things are in the virtual environment of a home."""

    root: Path

    @property
    def python(self) -> Path:
        return self.root / "bin" / "python3"

    @property
    def stamp(self) -> Path:
        return self.root / "ganforge.json"

    @property
    def version(self) -> str:
        """Python version of the environment, which need not be this process's."""
        return next((self.root / "lib").glob("python3.*")).name.removeprefix("python")

    @property
    def libpython(self) -> str:
        return f"libpython{self.version}"

    @property
    def wheel(self) -> Path:
        packages = self.root / "lib" / f"python{self.version}" / "site-packages"
        return packages / "pytriton" / "tritonserver"

    @property
    def binary(self) -> Path:
        return self.wheel / "bin" / "tritonserver"

    @property
    def backend(self) -> Path:
        """The wheel's Python backend."""
        return self.wheel / "backends" / "python"

    @property
    def stub(self) -> Path:
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


def _environment(home: Path) -> _Environment:
    return _Environment(home.absolute() / "venv")


def installed(home: Path) -> bool:
    """Whether ``home`` holds what this version of ganforge installs, complete."""
    return _environment(home).installed()


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
    environment = _environment(home)
    try:
        home.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(home / "install.lock"):
            if environment.installed():
                on_line(f"{environment.root} is up to date")
                return
            _make(environment, on_line)
    except OSError as error:
        raise TritonError(f"can't install the local Triton into {home}: {error}") from error


def _make(environment: _Environment, on_line: Callable[[str], None]) -> None:
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
    environment = _environment(home)
    findings.append(_check_environment(environment))
    if findings[-1].ok:
        findings += [
            _check_binary(environment, run),
            _check_stub(environment, run),
            _check_package(environment, run, "numpy", "numpy < 2"),
            _check_package(environment, run, "onnxruntime", "onnxruntime"),
        ]
    return [*findings, _check_shared_memory()]


def _check_environment(environment: _Environment) -> Finding:
    ok = environment.installed()
    detail = str(environment.root) if ok else f"{environment.root} is missing or out of date"
    return Finding("environment", ok, detail, "" if ok else "ganforge triton install")


def _check_binary(environment: _Environment, run: Run) -> Finding:
    # Triton has no --version: it prints its usage and exits with 1.
    done = run([str(environment.binary), "--help"], environment.variables())
    ok = "Usage: tritonserver" in done.stdout + done.stderr
    detail = str(environment.binary) if ok else _last_line(done)
    remedy = "" if ok else f"delete {environment.root}, then ganforge triton install"
    return Finding("tritonserver", ok, detail, remedy)


def _check_stub(environment: _Environment, run: Run) -> Finding:
    # Without its nine arguments the stub says so; without its libraries it doesn't get so far.
    done = run([str(environment.stub)], environment.variables())
    package = environment.libpython
    ok = "error while loading shared libraries" not in done.stderr and done.returncode != 127
    detail = f"{package}.so.1.0 is found" if ok else _last_line(done)
    remedy = f"install the shared {package}, e.g. on Debian: apt-get install {package}"
    return Finding("libpython", ok, detail, "" if ok else remedy)


def _check_package(environment: _Environment, run: Run, package: str, wanted: str) -> Finding:
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


class _Server:
    """One tritonserver process, from its start to the removal of all that it left behind."""

    def __init__(self, environment: _Environment, repository: Path, log: Path) -> None:
        self.port = _free_port()
        self.exited = threading.Event()
        self._scratch, self._claim = _claim_scratch(log.parent)
        self._backends = self._scratch / "backends"
        options = self._options(environment, repository)
        command = [sys.executable, "-I", "-S", "-c", EXEC_WITH_PARENT, str(os.getpid()), *options]
        self._started: Future[subprocess.Popen[bytes]] = Future()
        self._reaping = threading.Lock()
        # The death signal comes when the *thread* that spawned the child ends, so that thread
        # lives as long as the child.
        self._thread = threading.Thread(
            target=self._watch, args=(command, environment, log), daemon=True
        )
        self._thread.start()
        self._process = self._started.result()
        self.pid = self._process.pid

    def _options(self, environment: _Environment, repository: Path) -> list[str]:
        return [
            str(environment.binary),
            f"--model-repository={repository}",
            f"--backend-directory={self._backends}",
            "--model-control-mode=explicit",
            "--disable-auto-complete-config",
            "--strict-readiness=true",
            "--exit-on-error=false",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            "--allow-http=false",
            "--allow-metrics=false",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self.port}",
            f"--backend-config=python,shm-region-prefix-name={_shm_prefix(self._scratch)}",
            "--backend-config=python,shm-default-byte-size=1048576",
            "--backend-config=python,shm-growth-byte-size=4194304",
            "--backend-config=python,stub-timeout-seconds=120",
        ]

    def _watch(self, command: Sequence[str], environment: _Environment, log: Path) -> None:
        try:
            self._backends.mkdir()
            (self._backends / "python").symlink_to(environment.backend)
            (self._backends / "onnxruntime").symlink_to(BACKEND)
            with log.open("ab") as output:
                process = subprocess.Popen(
                    command,
                    env=environment.variables(),
                    cwd=self._scratch,  # it's on the stub's sys.path: nothing importable there
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    process_group=0,
                )
        except OSError as error:
            self._sweep()
            self._started.set_exception(error)
            return
        self._started.set_result(process)
        # Not reaped yet, the dead process keeps its id, so only its own group can be hit.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._reaping:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._sweep()
        self.exited.set()

    def _sweep(self) -> None:
        _remove_scratch(self._scratch)
        os.close(self._claim)

    def stop(self, timeout_s: float) -> None:
        self._signal(signal.SIGTERM)
        if not self.exited.wait(timeout_s):
            self._signal(signal.SIGKILL)
        self._thread.join()

    def _signal(self, number: signal.Signals) -> None:
        with self._reaping:
            self._process.send_signal(number)  # does nothing to a process that was reaped


def _claim_scratch(parent: Path) -> tuple[Path, int]:
    """A new directory for one run, and the descriptor that claims it for as long as it is open.

    Directories that nobody claims any more, because their process was killed, go first.
    """
    with filelock.FileLock(parent / "runs.lock"):
        for scratch in parent.glob("run-*"):
            _remove_abandoned(scratch)
        scratch = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
        claim = os.open(scratch, os.O_RDONLY)
        fcntl.flock(claim, fcntl.LOCK_EX)
        return scratch, claim


def _remove_abandoned(scratch: Path) -> None:
    with contextlib.suppress(FileNotFoundError, BlockingIOError):  # just removed, or in use
        descriptor = os.open(scratch, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_scratch(scratch)
        finally:
            os.close(descriptor)


def _remove_scratch(scratch: Path) -> None:
    for region in SHM.glob(f"{_shm_prefix(scratch)}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)


def _shm_prefix(scratch: Path) -> str:
    return f"ganforge-{scratch.name}-"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LocalTriton:
    """Supervises one tritonserver over a model repository; it is reachable on loopback alone.

    It loads no model: the caller does, through gRPC. The server ends with this process, however
    that ends. The directory of ``log`` also holds a run's few files while it lasts. Methods may
    be called from any thread.
    """

    def __init__(self, repository: Path, *, home: Path, log: Path) -> None:
        self._repository = repository.absolute()
        self._environment = _environment(home)
        self._log = log.absolute()
        self._server: _Server | None = None
        self._lock = threading.RLock()

    @property
    def address(self) -> str:
        """``127.0.0.1:port`` of the gRPC endpoint; the port may change with each start."""
        return f"127.0.0.1:{self._running().port}"

    @property
    def pid(self) -> int:
        """Process id of tritonserver, which is also its process group's."""
        return self._running().pid

    def _running(self) -> _Server:
        if self._server is None:
            raise TritonError("the local Triton isn't started")
        return self._server

    def alive(self) -> bool:
        """Whether the process runs; whether its models answer is another question."""
        return self._server is not None and not self._server.exited.is_set()

    def start(self, timeout_s: float = 30.0) -> None:
        """Start the server and return once it answers; at once where it runs already.

        After a crash, the processes and shared memory left behind are gone before the new start.

        Raises:
            TritonError: it isn't installed, or doesn't answer in time.
        """
        with self._lock:
            if self.alive():
                return
            self.stop()
            if not self._environment.installed():
                raise TritonError(
                    f"no local Triton in {self._environment.root}: run 'ganforge triton install'"
                )
            deadline = time.monotonic() + timeout_s
            for _ in range(PORT_ATTEMPTS):  # another process may take the free port first
                if self._launch(deadline):
                    return
            raise TritonError(f"the local Triton doesn't start: {self._last_lines()}")

    def _launch(self, deadline: float) -> bool:
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            self._server = _Server(self._environment, self._repository, self._log)
        except OSError as error:
            raise TritonError(f"the local Triton can't be started: {error}") from error
        while self.alive():
            live = _is_live(self._server.port)
            if live:
                return True
            if live is False or time.monotonic() > deadline:
                self.stop()
                raise TritonError(f"the local Triton doesn't start: {self._last_lines()}")
            time.sleep(0.02)
        return False

    def _last_lines(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if line[:1] == "E" or "error" in line]
        return " | ".join((errors or lines)[-3:]) + f" (all of it in {self._log})"

    def stop(self, timeout_s: float = 20.0) -> None:
        """Stop the server, by force after ``timeout_s``, and remove what it leaves behind."""
        with self._lock:
            if self._server is not None:
                self._server.stop(timeout_s)
                self._server = None


def _is_live(port: int) -> bool | None:
    """What the server says of itself; None where it says nothing yet."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return None  # asked earlier, gRPC would wait for a second before it tries again
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    with InferenceServerClient(f"127.0.0.1:{port}") as client:
        try:
            return bool(client.is_server_live(client_timeout=1))
        except InferenceServerException:
            return None
