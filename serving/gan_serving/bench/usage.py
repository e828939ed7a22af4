"""What a server's processes cost, as Linux counts it."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from gan_core.errors import ConfigError

__all__ = ["Usage", "usage_of"]

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process and all that it started."""

    cpu_s: float
    """User and system time, of ended children too."""
    peak_rss_bytes: int
    """Sum of each living process's peak of resident memory; shared pages count in each."""


def usage_of(pid: int) -> Usage:
    """Usage of a process tree so far.

    Raises:
        ConfigError: there is no such process, or no /proc.
    """
    parents, ticks = {}, {}
    for process, fields in _stats():
        parents[process] = int(fields[1])
        ticks[process] = sum(map(int, fields[11:15]))  # utime, stime, and of ended children
    if pid not in parents:
        raise ConfigError(f"--pid {pid}: /proc shows no such process")
    tree = _tree(pid, parents)
    return Usage(sum(ticks[one] for one in tree) / TICKS_PER_S, sum(map(_peak_bytes, tree)))


def _stats() -> list[tuple[int, list[str]]]:
    """Each process's fields of /proc/PID/stat, from its state on."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # the name may hold spaces and brackets of its own
            found.append((int(path.parent.name), path.read_text().rpartition(")")[2].split()))
        except OSError:
            continue  # it has ended meanwhile
    return found


def _tree(root: int, parents: dict[int, int]) -> list[int]:
    children = defaultdict(list)
    for process, parent in parents.items():
        children[parent].append(process)
    tree = [root]
    for process in tree:  # grows as it goes
        tree += children[process]
    return tree


def _peak_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return sum(peaks) * 1024
