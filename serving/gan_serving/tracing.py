"""Traces for OpenTelemetry: where a request's time went, through Triton too.

Nothing of OpenTelemetry is imported, and a span costs a function call, unless somebody collects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from gan_core.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

    from .telemetry import Seen

__all__ = [
    "check_endpoint",
    "collecting",
    "describe",
    "exporting",
    "note",
    "outgoing",
    "request",
    "span",
    "trace_id",
    "traces_url",
]

Value = str | int | float
Headers = Iterable[tuple[str | bytes, str | bytes]]
Spanning = AbstractContextManager["Span | None"]

SERVERS_FAULT = {"DATA_LOSS", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "UNKNOWN"}
"""Of gRPC's codes; of HTTP's, those from 500 on."""

_tracer: Tracer | None = None
_untraced: Spanning = nullcontext()


@contextmanager
def exporting(endpoint: str | None) -> Iterator[None]:
    """Spans go to a collector's OTLP endpoint while the block runs; without one there are none.

    Everything else is said by the standard variables: ``OTEL_EXPORTER_OTLP_PROTOCOL``
    (``http/protobuf`` or ``grpc``), ``OTEL_TRACES_SAMPLER``, ``OTEL_SERVICE_NAME`` and so on.

    Raises:
        ConfigError: OpenTelemetry isn't installed.
    """
    if endpoint is None:
        yield
        return
    try:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        processor = BatchSpanProcessor(_exporter(endpoint))
    except ImportError as error:
        raise ConfigError(
            f"traces for {endpoint} need OpenTelemetry: pip install 'ganforge[otel]' ({error})"
        ) from error
    with collecting(processor):
        yield


@contextmanager
def collecting(processor: SpanProcessor) -> Iterator[None]:
    """Spans go to a processor while the block runs."""
    global _tracer  # noqa: PLW0603  one per process, as OpenTelemetry's own
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider

    named = Resource.create().merge(Resource({"service.name": "ganforge"}))
    provider = TracerProvider(
        resource=named.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
    )
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("ganforge")
    try:
        yield
    finally:
        _tracer = None
        provider.shutdown()


def request(name: str, headers: Headers) -> Spanning:
    """A span of a request as it came in; its caller's trace goes on in it."""
    if _tracer is None:
        return _untraced
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    context = extract({_text(key).lower(): _text(value) for key, value in headers})
    return _tracer.start_as_current_span(
        name, context, SpanKind.SERVER, record_exception=False, set_status_on_exception=False
    )


def span(name: str, **attributes: Value) -> Spanning:
    """A span of a step; attributes are ``ganforge.…``."""
    if _tracer is None:
        return _untraced
    return _tracer.start_as_current_span(name, attributes=_named(attributes))


def note(**attributes: Value) -> None:
    """More attributes of the step that runs."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attributes(_named(attributes))


def describe(seen: Seen) -> None:
    """How the request that runs has ended."""
    if _tracer is None:
        return
    from opentelemetry.trace import StatusCode, get_current_span

    current = get_current_span()
    current.update_name(f"{seen.method} {seen.route}".strip())
    note(model=seen.model, caller=seen.caller, request_id=seen.request_id)
    if seen.protocol == "http":
        current.set_attribute("http.request.method", seen.method)
        current.set_attribute("http.route", seen.route)
        current.set_attribute("http.response.status_code", int(seen.code))
    else:
        current.set_attribute("rpc.system", "grpc")
        current.set_attribute("rpc.method", seen.route)
        current.set_attribute("rpc.response.status_code", seen.code)
    if seen.code in SERVERS_FAULT or (seen.protocol == "http" and int(seen.code) >= 500):
        current.set_status(StatusCode.ERROR)


def outgoing() -> dict[str, str] | None:
    """Headers with which Triton goes on with the trace; none where the sampler leaves it out."""
    if _tracer is None:
        return None
    from opentelemetry.propagate import inject
    from opentelemetry.trace import get_current_span

    if not get_current_span().is_recording():
        return None  # Triton would trace it all the same
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier


def trace_id() -> str:
    """Of the trace that runs, as 32 hexadecimal digits; "" outside of one."""
    if _tracer is None:
        return ""
    from opentelemetry.trace import format_trace_id, get_current_span

    context = get_current_span().get_span_context()
    return format_trace_id(context.trace_id) if context.is_valid else ""


def traces_url(endpoint: str | None) -> str | None:
    """Where a collector takes spans over HTTP; None where it is to be sent them over gRPC."""
    if endpoint is None or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") == "grpc":
        return None
    return f"{endpoint.rstrip('/')}/v1/traces"


def check_endpoint(endpoint: str) -> None:
    """Refuse what isn't a collector's address.

    Raises:
        ConfigError: it isn't. What gRPC takes instead, gRPC knows.
    """
    url = traces_url(endpoint)
    if url is not None and not re.match(r"https?://[^/\s]", url):
        raise ConfigError(
            f"traces can't go to {endpoint!r}; accepted is a URL such as http://collector:4318"
        )


def _exporter(endpoint: str) -> SpanExporter:
    url = traces_url(endpoint)
    if url is None:
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc

        return grpc.OTLPSpanExporter(endpoint)
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as http

    return http.OTLPSpanExporter(url)


def _named(attributes: dict[str, Value]) -> dict[str, Value]:
    return {f"ganforge.{name}": value for name, value in attributes.items()}


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
