"""What one graph has done in this process, for those who watch."""

from __future__ import annotations

from dataclasses import dataclass

from .engine import Executions

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """Sums over the parts of requests; whoever shares it between threads locks it."""

    images: int = 0
    runs: int = 0
    succeeded: int = 0
    failed: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0

    def ran(self, rows: list[int], runs: int, seconds: float) -> None:
        """Parts of so many rows were answered together, or one by one."""
        self.images += sum(rows)
        self.runs += runs
        self.succeeded += len(rows)
        self.compute_s += len(rows) * seconds

    def executions(self, model: str, version: int, queued: int) -> Executions:
        """All of it, and how many wait now."""
        return Executions(
            model=model,
            version=version,
            images=self.images,
            runs=self.runs,
            succeeded=self.succeeded,
            failed=self.failed,
            queue_s=self.queue_s,
            compute_s=self.compute_s,
            queued=queued,
        )
