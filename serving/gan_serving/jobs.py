"""Jobs: requests whose answers are fetched later. One SQLite file, shared by a server's workers.

A job's seed is fixed when it is taken in, so whoever runs it, and however often it is begun
again after a restart, its images are the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from gan_core.errors import (
    ConfigError,
    IdempotencyConflict,
    JobNotFound,
    QueueFull,
    Unavailable,
)
from gan_core.latents import random_seed

__all__ = ["Job", "JobStore", "Status"]

log = logging.getLogger(__name__)

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
KEEP_S = 24 * 3600.0
"""How long a result, and an idempotency key, is kept after its job was taken in."""
SILENT_S = 15.0
"""A worker that says nothing of a job for so long is gone: another begins it again."""
BUSY_S = 10.0

TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    caller TEXT NOT NULL,
    idempotency TEXT,
    digest TEXT NOT NULL,
    request TEXT NOT NULL,
    status TEXT NOT NULL,
    n INTEGER NOT NULL,
    result TEXT,
    problem TEXT,
    created REAL NOT NULL,
    heard REAL NOT NULL,
    UNIQUE (caller, idempotency)
)
"""


@dataclass(frozen=True, slots=True)
class Job:
    """One job, as it stands."""

    id: str
    caller: str
    request: dict[str, Any]
    """The body, with its seed."""
    status: Status
    n: int
    """Images."""
    problem: dict[str, Any] | None
    """Why it failed, as its error would have been answered."""
    created: float
    """Unix time."""


