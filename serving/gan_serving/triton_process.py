"""Running the local Triton: one tritonserver over a repository, and nothing left of it after."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from gan_core.errors import TritonError

from .local_triton import SHM, Environment
from .triton_engine import SOCKET

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LocalTriton"]

EXIT_TIMEOUT_S = 5  # a stub that died can't be unloaded: such a server waits all of it
PORT_ATTEMPTS = 3
SOCKET_PATH_BYTES = 108
"""What the kernel has room for; below a longer folder Triton is asked by gRPC alone."""
NO_TRACE_OF_ITS_OWN = 1_000_000_000
"""Of so many requests one is traced that carries no trace; those that do all are."""
BACKEND = Path(__file__).with_name("triton_backend")

# A child's death signal is asked for by the child itself: a fork hook isn't safe beside threads.
EXEC_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 = PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class _Server:
    """One tritonserver process, from its start to the removal of all that it left behind."""

    def __init__(
        self, environment: Environment, repository: Path, log: Path, traces: str | None
    ) -> None:
        self.port = _free_port()
        self.exited = threading.Event()
        self._scratch, self._claim = _claim_scratch(log.parent)
        self._backends = self._scratch / "backends"
        socket = self._scratch / "http"
        self.socket = socket if len(os.fsencode(socket)) < SOCKET_PATH_BYTES else None
        options = [*self._options(environment, repository), *_trace_options(traces)]
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

    def _options(self, environment: Environment, repository: Path) -> list[str]:
        return [
            str(environment.binary),
            f"--model-repository={repository}",
            f"--backend-directory={self._backends}",
            "--model-control-mode=explicit",
            "--disable-auto-complete-config",
            "--strict-readiness=true",
            "--exit-on-error=false",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            *self._http_options(),
            "--allow-metrics=false",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self.port}",
            f"--backend-config=python,shm-region-prefix-name={_shm_prefix(self._scratch)}",
            "--backend-config=python,shm-default-byte-size=1048576",
            "--backend-config=python,shm-growth-byte-size=4194304",
            "--backend-config=python,stub-timeout-seconds=120",
        ]

    def _http_options(self) -> list[str]:
        if self.socket is None:
            return ["--allow-http=false"]
        return ["--allow-http=true", f"--http-address=unix:{self.socket}"]

    def listens(self) -> bool | None:
        """Whether the socket is there, which Triton opens last; None where it isn't yet."""
        return self.socket is None or self.socket.exists() or None

    def _watch(self, command: Sequence[str], environment: Environment, log: Path) -> None:
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


def _trace_options(url: str | None) -> list[str]:
    if url is None:
        return []
    settings = (
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        f"rate={NO_TRACE_OF_ITS_OWN}",
        f"opentelemetry,url={url}",
        "opentelemetry,resource=service.name=ganforge-triton",
    )
    return [f"--trace-config={setting}" for setting in settings]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LocalTriton:
    """Supervises one tritonserver over a model repository; it is reachable on loopback alone.

    It loads no model: the caller does, through gRPC. The server ends with this process, however
    that ends. The directory of ``log`` also holds a run's few files while it lasts. Methods may
    be called from any thread. Requests that carry a trace go on with it, and their spans go to the
    URL ``traces``, as OTLP over HTTP.
    """

    def __init__(
        self, repository: Path, *, home: Path, log: Path, traces: str | None = None
    ) -> None:
        self._repository = repository.absolute()
        self._environment = Environment.of(home)
        self.log = log.absolute()
        self._traces = traces
        self._server: _Server | None = None
        self._lock = threading.RLock()

    @property
    def address(self) -> str:
        """``127.0.0.1:port`` of the gRPC endpoint; the port may change with each start."""
        return f"127.0.0.1:{self._running().port}"

    @property
    def endpoints(self) -> str:
        """The same for ``TritonEngine``, with the socket of the HTTP endpoint."""
        socket = self._running().socket
        return f"{self.address}{SOCKET}{socket}" if socket else self.address

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
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self._server = _Server(self._environment, self._repository, self.log, self._traces)
        except OSError as error:
            raise TritonError(f"the local Triton can't be started: {error}") from error
        while self.alive():
            live = self._server.listens() and _is_live(self._server.port)
            if live:
                return True
            if live is False or time.monotonic() > deadline:
                self.stop()
                raise TritonError(f"the local Triton doesn't start: {self._last_lines()}")
            time.sleep(0.02)
        return False

    def _last_lines(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if line[:1] == "E" or "error" in line]
        return " | ".join((errors or lines)[-3:]) + f" (all of it in {self.log})"

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

    direct = [("grpc.enable_http_proxy", 0)]  # no proxy lies between a machine and itself
    with InferenceServerClient(f"127.0.0.1:{port}", channel_args=direct) as client:
        try:
            return bool(client.is_server_live(client_timeout=1))
        except InferenceServerException:
            return None
