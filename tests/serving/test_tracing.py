"""Traces: one per request, through its steps, and none that anybody pays for unasked."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Self

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from gan_core.errors import InternalError, InvalidRequest
from gan_serving import tracing
from gan_serving.gatekeeper import Gatekeeper
from gan_serving.gateway import create_app
from gan_serving.grpc_api.image_service_pb2 import GenerateRequest
from gan_serving.grpc_api.image_service_pb2_grpc import ImageServiceStub
from gan_serving.readiness import Readiness
from gan_serving.service import ImageService
from tests.serving.fake_engine import FakeEngine
from tests.serving.grpc_server import running
from tests.serving.processes import Serving

URL = "/v1/images/generations"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
STEPS = {"queue", "engine", "encode"}
Spans = dict[str, ReadableSpan]


@pytest.fixture
def spans() -> Iterator[Callable[[], Spans]]:
    """The spans that have ended, by name."""
    exporter = InMemorySpanExporter()
    with tracing.collecting(SimpleSpanProcessor(exporter)):
        yield lambda: {span.name: span for span in exporter.get_finished_spans()}


def over_http(engine: FakeEngine | None = None, **fields: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        service = ImageService(engine or FakeEngine())
        app = create_app(service, Readiness(service), Gatekeeper(None))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://g"
        ) as client:
            return await client.post(
                URL,
                json={"model": "marked", "n": 3, **fields},
                headers={"traceparent": TRACEPARENT, "x-request-id": "mine"},
            )

    return asyncio.run(ask())


def over_grpc(
    ask: Callable[[Any], Awaitable[Any]], engine: FakeEngine | None = None
) -> grpc.StatusCode:
    async def run() -> grpc.StatusCode:
        async with (
            running(engine or FakeEngine()) as (_, address),
            grpc.aio.insecure_channel(address) as channel,
        ):
            try:
                await ask(ImageServiceStub(channel))  # type: ignore[no-untyped-call]
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

    return asyncio.run(run())


def ids_of(span: ReadableSpan) -> tuple[str, str]:
    """Its trace, and the span that it is part of."""
    assert span.context is not None
    parent = f"{span.parent.span_id:016x}" if span.parent else ""
    return f"{span.context.trace_id:032x}", parent


def id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


@pytest.mark.parametrize("stream", [False, True])
def test_a_requests_steps_are_spans_of_its_callers_trace(
    spans: Callable[[], Spans], stream: bool
) -> None:
    assert over_http(stream=stream).status_code == 200
    found = spans()
    root = found[f"POST {URL}"]
    assert ids_of(root) == (TRACE, PARENT)
    for step in STEPS:
        assert ids_of(found[step]) == (TRACE, id_of(root)), step


def test_spans_say_what_was_done(spans: Callable[[], Spans]) -> None:
    over_http()
    found = spans()
    root = found[f"POST {URL}"].attributes or {}
    assert (root["http.route"], root["http.response.status_code"]) == (URL, 200)
    assert (root["ganforge.model"], root["ganforge.request_id"]) == ("marked", "mine")
    assert dict(found["engine"].attributes or {}) == {
        "ganforge.model": "marked",
        "ganforge.images": 3,
        "ganforge.version": 1,
    }
    assert (found["encode"].attributes or {})["ganforge.output_format"] == "png"


@pytest.mark.parametrize(
    ("error", "code"), [(InternalError("why"), StatusCode.ERROR), (InvalidRequest("no"), None)]
)
def test_only_the_servers_faults_are_errors(
    spans: Callable[[], Spans], error: Exception, code: StatusCode | None
) -> None:
    engine = FakeEngine()
    engine.error = error
    over_http(engine)
    over_grpc(lambda stub: stub.Generate(GenerateRequest(model="marked")), engine)
    roots = [span for name, span in spans().items() if "/" in name]
    assert [root.status.status_code for root in roots] == [code or StatusCode.UNSET] * 2
    assert [root.events for root in roots] == [(), ()]


async def streamed(stub: Any) -> None:
    metadata = [("traceparent", TRACEPARENT)]
    async for _ in stub.GenerateStream(GenerateRequest(model="marked", n=3), metadata=metadata):
        pass


def test_probes_are_no_traces(spans: Callable[[], Spans]) -> None:
    async def probe() -> None:
        service = ImageService(FakeEngine())
        app = create_app(service, Readiness(service), Gatekeeper(None))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://g"
        ) as client:
            assert (await client.get("/readyz")).status_code == 200

    asyncio.run(probe())
    assert spans() == {}


def test_a_streaming_call_is_traced_as_well(spans: Callable[[], Spans]) -> None:
    assert over_grpc(streamed) == grpc.StatusCode.OK
    found = spans()
    root = found["ganforge.v1.ImageService/GenerateStream"]
    assert ids_of(root) == (TRACE, PARENT)
    assert ids_of(found["engine"]) == (TRACE, id_of(root))
    assert (root.attributes or {})["rpc.response.status_code"] == "OK"


def test_what_is_asked_goes_on_with_the_trace(spans: Callable[[], Spans]) -> None:
    with tracing.request("POST", [(b"traceparent", TRACEPARENT.encode())]):
        with tracing.span("engine"):
            headers = tracing.outgoing() or {}
        assert tracing.trace_id() == TRACE
    assert headers["traceparent"] == f"00-{TRACE}-{id_of(spans()['engine'])}-01"


def test_without_a_collector_nothing_is_imported_or_sent() -> None:
    program = """
