"""Several gateway processes behind the same ports: started, watched, told of Triton, ended.

They share sockets, the jobs' file and the repository, so that any of them can answer anything.
Each has queues, limits of concurrency and (without Redis) rates of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from gan_core.errors import ConfigError

from .cores import usable_cores
from .options import Listening, Options

if TYPE_CHECKING:
    from collections.abc import Callable

    from .options import Doors
    from .supervisor import Supervisor

__all__ = ["Brief", "Workers", "default_workers"]

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Before a worker that ended is started again; doubled each time, until one lasts."""
LASTING_S = 60.0
MOST, CORES_PER_WORKER = 8, 4


def default_workers(engine: str) -> int:
    """How many gateway processes go with an engine on this machine.

    The in-process engine uses all cores from one. Triton needs most of them, and a process
    answers about a thousand requests a second.
    """
    return 1 if engine == "ort" else max(1, min(MOST, usable_cores() // CORES_PER_WORKER))


@dataclass(frozen=True)
class Brief:
    """All that a worker is told at its start."""

    options: Options
    http: int
    """File descriptor of the socket."""
    admin: int | None
    index: int
    folder: Path
    """Where each worker tells the others its numbers."""


BRIEF = TypeAdapter(Brief)


class Workers:
    """The worker processes of a server.

    Args:
        options: how to serve; ``workers`` says how many.
        doors: sockets that they share.
        supervisor: of the local Triton, which stays with this process.
    """

    def __init__(self, options: Options, doors: Doors, supervisor: Supervisor | None) -> None:
        self._options, self._doors, self._supervisor = options, doors, supervisor
        self._processes: dict[int, asyncio.subprocess.Process] = {}

    async def run(self, stopping: asyncio.Event, on_start: Callable[[Listening], None]) -> None:
        """Keep them running until ``stopping`` is set; then let each answer what it has.

        Raises:
            ConfigError: one doesn't start.
        """
        if self._supervisor is not None:
            self._supervisor.on_moved = self._tell
        with tempfile.TemporaryDirectory(prefix="ganforge-workers-") as folder:
            try:
                indices = range(self._options.workers)
                places = await asyncio.gather(*(self._start(i, Path(folder)) for i in indices))
                on_start(places[0])
                watching = [asyncio.create_task(self._keep(i, Path(folder))) for i in indices]
                await stopping.wait()
                for task in watching:
                    task.cancel()
                await asyncio.gather(*watching, return_exceptions=True)
            finally:
                await self._stop()

    async def _keep(self, index: int, folder: Path) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            status = await self._processes[index].wait()
            if time.monotonic() - began > LASTING_S:
                pause_s = FIRST_PAUSE_S
            log.error("worker %d ended with %s; starting another", index, status)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            with contextlib.suppress(ConfigError):  # its own message is in the log
                await self._start(index, folder)

    async def _start(self, index: int, folder: Path) -> Listening:
        """Start a worker and wait until it listens."""
        doors = [self._doors.http, *filter(None, [self._doors.admin])]
        process = self._processes[index] = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gan_serving.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=[door.fileno() for door in doors],
        )
        self._say(index, BRIEF.dump_json(self._brief(index, folder)))
        line = await cast("asyncio.StreamReader", process.stdout).readline()
        if not line:
            raise ConfigError(f"worker {index} doesn't start: exit status {await process.wait()}")
        return Listening(**json.loads(line))

    def _brief(self, index: int, folder: Path) -> Brief:
        options = replace(self._options, triton=self._triton())
        admin = self._doors.admin
        return Brief(
            options, self._doors.http.fileno(), admin.fileno() if admin else None, index, folder
        )

    def _triton(self) -> str | None:
        return self._supervisor.triton.endpoints if self._supervisor else self._options.triton

    def _tell(self, address: str) -> None:
        """Triton is somewhere else now."""
        for index in self._processes:
            self._say(index, address.encode())

    def _say(self, index: int, line: bytes) -> None:
        with contextlib.suppress(OSError):  # it has just ended
            cast("asyncio.StreamWriter", self._processes[index].stdin).write(line + b"\n")

    async def _stop(self) -> None:
        living = [one for one in self._processes.values() if one.returncode is None]
        for process in living:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        await asyncio.gather(*(process.wait() for process in living))
