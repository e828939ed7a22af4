"""What an operator sees: Prometheus metrics, and one line in the log per request."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

from gan_core.errors import ServiceError

from . import tracing
from .engine_metrics import EngineMetrics

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from .service import ImageService

__all__ = ["Seen", "Telemetry"]

ENGINE_TIMEOUT_S = 1.0
"""An engine that doesn't answer doesn't keep the other numbers back for longer."""
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64)

ACCESS_LOG = "ganforge.access"

log = logging.getLogger(ACCESS_LOG)
access = structlog.get_logger(ACCESS_LOG)


@dataclass(frozen=True, slots=True)
class Seen:
    """One request, once it is over."""

    protocol: str
    """``http`` or ``grpc``."""
    route: str
    """As it is declared, such as ``/v1/models/{model}``; never what a client made up."""
    model: str
    """Asked for; "" where it is none of those that serve."""
    caller: str
    """Name of its key; "" where it had none that is known."""
    code: str
    """HTTP's status, or gRPC's."""
    seconds: float
    request_id: str
    method: str = ""
    """HTTP's."""


class Telemetry:
    """Counts and times what goes on.

    Args:
        service: whose queues are shown.
    """

    def __init__(self, service: ImageService) -> None:
        self._service = service
        self._registry = registry = CollectorRegistry()
        labels = ("protocol", "route", "model")
        self._requests = Counter(
            "ganforge_requests", "Requests by outcome.", (*labels, "code"), registry=registry
        )
        self._seconds = Histogram(
            "ganforge_request_seconds",
            "From the first byte of a request to the last of its answer.",
            labels,
            buckets=SECONDS,
            registry=registry,
        )
        self._engine = Histogram(
            "ganforge_engine_seconds",
            "From a place in the engine to its pixels.",
            ("model",),
            buckets=SECONDS,
            registry=registry,
        )
        self._parts = Histogram(
            "ganforge_part_images",
            "Images that one request gives an engine at once; it batches parts of several.",
            ("model",),
            buckets=IMAGES,
            registry=registry,
        )
        self._encoding = Histogram(
            "ganforge_encode_seconds",
            "Pixels to a file, per image.",
            ("output_format",),
            buckets=SECONDS,
            registry=registry,
        )
        registry.register(_Queues(service))

    def seen(self, request: Seen) -> None:
        """A request is over."""
        model = request.model if request.model in self._service.admissions else ""
        tracing.describe(replace(request, model=model))
        labels = request.protocol, request.route, model
        self._requests.labels(*labels, request.code).inc()
        self._seconds.labels(*labels).observe(request.seconds)
        if log.isEnabledFor(logging.INFO):
            fields = {**asdict(request), "model": model, "ms": round(request.seconds * 1000, 2)}
            del fields["seconds"]
            access.info("request", **fields)

    def ran(self, model: str, images: int, seconds: float) -> None:
        """An engine has answered."""
        self._engine.labels(model).observe(seconds)
        self._parts.labels(model).observe(images)

    def encoded(self, output_format: str, images: int, seconds: float) -> None:
        """Files were made of pixels."""
        self._encoding.labels(output_format).observe(seconds / max(images, 1))

    async def exposition(self) -> bytes:
        """Everything, as Prometheus reads it; an engine that is away says nothing."""
        try:
            done = await self._service.engine.executions(ENGINE_TIMEOUT_S)
        except ServiceError:
            done = []
        return generate_latest(self._registry) + generate_latest(EngineMetrics(done))


class _Queues:
    """How full each model's gate is, at the moment of asking."""

    def __init__(self, service: ImageService) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        running = GaugeMetricFamily(
            "ganforge_running_images", "Images in the engine.", labels=["model"]
        )
        waiting = GaugeMetricFamily(
            "ganforge_waiting_images", "Images that wait for a place.", labels=["model"]
        )
        expected = GaugeMetricFamily(
            "ganforge_expected_wait_seconds",
            "How long the last of them will wait.",
            labels=["model"],
        )
        for model, gate in self._service.admissions.items():
            running.add_metric([model], gate.running)
            waiting.add_metric([model], gate.waiting)
            expected.add_metric([model], gate.expected_s())
        yield from (running, waiting, expected)
