"""No space left: for jobs, for models, for the log, and for Triton's shared memory.

Each server has a small file system of its own, in a mount namespace: it is really full.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from gan_core.errors import PublishError
from gan_serving.repository import publish
from tests.faults.asking import PATH, Asker, answered, assert_typed, refused, seconds_until
from tests.serving.graphs import write_export
from tests.serving.processes import Load, Serving, wait_until

LATER = {"Prefer": "respond-async"}
BODY = {"model": "marked", "seed": 3, "n": 2}


@pytest.fixture(scope="module", autouse=True)
def _may_mount() -> None:
    tried = ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if (
        not shutil.which("unshare")
        or subprocess.run(tried, check=False, capture_output=True).returncode
    ):
        pytest.skip("no mount namespace may be made here")


def small(folder: Path | str, size: str, command: str = 'exec "$@"') -> list[str]:
    """What a server runs within: ``folder`` is a file system of its own, of that size."""
    mount = f"mount -t tmpfs -o size={size} tmpfs {folder}"
    return ["unshare", "-Urm", "sh", "-ec", f"{mount}; {command}", "sh"]


def seen(serving: Serving, path: Path | str) -> Path:
    """A path of the server's, from here."""
    return Path(f"/proc/{serving.process.pid}/root{path}")


def fill(folder: Path) -> Path:
    """Leave not a byte; returns what to remove again."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for piece in (b"x" * 65_536, b"x" * 4096):
            try:
                while file.write(piece) == len(piece):
                    pass
            except OSError:
                continue
    return filler


def test_jobs_are_refused_while_the_disk_is_full(
    marked: Path, tmp_path: Path, note: Callable[..., None]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ("--jobs", str(disk / "jobs.sqlite"))
    with (
        Serving(marked, "ort", *options, within=small(disk, "1m")) as serving,
        httpx.Client(base_url=serving.url) as http,
    ):
        assert http.post(PATH, json=BODY, headers=LATER).status_code == 202
        filler = fill(seen(serving, disk))

        def full() -> bool:
            return http.post(PATH, json=BODY, headers=LATER).status_code != 202

        assert wait_until(full)  # SQLite's log may have had room in it
        answer = http.post(PATH, json=BODY, headers=LATER)
        assert answer.status_code == 503
        assert_typed(answer)
        assert http.post(PATH, json=BODY).status_code == 200
        filler.unlink()
        healed = seconds_until(lambda: not full(), 5)
        job = http.post(PATH, json=BODY, headers=LATER).headers["location"]
        done = seconds_until(lambda: http.get(f"{job}/result").status_code == 200, 20)
    note("full disk: jobs", healed_s=healed, job_done_s=done)


def test_a_log_that_cannot_be_written_stops_nothing(
    marked: Path, tmp_path: Path, asking: Callable[..., Asker]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    within = small(disk, "64k", f'exec "$@" 2>{disk}/log')
    with Serving(marked, "ort", "--log-level", "debug", within=within) as serving:
        asker = asking(serving.url, ())
        asker.ask(1)
        assert seen(serving, disk / "log").stat().st_size
        fill(seen(serving, disk))
        for seed in range(20):
            asker.ask(seed)
        assert serving.ready()


def test_a_publication_for_which_there_is_no_room_changes_nothing(
    tmp_path: Path, asking: Callable[..., Asker]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    export = write_export(tmp_path / "export", "marked")
    within = small(disk, "1m", f'mkdir {disk}/own; exec "$@"')
    with Serving(disk / "own", "ort", within=within) as serving:
        repository = seen(serving, disk / "own")
        publish(export, repository)
        filler = fill(seen(serving, disk))
        asker = asking(serving.url, ())
        with pytest.raises(PublishError, match="No space left on device"):
            publish(export, repository)
        asker.ask(1)
        assert asker.versions == {1}
        assert [one.name for one in (repository / "marked").iterdir() if one.is_dir()] == ["1"]
        filler.unlink()
        publish(export, repository)


@pytest.mark.faults
@pytest.mark.usefixtures("has_triton")
def test_a_backend_that_gets_no_shared_memory_heals_once_there_is_some(
    marked: Path, asking: Callable[..., Asker], note: Callable[..., None]
) -> None:
    with Serving(marked, "triton", within=small("/dev/shm", "64m")) as serving:
        asker = asking(serving.url, (503, 504))
        with Load(4, asker.ask):
            assert wait_until(lambda: len(asker.statuses) > 50)
            filler = fill(seen(serving, "/dev/shm"))
            for stub in serving.stubs():
                stub.kill()
            told = seconds_until(lambda: not serving.ready(), 5)
            assert wait_until(lambda: len(asker.statuses) > refused(asker) + 50, 5)
            filler.unlink()
            healed = answered(asker)
            assert wait_until(serving.ready, 20)
    note("full /dev/shm, and a backend killed", told_s=told, healed_s=healed)