import sys
from gan_serving import service, tracing
with tracing.request("POST", []), tracing.span("engine", images=1) as span:
    assert span is None
    assert tracing.outgoing() is None
    assert tracing.trace_id() == ""
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


class Collector(HTTPServer):
    """Takes OTLP over HTTP, on a free port."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.spans: list[tuple[str, ...]] = []
        """Name, and ids of the trace, of the span and of what it is part of."""
        self.services: set[str] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,)).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.server_close()


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        take = self._take_json if "json" in self.headers["Content-Type"] else self._take
        take(raw)
        self.send_response(200)
        self.end_headers()

    def _take(self, raw: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(raw).resource_spans:
            attributes = resource.resource.attributes
            named = {one.key: one.value.string_value for one in attributes}
            self.server.services.add(named["service.name"])
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                ids = (span.trace_id, span.span_id, span.parent_span_id)
                self.server.spans.append((span.name, *(one.hex() for one in ids)))

    def _take_json(self, raw: bytes) -> None:
        """As Triton sends them."""
        for resource in json.loads(raw)["resourceSpans"]:
            named = {
                one["key"]: one["value"].get("stringValue")
                for one in resource["resource"]["attributes"]
            }
            self.server.services.add(named["service.name"])
            for one in (span for scope in resource["scopeSpans"] for span in scope["spans"]):
                ids = (one["traceId"], one["spanId"], one.get("parentSpanId", ""))
                self.server.spans.append((one["name"], *ids))

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_server_sends_its_spans_and_logs_the_traces_id(repository: Path) -> None:
    with Collector() as collector:
        url = f"http://127.0.0.1:{collector.server_port}"
        options = ("--otlp-endpoint", url, "--log-level", "info", "--log-format", "json")
        with Serving(repository, "ort", *options) as serving:
            httpx.post(
                f"{serving.url}{URL}",
                json={"model": "marked"},
                headers={"traceparent": TRACEPARENT},
            ).raise_for_status()
            assert serving.stop() == 0
            lines = [json.loads(line) for line in serving.errors().splitlines()]
    (root,) = (span for span in collector.spans if span[0] == f"POST {URL}")
    assert root[1] == TRACE
    assert {span[0] for span in collector.spans if span[3] == root[2]} == STEPS
    assert collector.services == {"ganforge"}
    (line,) = (line for line in lines if line.get("route") == URL)
    assert line["trace_id"] == TRACE


def test_triton_goes_on_with_the_trace_and_begins_none(repository: Path, has_triton: None) -> None:
    with Collector() as collector:
        url = f"http://127.0.0.1:{collector.server_port}"
        with Serving(repository, "triton", "--otlp-endpoint", url) as serving:
            assert serving.ready()
            httpx.post(
                f"{serving.url}{URL}",
                json={"model": "marked"},
                headers={"traceparent": TRACEPARENT},
            ).raise_for_status()
            assert serving.stop() == 0
    (engine,) = (span for span in collector.spans if span[0] == "engine")
    (call,) = (span for span in collector.spans if span[0] == "InferRequest")
    assert (call[1], call[3]) == (TRACE, engine[2])
    assert {span[0] for span in collector.spans if span[1] == TRACE} >= {"marked", "compute"}
    assert collector.services == {"ganforge", "ganforge-triton"}
