"""What an engine has done, as Prometheus reads it: the same names for every engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

    from .engine import Executions

__all__ = ["ACCOUNT", "EngineMetrics"]

ACCOUNT = tuple(
    f"ganforge_engine_{name}"
    for name in ("images", "runs", "parts", "queue_seconds", "compute_seconds", "queued_parts")
)
"""Names of what an engine tells of itself: several processes over one Triton tell the same."""
LABELS = ["model", "version"]


class EngineMetrics:
    """Counters of each version; they begin again at 0 when the engine loads it again."""

    def __init__(self, executions: Iterable[Executions]) -> None:
        self._executions = executions

    def collect(self) -> Iterator[Metric]:
        """As ``generate_latest`` asks for them."""
        images = _counter("images", "Images that the graph made.")
        runs = _counter("runs", "Runs of the graph; images by runs is the mean batch.")
        parts = _counter("parts", "Parts of requests by outcome.", "outcome")
        queue = _counter("queue_seconds", "That parts have waited in the engine.")
        compute = _counter("compute_seconds", "That parts were worked on.")
        queued = GaugeMetricFamily(
            "ganforge_engine_queued_parts", "Parts that wait in the engine.", labels=LABELS
        )
        for one in self._executions:
            labels = [one.model, str(one.version)]
            images.add_metric(labels, one.images)
            runs.add_metric(labels, one.runs)
            parts.add_metric([*labels, "succeeded"], one.succeeded)
            parts.add_metric([*labels, "failed"], one.failed)
            queue.add_metric(labels, one.queue_s)
            compute.add_metric(labels, one.compute_s)
            if one.queued is not None:
                queued.add_metric(labels, one.queued)
        yield from (images, runs, parts, queue, compute, queued)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"ganforge_engine_{name}", text, labels=[*LABELS, *labels])
