"""The local Triton: its installation, its checks and its supervision, with the real binary."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper
from tritonclient.grpc import (
    InferenceServerClient,
    InferInput,
)
from tritonclient.utils import (
    InferenceServerException,
)
from typer.testing import CliRunner

from gan_core.errors import TritonError
from gan_serving.local_triton import (
    Finding,
    doctor,
    home,
    install,
    installed,
    unsupported,
)
from gan_serving.triton_commands import app
from gan_serving.triton_process import LocalTriton

needs_triton = pytest.mark.skipif(
    unsupported() is not None or not installed(home()),
    reason=unsupported() or "no local Triton: run 'ganforge triton install'",
)

CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 1 ] }
instance_group { count: 1 kind: KIND_CPU }
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Holds one model, ``double``."""
    body = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
    )
    version = tmp_path / "model_repository" / "double" / "1"
    version.mkdir(parents=True)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, version / "model.onnx")
    (version.parent / "config.pbtxt").write_text(CONFIG)
    return version.parent.parent


@pytest.fixture
def triton(repository: Path, tmp_path: Path) -> Iterator[LocalTriton]:
    triton = LocalTriton(repository, home=home(), log=tmp_path / "triton.log")
    yield triton
    triton.stop()


def doubled(triton: LocalTriton, value: float) -> float:
    """``double`` of a value, by the model that was loaded into the server."""
    x = InferInput("x", [1, 1], "FP32").set_data_from_numpy(np.full((1, 1), value, np.float32))
    with InferenceServerClient(triton.address) as client:
        client.load_model("double")
        return float(client.infer("double", [x]).as_numpy("y").item())