class JobStore:
    """The jobs of a server, in a file.

    Args:
        path: of the SQLite file; made where there is none.
        most: jobs per caller that may wait or run.
        clock: Unix time.

    Raises:
        ConfigError: the file can't be used.

    Methods raise ``Unavailable`` while it can't be read or written.
    """

    def __init__(self, path: Path, most: int = 100, clock: Callable[[], float] = time.time) -> None:
        self._path, self._most, self._clock = path, most, clock
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            # the change to WAL fails, whatever the timeout, while another process makes it
            with (
                FileLock(f"{path}.lock"),
                closing(sqlite3.connect(path, timeout=BUSY_S)) as database,
            ):
                database.execute("PRAGMA journal_mode = WAL")
                database.execute(TABLE)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"can't keep jobs in {path}: {error}") from error

    def add(
        self, caller: str, request: dict[str, Any], n: int, idempotency: str | None = None
    ) -> Job:
        """Take in a job; with an idempotency key that was used before, that job again.

        Raises:
            IdempotencyConflict: the key was used for another request.
            QueueFull: the caller has as many jobs waiting and running as it may.
        """
        now = self._clock()
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        with self._transaction() as database:
            database.execute("DELETE FROM jobs WHERE created < ?", (now - KEEP_S,))
            if idempotency is not None:
                known = database.execute(
                    "SELECT * FROM jobs WHERE caller = ? AND idempotency = ?", (caller, idempotency)
                ).fetchone()
                if known is not None:
                    if known["digest"] != digest:
                        raise IdempotencyConflict(
                            f"Idempotency-Key {idempotency!r} was used for another request"
                        )
                    return _job(known)
            (busy,) = database.execute(
                "SELECT count(*) FROM jobs WHERE caller = ? AND status IN ('queued', 'running')",
                (caller,),
            ).fetchone()
            if busy >= self._most:
                raise QueueFull(f"{busy} jobs of {caller!r} wait or run", retry_after_s=5)
            found = database.execute(
                "INSERT INTO jobs (id, caller, idempotency, digest, request, status, n, created, "
                "heard) VALUES (?, ?, ?, ?, ?, 'queued', ?, ?, ?) RETURNING *",
                (
                    f"job_{secrets.token_hex(12)}",
                    caller,
                    idempotency,
                    digest,
                    json.dumps(seeded(request)),
                    n,
                    now,
                    now,
                ),
            ).fetchone()
            return _job(found)

    def claim(self) -> Job | None:
        """The oldest job that nobody runs, to be run; None where there is none."""
        now = self._clock()
        with self._transaction() as database:
            found = database.execute(
                "UPDATE jobs SET status = 'running', heard = ? WHERE id = ("
                "  SELECT id FROM jobs WHERE status = 'queued'"
                "  OR (status = 'running' AND heard < ?) ORDER BY created LIMIT 1"
                ") RETURNING *",
                (now, now - SILENT_S),
            ).fetchone()
        return None if found is None else _job(found)

    def heard(self, job: str) -> bool:
        """Note that a job is being worked on; whether it is still wanted."""
        with self._transaction() as database:
            row = database.execute(
                "UPDATE jobs SET heard = ? WHERE id = ? AND status = 'running' RETURNING id",
                (self._clock(), job),
            ).fetchone()
        return row is not None

    def finish(
        self, job: str, *, result: str | None = None, problem: dict[str, Any] | None = None
    ) -> None:
        """Keep a job's answer, or why it has none; one that was cancelled stays so."""
        status = "succeeded" if problem is None else "failed"
        with self._transaction() as database:
            database.execute(
                "UPDATE jobs SET status = ?, result = ?, problem = ? "
                "WHERE id = ? AND status = 'running'",
                (status, result, problem and json.dumps(problem), job),
            )

    def put_back(self, job: str) -> None:
        """Let another worker begin a job again."""
        with self._transaction() as database:
            database.execute(
                "UPDATE jobs SET status = 'queued' WHERE id = ? AND status = 'running'",
                (job,),
            )

    def get(self, job: str, caller: str) -> Job:
        """One of a caller's jobs.

        Raises:
            JobNotFound: it has none of that id, or not any more.
        """
        return _job(self._row(job, caller))

    def result(self, job: str, caller: str) -> str | None:
        """The answer of one of a caller's jobs, as JSON; None where there is none yet.

        Raises:
            JobNotFound: it has none of that id, or not any more.
        """
        found: str | None = self._row(job, caller)["result"]
        return found

    def cancel(self, job: str, caller: str) -> Job:
        """End one of a caller's jobs; one that has ended stays as it is.

        Raises:
            JobNotFound: it has none of that id, or not any more.
        """
        self._row(job, caller)
        with self._transaction() as database:
            database.execute(
                "UPDATE jobs SET status = 'cancelled' WHERE id = ? "
                "AND status IN ('queued', 'running')",
                (job,),
            )
        return self.get(job, caller)

    def _row(self, job: str, caller: str) -> sqlite3.Row:
        with self._transaction() as database:
            found: sqlite3.Row | None = database.execute(
                "SELECT * FROM jobs WHERE id = ? AND caller = ? AND created >= ?",
                (job, caller, self._clock() - KEEP_S),
            ).fetchone()
        if found is None:
            raise JobNotFound(f"there is no job {job!r}: jobs are kept for 24 hours")
        return found

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._connected() as database:
                yield database
        except sqlite3.Error as error:  # no space is left, or another process takes its time
            log.error("jobs in %s: %s", self._path, error)  # noqa: TRY400 one line tells it all
            raise Unavailable("jobs can't be kept at the moment") from error

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        # a connection of its own for each: they are used from several threads and processes
        with closing(sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)) as database:
            database.row_factory = sqlite3.Row
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:  # where the disk is full, SQLite has ended it itself
                    database.execute("ROLLBACK")
                raise


def seeded(request: dict[str, Any]) -> dict[str, Any]:
    """The request with a seed, drawn if it has none and needs one."""
    if request.get("seed") is not None or request.get("latents") is not None:
        return request
    return {**request, "seed": random_seed()}


def _job(row: sqlite3.Row) -> Job:
    return Job(
        id=row["id"],
        caller=row["caller"],
        request=json.loads(row["request"]),
        status=row["status"],
        n=row["n"],
        problem=row["problem"] and json.loads(row["problem"]),
        created=row["created"],
    )
