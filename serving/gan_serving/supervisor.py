"""Keeps a local Triton serving what the repository holds: starts it, loads, restarts, heals.

Triton says READY of a model whose backend process is dead, and neither loading it again nor
touching its configuration helps. So the supervisor watches these processes and asks for
pictures; where one has died or none comes it unloads and loads the model, and where that
doesn't help, it restarts the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gan_core.errors import DeadlineExceeded, QueueFull, ServiceError, TritonError, Unavailable

from .backend_processes import BackendProcesses
from .repository import model_names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .readiness import Readiness
    from .triton_engine import TritonEngine
    from .triton_process import LocalTriton

__all__ = ["Supervisor"]

log = logging.getLogger(__name__)

ROUND_S = 1.0
HEALS_BEFORE_RESTART = 2
SLOW_ROUNDS = 3
"""A model that answers too late may be busy: it counts as failing from this round on."""
REFUSED_PAUSE_S = 60.0
SILENT_ROUNDS_BEFORE_RESTART = 2
SILENT_STOP_S = 2.0


@dataclass(slots=True)
class _Trouble:
    """What was tried for a model that doesn't answer."""

    rounds: int = 0
    heals: int = 0
    refusals: int = 0
    not_before: float = 0.0


class Supervisor:
    """Supervises one local Triton.

    Args:
        triton: the process.
        engine: speaks to it.
        repository: what it should serve.
        readiness: tells whether each model answers.
    """

    def __init__(
        self, triton: LocalTriton, engine: TritonEngine, repository: Path, readiness: Readiness
    ) -> None:
        self.triton = triton
        self._engine = engine
        self._repository = repository
        self._readiness = readiness
        self._loaded: dict[str, int] = {}
        self._troubles: dict[str, _Trouble] = {}
        self._silent_rounds = 0
        self._mended_at = float("-inf")
        self._backends = BackendProcesses(self._backend_died)
        self._bereaved: set[str] = set()
        self._called = asyncio.Event()
        self.restarted = False
        """Whether Triton had to be started again: its log may say why."""
        self._following = asyncio.Lock()
        self.on_moved: Callable[[str], None] = lambda address: None
        """Told where Triton is, when it has been started again."""

    async def start(self) -> None:
        """Start Triton and load every model.

        Raises:
            TritonError: it doesn't start. A model that doesn't load is logged, and tried again.
        """
        await asyncio.to_thread(self.triton.start)
        await self._engine.reconnect(self.triton.endpoints)
        self._loaded.clear()
        self._troubles.clear()
        self._bereaved.clear()
        self._silent_rounds = 0
        await self.follow()
        self._mended_at = time.monotonic()
        self.on_moved(self.triton.endpoints)

    async def run(self) -> None:
        """Watch for ever: a round a second, and one whenever a backend process dies."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROUND_S):
                    await self._called.wait()
            self._called.clear()
            try:
                await self._round()
            except (OSError, ServiceError, TritonError) as error:
                log.warning("Triton: %s", error)
            except Exception:  # the watch's last line: without it nothing would heal any more
                log.exception("supervision")

    async def _restart(self) -> None:
        self.restarted = True
        await self.start()

    async def stop(self) -> None:
        """Stop Triton."""
        await self._engine.close()
        await asyncio.to_thread(self.triton.stop)

    async def _round(self) -> None:
        if not self.triton.alive():
            log.warning("Triton is gone; starting it again")
            await self._restart()
        await self.follow()
        for model in [*self._bereaved]:
            await self._heal(model, Unavailable("a backend process has died"))
        try:
            problems = await self._readiness.check(self._mended_at)
        except (DeadlineExceeded, Unavailable) as error:  # any other is an answer
            await self._bear_silence(error)
            return
        self._silent_rounds = 0
        for model, problem in problems.items():
            if problem is None or isinstance(problem, QueueFull):
                self._troubles.pop(model, None)
            else:
                await self._heal(model, problem)

    async def follow(self) -> None:
        """Load what has changed in the repository; config.pbtxt is the commit point."""
        async with self._following:
            await self._load_changed()

    async def _load_changed(self) -> None:
        present = {name: self._changed_ns(name) for name in model_names(self._repository)}
        changed = {model: ns for model, ns in present.items() if self._loaded.get(model) != ns}
        for model, changed_ns in changed.items():
            self._loaded[model] = changed_ns
            self._troubles.pop(model, None)
            self._bereaved.discard(model)  # it gets new processes
            try:
                await self._engine.load(model)
            except Unavailable as error:
                log.warning("%s", error)
        if changed:
            self._backends.watch(self.triton.pid)
        for model in self._loaded.keys() - present.keys():
            del self._loaded[model]
            self._bereaved.discard(model)
            await self._engine.unload(model)

    def _changed_ns(self, model: str) -> int:
        try:
            return (self._repository / model / "config.pbtxt").stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _backend_died(self, model: str) -> None:
        if model in self._loaded:
            self._bereaved.add(model)
            self._called.set()

    async def _bear_silence(self, error: ServiceError) -> None:
        """A process that lives and doesn't answer may be busy once; twice, it hangs."""
        self._silent_rounds += 1
        if self._silent_rounds < SILENT_ROUNDS_BEFORE_RESTART:
            raise error
        log.warning("Triton doesn't answer (%s); restarting it", error)
        await asyncio.to_thread(self.triton.stop, SILENT_STOP_S)
        await self._restart()

    async def _heal(self, model: str, problem: ServiceError) -> None:
        trouble = self._troubles.setdefault(model, _Trouble())
        trouble.rounds += 1
        slow = isinstance(problem, DeadlineExceeded) and trouble.rounds < SLOW_ROUNDS
        if slow or time.monotonic() < trouble.not_before:
            return
        if trouble.heals >= HEALS_BEFORE_RESTART:
            log.warning("%s still fails (%s); restarting Triton", model, problem)
            await asyncio.to_thread(self.triton.stop)
            await self._restart()
            return
        log.warning("%s fails (%s); loading it afresh", model, problem)
        former = self._backends.of(model)
        try:
            await self._engine.reload(model)
        except Unavailable:  # a restart wouldn't help, and would harm the others
            trouble.refusals += 1
            trouble.not_before = time.monotonic() + min(2.0**trouble.refusals, REFUSED_PAUSE_S)
            raise
        trouble.heals += 1
        self._backends.watch(self.triton.pid)
        self._backends.end(former)
        self._bereaved.discard(model)
        self._mended_at = time.monotonic()
