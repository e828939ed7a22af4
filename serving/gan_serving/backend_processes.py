"""The processes in which a local Triton runs our backend, one for each instance of a model.

Triton tells nobody that one has died, and the model's other instances go on answering.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BackendProcesses"]

log = logging.getLogger(__name__)

REAPED_WITHIN_S = 0.2
"""Triton reaps at once a process that it has ended itself, and never one that died."""


class BackendProcesses:
    """Watches them without polling.

    Args:
        on_death: told of a model when one of its processes has died.
    """

    def __init__(self, on_death: Callable[[str], None]) -> None:
        self._on_death = on_death
        self._watched: dict[int, tuple[str, int]] = {}

    def watch(self, triton: int) -> None:
        """Watch what this Triton, by its process id, has started since the last call."""
        for process in psutil.Process(triton).children():
            if process.pid not in self._watched:
                try:
                    self._watch(process, triton)
                except (psutil.NoSuchProcess, OSError) as error:  # it is gone, or a zombie
                    log.debug("backend process %d isn't watched: %s", process.pid, error)

    def of(self, model: str) -> set[int]:
        """Ids of a model's processes."""
        return {pid for pid, (of, _) in self._watched.items() if of == model}

    def end(self, pids: set[int]) -> None:
        """End those that are left: beside a dead one, Triton doesn't end the others."""
        for pid in pids & self._watched.keys():
            _, descriptor = self._watched[pid]
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            self._forget(pid)

    def _watch(self, process: psutil.Process, triton: int) -> None:
        _, graph, *_ = process.cmdline()
        model = Path(graph).parent.parent.name
        descriptor = os.pidfd_open(process.pid)  # readable from its end on
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(descriptor)
            loop.call_later(REAPED_WITHIN_S, self._judge, process, triton)

        loop.add_reader(descriptor, ended)
        self._watched[process.pid] = model, descriptor

    def _forget(self, pid: int) -> None:
        _, descriptor = self._watched.pop(pid)
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)

    def _judge(self, process: psutil.Process, triton: int) -> None:
        if process.pid not in self._watched:  # ended by us
            return
        model, _ = self._watched[process.pid]
        self._forget(process.pid)
        try:
            died = process.status() == psutil.STATUS_ZOMBIE and process.ppid() == triton
        except psutil.NoSuchProcess:
            return
        if died:
            log.warning("a backend process of %s has died", model)
            self._on_death(model)