def processes(group: int) -> list[psutil.Process]:
    """Living members of a process group."""
    return [
        process
        for process in psutil.process_iter(["status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE and _group(process.pid) == group
    ]


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


@dataclass(frozen=True)
class Footprint:
    """Where a running tritonserver keeps its files and its shared memory."""

    scratch: Path
    shm_prefix: str

    @classmethod
    def of(cls, pid: int) -> Footprint:
        line = " ".join(psutil.Process(pid).cmdline())
        scratch = re.search(r"--backend-directory=(\S+)", line)
        prefix = re.search(r"shm-region-prefix-name=(\S+)", line)
        assert scratch
        assert prefix
        return cls(Path(scratch[1]).parent, prefix[1])

    def left(self) -> list[Path]:
        scratch = [self.scratch] if self.scratch.exists() else []
        return [*scratch, *Path("/dev/shm").glob(f"{self.shm_prefix}*")]


def wait_until(claim: Callable[[], object], timeout_s: float = 15) -> bool:
    deadline = time.monotonic() + timeout_s
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@needs_triton
def test_a_started_triton_serves_and_stop_leaves_nothing(triton: LocalTriton) -> None:
    triton.start()
    assert doubled(triton, 3) == 6
    group, footprint = triton.pid, Footprint.of(triton.pid)
    assert len(footprint.left()) == 2
    assert len(processes(group)) == 2  # tritonserver and the stub of its one instance
    triton.stop()
    assert not triton.alive()
    assert processes(group) == []
    assert footprint.left() == []


@needs_triton
def test_a_start_after_kill_9_serves_again_and_leaves_nothing(triton: LocalTriton) -> None:
    triton.start()
    assert doubled(triton, 1) == 2
    first, footprint = triton.pid, Footprint.of(triton.pid)
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: not triton.alive())
    triton.start()
    assert doubled(triton, 2) == 4
    assert triton.pid != first
    assert processes(first) == []
    assert footprint.left() == []


@needs_triton
def test_a_killed_stub_fails_requests_until_its_model_is_unloaded_and_loaded(
    triton: LocalTriton,
) -> None:
    triton.start()
    assert doubled(triton, 1) == 2
    (stub,) = (process for process in processes(triton.pid) if process.pid != triton.pid)
    stub.kill()
    with pytest.raises(InferenceServerException, match="is not healthy"):
        doubled(triton, 1)  # loading it again is no cure
    with InferenceServerClient(triton.address) as client:
        client.unload_model("double")
    assert doubled(triton, 1) == 2


@needs_triton
def test_start_is_at_once_done_where_triton_runs(triton: LocalTriton) -> None:
    triton.start()
    pid, address = triton.pid, triton.address
    triton.start()
    assert (triton.pid, triton.address) == (pid, address)


@needs_triton
def test_where_no_socket_fits_triton_is_asked_by_grpc_alone(
    repository: Path, tmp_path: Path
) -> None:
    triton = LocalTriton(repository, home=home(), log=tmp_path / ("long" * 25) / "triton.log")
    triton.start()
    try:
        assert triton.endpoints == triton.address
        assert doubled(triton, 4) == 8
    finally:
        triton.stop()


@needs_triton
def test_triton_outlives_the_thread_that_started_it(triton: LocalTriton) -> None:
    thread = threading.Thread(target=triton.start)
    thread.start()
    thread.join()
    assert doubled(triton, 4) == 8


@needs_triton
def test_triton_dies_with_a_killed_parent_and_the_next_start_removes_what_it_left(
    triton: LocalTriton, repository: Path, tmp_path: Path
) -> None:
    program = (
        "import sys, time; from pathlib import Path; from gan_serving.local_triton import home;"
        "from gan_serving.triton_process import LocalTriton;"
        "triton = LocalTriton(Path(sys.argv[1]), home=home(), log=Path(sys.argv[2]));"
        "triton.start(); print(triton.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(repository), str(tmp_path / "other.log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        footprint = Footprint.of(group)
        parent.kill()
    assert wait_until(lambda: not processes(group))
    assert footprint.left() == [footprint.scratch]
    triton.start()
    assert footprint.left() == []
    assert Footprint.of(triton.pid).left()  # what is in use stays


@needs_triton
def test_triton_listens_on_loopback_alone(triton: LocalTriton) -> None:
    triton.start()
    listening = [
        connection.laddr.ip.removeprefix("::ffff:")
        for connection in psutil.Process(triton.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert set(listening) == {"127.0.0.1"}


def test_start_without_an_installation_says_what_to_run(repository: Path, tmp_path: Path) -> None:
    triton = LocalTriton(repository, home=tmp_path, log=tmp_path / "triton.log")
    with pytest.raises(TritonError, match="run 'ganforge triton install'"):
        triton.start()
    assert not triton.alive()


def test_an_unstarted_triton_has_no_address(repository: Path, tmp_path: Path) -> None:
    triton = LocalTriton(repository, home=tmp_path, log=tmp_path / "triton.log")
    with pytest.raises(TritonError, match="isn't started"):
        _ = triton.address


@needs_triton
def test_a_start_that_fails_quotes_the_log(tmp_path: Path) -> None:
    triton = LocalTriton(tmp_path / "nothing", home=home(), log=tmp_path / "triton.log")
    with pytest.raises(TritonError, match="failed to stat file"):
        triton.start()
    assert not triton.alive()


def test_the_home_is_where_the_variable_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GANFORGE_TRITON_HOME", str(tmp_path))
    assert home() == tmp_path


@needs_triton
def test_a_second_install_does_nothing_and_is_fast() -> None:
    lines: list[str] = []
    begin = time.perf_counter()
    install(home(), lines.append)
    assert time.perf_counter() - begin < 1
    assert lines == [f"{home() / 'venv'} is up to date"]


@needs_triton
def test_an_install_waits_for_another_that_is_under_way() -> None:
    done: list[str] = []
    with filelock.FileLock(home() / "install.lock"):
        thread = threading.Thread(target=install, args=(home(), done.append))
        thread.start()
        time.sleep(0.2)
        assert done == []
    thread.join(timeout=10)
    assert len(done) == 1


@pytest.mark.skipif(unsupported() is not None, reason=str(unsupported()))
def test_a_failed_install_quotes_pip_and_is_not_taken_for_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(TritonError, match="No matching distribution found for onnxruntime"):
        install(tmp_path, lambda _: None)
    assert not installed(tmp_path)


def by_name(findings: Sequence[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@needs_triton
def test_doctor_finds_an_installed_triton_healthy() -> None:
    findings = doctor(home())
    assert [finding for finding in findings if not finding.ok] == []
    assert all(finding.remedy == "" for finding in findings)


@needs_triton
def test_doctor_names_a_missing_libpython_and_the_package_that_has_it() -> None:
    library = f"libpython3.{sys.version_info.minor}"
    stderr = (
        "triton_python_backend_stub: error while loading shared libraries: "
        f"{library}.so.1.0: cannot open shared object file: No such file or directory"
    )

    def run(command: Sequence[str], _: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 127, "", stderr)

    finding = by_name(doctor(home(), run=run))["libpython"]
    assert not finding.ok
    assert f"{library}.so.1.0: cannot open" in finding.detail
    assert f"apt-get install {library}" in finding.remedy


@needs_triton
def test_doctor_refuses_numpy_2() -> None:
    def run(command: Sequence[str], _: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, "2.4.6\n", "")

    assert not by_name(doctor(home(), run=run))["numpy < 2"].ok


@pytest.mark.skipif(unsupported() is not None, reason=str(unsupported()))
def test_doctor_says_to_install_what_is_not_installed(tmp_path: Path) -> None:
    finding = by_name(doctor(tmp_path))["environment"]
    assert not finding.ok
    assert finding.remedy == "ganforge triton install"


@needs_triton
def test_the_doctor_command_prints_json_that_a_machine_reads() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    assert all(finding["ok"] for finding in json.loads(result.stdout))


def test_the_doctor_command_exits_with_1_and_prints_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GANFORGE_TRITON_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "→" in result.stdout


def test_the_install_command_fails_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GANFORGE_TRITON_HOME", str(tmp_path / "file" / "home"))
    result = CliRunner().invoke(app, ["install"])
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["install", "doctor"])
def test_each_command_has_an_example_in_its_help(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert f"ganforge triton {command}" in result.stdout
