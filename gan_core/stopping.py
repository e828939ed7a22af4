"""Stopping a training: a signal becomes a flag, so that a checkpoint can be saved first."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Interrupted", "stop_signal"]


REPEATS_S = 2.0
"""A second signal within this time is the same one: a key pressed twice, or sent to a group."""


class Interrupted(Exception):  # noqa: N818 (like KeyboardInterrupt, it isn't an error)
    """Training was asked to stop, and stopped with a checkpoint at ``path``."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"stopped; everything is saved in {path}")
        self.path = path


@contextmanager
def stop_signal(*, patient: bool) -> Iterator[Callable[[], bool]]:
    """Turns the first SIGINT or SIGTERM into a flag; a later second one acts as it always does.

    ``patient`` keeps on: launchers pass on what the terminal has sent to everyone already, and
    kill whoever takes too long.
    """
    received: list[float] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may listen to signals
        return
    previous: dict[int, Any] = {}

    def note(number: int, _frame: object) -> None:
        received.append(time.monotonic())
        if not patient and received[-1] - received[0] >= REPEATS_S:
            restore()
            signal.raise_signal(number)

    def restore() -> None:
        for caught, handler in previous.items():
            signal.signal(caught, handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, note)
    try:
        yield lambda: bool(received)
    finally:
        restore()
