"""A version that is broken or half there: the one that serves goes on, and the log says why."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gan_serving.repository import publish, read
from tests.faults.asking import Asker, seconds_until
from tests.serving.graphs import watermark, write_export
from tests.serving.processes import Load, Serving, wait_until

CALLERS = 4


@pytest.fixture(params=["triton", "ort"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "triton":
        request.getfixturevalue("has_triton")
    return str(request.param)


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """An export of ``marked`` whose pictures can be told from the first's."""
    return write_export(tmp_path / "newer", "marked", watermark(shade=10))


Break = Callable[[Path], object]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _rewrite(path: Path, content: bytes) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(content)
    other.replace(path)


BROKEN: dict[str, Break] = {
    "config.pbtxt cut": lambda model: _cut(model / "config.pbtxt"),
    "config.pbtxt empty": lambda model: _rewrite(model / "config.pbtxt", b""),
    "config.pbtxt binary": lambda model: _rewrite(model / "config.pbtxt", os.urandom(2000)),
    "stray version": lambda model: (model / "9").mkdir(),
}


@pytest.mark.faults
@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_configuration_stops_nothing_that_serves(
    marked: Path, asking: Callable[..., Asker], engine: str, broken: str
) -> None:
    with Serving(marked, engine) as serving:
        asker = asking(serving.url, ())
        with Load(CALLERS, asker.ask):
            assert wait_until(lambda: len(asker.statuses) > 10)
            BROKEN[broken](marked / "marked")
            enough = len(asker.statuses) + 100
            assert wait_until(lambda: len(asker.statuses) > enough, 30)
    assert asker.versions == {1}


@pytest.mark.faults
def test_a_version_whose_graph_is_cut_stops_nothing_that_serves(
    marked: Path,
    newer: Path,
    asking: Callable[..., Asker],
    engine: str,
    note: Callable[..., None],
) -> None:
    with Serving(marked, engine) as serving:
        asker = asking(serving.url, ())
        with Load(CALLERS, asker.ask):
            assert wait_until(lambda: len(asker.statuses) > 10)
            publish_cut(newer, marked)
            enough = len(asker.statuses) + 100
            assert wait_until(lambda: len(asker.statuses) > enough, 30)
            assert asker.versions == {1}
            publish(newer, marked)  # keeps the broken one as its previous: Triton loads neither
            publish(newer, marked)
            healed = seconds_until(lambda: 4 in asker.versions, 15)
    note(f"model.onnx cut ({engine}); healed by a new version", healed_s=healed)


def publish_cut(export: Path, repository: Path) -> None:
    """As if the disk had lost half of a version that was published."""
    apart = repository.parent / "apart"
    shutil.copytree(repository, apart)
    published, folder = publish(export, apart)
    _cut(folder / "model.onnx")
    folder.rename(repository / published.name / folder.name)
    (apart / published.name / "config.pbtxt").replace(repository / published.name / "config.pbtxt")


@pytest.mark.faults
def test_publishers_that_are_killed_leave_the_old_version_or_the_new(
    marked: Path, newer: Path, asking: Callable[..., Asker]
) -> None:
    with Serving(marked, "ort") as serving:
        asker = asking(serving.url, ())
        with Load(CALLERS, asker.ask):
            for writes in (1, 3, 6):
                assert killed_publishing(newer, marked, writes)
                assert read(marked, "marked").version == 1
            assert asker.versions == {1}
            assert killed_publishing(newer, marked, 7)  # all is there, but for a last fsync
            assert wait_until(lambda: len(asker.versions) == 2, 10)
            published, _ = publish(newer, marked)
            assert wait_until(lambda: published.version in asker.versions, 10)
    assert not list(marked.glob(".publish-*")), "nobody cleaned up after the dead"


PUBLISHER = """
import os, signal, sys
from pathlib import Path
from gan_serving.repository import publish, read

left, sync = int(sys.argv[3]), os.fsync

def fsync(descriptor):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(descriptor)

os.fsync = fsync
publish(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def killed_publishing(export: Path, repository: Path, writes: int) -> bool:
    """Whether a publisher died by kill -9 instead of its so-manieth fsync."""
    command = [sys.executable, "-c", PUBLISHER, str(export), str(repository), str(writes)]
    return subprocess.run(command, check=False).returncode == -signal.SIGKILL
