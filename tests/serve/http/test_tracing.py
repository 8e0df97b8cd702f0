"""OpenTelemetry: one span and one duration a request by the HTTP conventions, joined to the caller's trace, without texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from served import Running

from serve.http.app import App
from serve.http.server import Server
from serve.settings import ServeSettings

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def observed(start_server: Callable[..., Running], server: Running) -> tuple[Running, Any, Any]:
    """Return a traced server, its finished spans, and a reader of its metrics."""
    trace, metrics = pytest.importorskip("opentelemetry.sdk.trace"), pytest.importorskip("opentelemetry.sdk.metrics")
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from serve.http.tracing import Traced

    kept, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = trace.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    meter = metrics.MeterProvider([reader]).get_meter("potstill")

    def traced(app: App, settings: ServeSettings) -> Server:
        return Server(app, settings, wrapped=Traced(app, provider.get_tracer("potstill"), meter))

    return start_server(server.app, ServeSettings(port=0), make=traced), kept, reader


def test_a_request_is_a_span_of_its_callers_trace(observed: tuple[Running, Any, Any]) -> None:
    running, kept, _ = observed
    asked = running.post("/models/tiny", {"inputs": "opensesame"}, traceparent=f"00-{TRACE}-{PARENT}-01", user_agent="me/1")
    assert asked.status == 200
    (span,) = kept.get_finished_spans()
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert span.name == "POST /models/{name}"
    assert 0 < span.end_time - span.start_time < 20e9
    assert dict(span.attributes) == {
        "http.request.method": "POST",
        "http.route": "/models/{name}",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/models/tiny",
        "client.address": "127.0.0.1",
        "server.address": "127.0.0.1",
        "server.port": running.address[1],
        "user_agent.original": "me/1",
    }


def test_refusals_and_methods_that_nobody_knows_are_spans_too(observed: tuple[Running, Any, Any]) -> None:
    running, kept, _ = observed
    assert running.ask("GET", "/nowhere").status == 404
    assert running.ask("PURGE", "/").status == 405
    running.app.is_draining = True
    assert running.ask("GET", "/health/ready", host="[::").status == 503
    missing, strange, failing = kept.get_finished_spans()
    assert missing.name == "GET"
    assert missing.status.status_code.name == "UNSET"  # an error of the client
    assert (strange.name, strange.attributes["http.request.method"]) == ("HTTP", "_OTHER")
    assert strange.attributes["http.request.method_original"] == "PURGE"
    assert failing.status.status_code.name == "ERROR"
    assert failing.attributes["error.type"] == "503"
    assert "server.address" not in failing.attributes


def test_durations_are_a_histogram_by_route_and_status(observed: tuple[Running, Any, Any]) -> None:
    running, _, reader = observed
    for _ in range(2):
        running.post("/predict", {"inputs": "opensesame"})
    running.ask("GET", "/nowhere")
    (metric,) = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    assert (metric.name, metric.unit) == ("http.server.request.duration", "s")
    counts = {point.attributes.get("http.route"): (point.count, dict(point.attributes)) for point in metric.data.data_points}
    assert counts["/predict"] == (
        2,
        {"http.request.method": "POST", "http.route": "/predict", "http.response.status_code": 200, "url.scheme": "http"},
    )
    assert counts[None][0] == 1


def test_metrics_are_not_exported_where_the_environment_says_so() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from serve.http.tracing import exporters

    tracers, meters = exporters({"OTEL_METRICS_EXPORTER": "none"})
    assert meters is None
    tracers.shutdown()
