"""Jobs: taken in once, run by one worker at a time, and not lost with it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gan_core.errors import (
    ConfigError,
    IdempotencyConflict,
    JobNotFound,
    QueueFull,
    Unavailable,
)
from gan_serving import jobs
from gan_serving.jobs import KEEP_S, SILENT_S, JobStore

REQUEST: dict[str, Any] = {"model": "marked", "n": 2, "seed": 7}


class Clock:
    """Unix time that a test sets."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> JobStore:
    return JobStore(tmp_path / "jobs.sqlite", most=3, clock=clock)


def test_a_job_goes_from_its_caller_to_a_worker_and_back(store: JobStore) -> None:
    job = store.add("ours", REQUEST, 2)
    assert (job.status, job.request, job.n) == ("queued", REQUEST, 2)
    claimed = store.claim()
    assert claimed is not None
    assert (claimed.id, claimed.status) == (job.id, "running")
    assert store.result(job.id, "ours") is None
    store.finish(job.id, result="{}")
    assert (store.get(job.id, "ours").status, store.result(job.id, "ours")) == ("succeeded", "{}")
    assert store.claim() is None


OPENER = """
import sys
from pathlib import Path
from gan_serving.jobs import JobStore
for line in sys.stdin:
    JobStore(Path(line.strip()))
    print("opened", flush=True)
"""


def test_processes_may_open_a_fresh_file_at_the_same_time(tmp_path: Path) -> None:
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        for _ in range(4)
    ]
    try:
        for i in range(-1, 20):  # at the first they are still being started
            for one in openers:
                assert one.stdin is not None
                one.stdin.write(f"{tmp_path / str(i)}\n")
            assert [one.stdout and one.stdout.readline() for one in openers] == ["opened\n"] * 4
    finally:
        for one in openers:
            one.communicate()


def test_jobs_are_begun_in_the_order_they_came(store: JobStore, clock: Clock) -> None:
    ids = []
    for _ in range(3):
        ids.append(store.add("ours", REQUEST, 2).id)
        clock.now += 1
    assert [claimed.id for claimed in iter(store.claim, None)] == ids


def test_a_seed_is_fixed_when_a_job_is_taken_in(store: JobStore) -> None:
    job = store.add("ours", {"model": "marked"}, 1)
    assert isinstance(job.request["seed"], int)
    assert store.get(job.id, "ours").request == job.request


def test_given_latents_need_no_seed(store: JobStore) -> None:
    assert "seed" not in store.add("ours", {"model": "marked", "latents": [[0.0]]}, 1).request


def test_the_same_key_and_request_are_the_same_job(store: JobStore) -> None:
    body = {"model": "marked"}
    first, again = (store.add("ours", body, 1, "key") for _ in range(2))
    assert first == again
    assert store.add("theirs", body, 1, "key").id != first.id


def test_the_same_key_for_another_request_is_refused(store: JobStore) -> None:
    store.add("ours", REQUEST, 2, "key")
    with pytest.raises(IdempotencyConflict, match="'key' was used for another request"):
        store.add("ours", {**REQUEST, "n": 3}, 3, "key")


def test_a_caller_has_so_many_jobs_at_once(store: JobStore) -> None:
    jobs = [store.add("ours", REQUEST, 2) for _ in range(3)]
    with pytest.raises(QueueFull, match="3 jobs of 'ours' wait or run"):
        store.add("ours", REQUEST, 2)
    store.add("theirs", REQUEST, 2)
    store.cancel(jobs[0].id, "ours")
    store.add("ours", REQUEST, 2)


def test_a_job_of_others_is_not_there(store: JobStore) -> None:
    job = store.add("ours", REQUEST, 2).id
    for ask in (store.get, store.result, store.cancel):
        with pytest.raises(JobNotFound):
            ask(job, "theirs")
    assert store.get(job, "ours").status == "queued"


def test_a_job_whose_worker_fell_silent_is_begun_again(store: JobStore, clock: Clock) -> None:
    job = store.add("ours", REQUEST, 2).id
    store.claim()
    clock.now += SILENT_S / 2
    assert store.heard(job)
    clock.now += SILENT_S * 0.9
    assert store.claim() is None
    clock.now += SILENT_S * 0.2
    claimed = store.claim()
    assert claimed is not None
    assert claimed.id == job


def test_a_job_that_is_put_back_is_begun_again_at_once(store: JobStore) -> None:
    job = store.add("ours", REQUEST, 2).id
    store.claim()
    store.put_back(job)
    claimed = store.claim()
    assert claimed is not None
    assert claimed.id == job


def test_a_cancelled_job_stays_so(store: JobStore) -> None:
    job = store.add("ours", REQUEST, 2).id
    store.claim()
    assert store.cancel(job, "ours").status == "cancelled"
    assert not store.heard(job)
    store.finish(job, result="{}")
    store.put_back(job)
    assert store.get(job, "ours").status == "cancelled"
    assert store.result(job, "ours") is None


def test_what_has_ended_cannot_be_cancelled(store: JobStore) -> None:
    job = store.add("ours", REQUEST, 2).id
    store.claim()
    store.finish(job, problem={"status": 500})
    found = store.cancel(job, "ours")
    assert (found.status, found.problem) == ("failed", {"status": 500})


def test_after_a_day_a_job_and_its_key_are_forgotten(store: JobStore, clock: Clock) -> None:
    job = store.add("ours", REQUEST, 2, "key").id
    clock.now += KEEP_S + 1
    with pytest.raises(JobNotFound):
        store.get(job, "ours")
    assert store.add("ours", {**REQUEST, "n": 1}, 1, "key").id != job


def test_workers_never_run_the_same_job(store: JobStore, tmp_path: Path) -> None:
    store = JobStore(tmp_path / "many.sqlite")
    for _ in range(40):
        store.add("ours", REQUEST, 2)
    claimed: list[str] = []

    def work() -> None:
        mine = JobStore(tmp_path / "many.sqlite")
        claimed.extend(job.id for job in iter(mine.claim, None))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == len(set(claimed)) == 40


def test_jobs_outlive_the_server(store: JobStore, tmp_path: Path, clock: Clock) -> None:
    job = store.add("ours", REQUEST, 2).id
    assert JobStore(tmp_path / "jobs.sqlite", clock=clock).get(job, "ours").request == REQUEST


def test_others_cannot_read_them(store: JobStore, tmp_path: Path) -> None:
    assert (tmp_path / "jobs.sqlite").stat().st_mode & 0o077 == 0


def test_a_file_of_something_else_is_refused_and_left(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be taken for one" * 50)
    with pytest.raises(ConfigError, match=r"can't keep jobs in .*notes\.txt"):
        JobStore(path)
    assert path.read_text().startswith("not a database")


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="can't keep jobs in"):
        JobStore(tmp_path / "file" / "jobs.sqlite")


def test_a_failed_transaction_changes_nothing(store: JobStore) -> None:
    job = store.add("ours", REQUEST, 2).id

    def broken() -> None:
        with store._transaction() as database:
            database.execute("DELETE FROM jobs")
            database.execute("nonsense")

    with pytest.raises(Unavailable):
        broken()
    assert store.get(job, "ours").status == "queued"


def test_a_file_that_cannot_be_written_now_is_unavailable(
    tmp_path: Path, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "BUSY_S", 0.01)
    other = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable, match="jobs can't be kept at the moment"):
        store.add("ours", REQUEST, 2)
    other.close()
    assert store.add("ours", REQUEST, 2).status == "queued"
