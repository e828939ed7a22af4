"""How many processor cores this process may really use."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["usable_cores"]

CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(limit: Path = CGROUP_LIMIT) -> int:
    """Cores, at least 1: those of the machine that it may run on, within its container's quota.

    A container with two cores of a machine of 64 sees all 64, and that many threads would
    fight for the two.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = limit.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or "max": no quota
        return cores
