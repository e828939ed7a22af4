"""Levels as a table that grows while they are measured."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

if TYPE_CHECKING:
    from .levels import Level
    from .load import Load

__all__ = ["LiveTable"]

COLUMNS = ("images/s", "goodput", "p50 ms", "p90", "p99", "max", "errors", "wrong")
OF_THE_SERVER = ("CPU ms", "MiB")
"""Per image; peak."""


class LiveTable:
    """A row per level, and below them how far the one that runs has come."""

    def __init__(self, console: Console) -> None:
        self.levels: list[Level] = []
        self._console = console
        self._running: Load | None = None
        self._began = 0.0
        # few refreshes: they cost what is being measured
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=2, transient=True
        )

    def watch(self, load: Load) -> None:
        """Show how far it is."""
        self._running, self._began = load, time.perf_counter()

    def add(self, level: Level) -> None:
        """Show what came of it; where the table isn't live, as a line of stderr."""
        self.levels.append(level)
        self._running = None
        if not self._console.is_terminal:
            sys.stderr.write(f"{_line(level)}\n")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()
        if self.levels:
            self._console.print(self._table())

    def _render(self) -> Group:
        lines = [self._progress(self._running)] if self._running else []
        return Group(self._table(), *lines)

    def _table(self) -> Table:
        is_open = any(level.rate for level in self.levels)
        has_usage = any(level.cpu_ms_per_image is not None for level in self.levels)
        first = "requests/s" if is_open else "callers"
        columns = (first, *COLUMNS, *(OF_THE_SERVER if has_usage else ()))
        table = Table(*columns, box=None, padding=(0, 1, 0, 0))  # all fit 80 characters
        for level in self.levels:
            table.add_row(*_cells(level))
        return table

    def _progress(self, load: Load) -> str:
        seconds = max(time.perf_counter() - self._began, 1e-9)
        done = len(load.exchanges)
        return f"{done} requests in {seconds:.0f} s, {done / seconds:.0f} per second"


def _cells(level: Level) -> list[str]:
    at = level.latency_ms
    cells = [
        f"{level.concurrency or level.rate:g}{' (cut)' if level.interrupted else ''}",
        f"{level.images_per_s:.1f}",
        f"{level.goodput_images_per_s:.1f}",
        *([_short(ms) for ms in (at.p50, at.p90, at.p99, at.max)] if at else ["–"] * 4),
        "\n".join(f"{count} × {code}" for code, count in level.errors.items()) or "0",
        "?" if level.wrong is None else str(level.wrong),
    ]
    if level.cpu_ms_per_image is not None:
        cells += [f"{level.cpu_ms_per_image:.2f}", f"{level.peak_rss_mib:.0f}"]
    return cells


def _line(level: Level) -> str:
    at = level.latency_ms
    load = f"{level.concurrency} callers" if level.concurrency else f"{level.rate:g} requests/s"
    latency = f", p50 {_short(at.p50)} ms, p99 {_short(at.p99)} ms" if at else ""
    cut = " (interrupted)" if level.interrupted else ""
    return f"{load}: {level.images_per_s:.1f} images/s{latency}{cut}"


def _short(ms: float) -> str:
    return f"{ms:.1f}" if ms < 100 else f"{ms:.0f}"
