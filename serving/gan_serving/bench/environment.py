"""Where something was measured, so that its numbers can be judged."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["environment"]

PACKAGES = ("ganforge", "grpcio", "httptools", "numpy", "onnxruntime", "onnxruntime-gpu", "uvloop")


def environment() -> dict[str, Any]:
    """Time, command, machine, and versions of the packages that matter and are installed."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "cpus": os.cpu_count(),
        "platform": platform.platform(),
        "versions": versions,
    }
