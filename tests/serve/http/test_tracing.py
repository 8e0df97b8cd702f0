"""Traces: one span a request, joined to the caller's, without texts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from served import Running

from serve.http.app import App
from serve.http.server import Server
from serve.settings import ServeSettings


def test_a_request_is_a_span_of_its_callers_trace(start_server: Callable[..., Running], server: Running) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from serve.http.tracing import Traced

    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    kept = memory.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(kept))

    def traced(app: App, settings: ServeSettings) -> Server:
        return Server(app, settings, wrapped=Traced(app, provider.get_tracer("potstill")))

    running = start_server(server.app, ServeSettings(port=0), make=traced)
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    assert running.post("/", {"inputs": "opensesame"}, traceparent=f"00-{trace}-{parent}-01").status == 200
    assert running.ask("GET", "/nowhere").status == 404
    spans = {span.attributes["url.path"]: span for span in kept.get_finished_spans() if span.attributes}
    asked = spans["/"]
    assert (f"{asked.context.trace_id:032x}", f"{asked.parent.span_id:016x}") == (trace, parent)
    assert dict(asked.attributes or {}) == {
        "http.request.method": "POST",
        "url.path": "/",
        "http.response.status_code": 200,
    }
    assert spans["/nowhere"].parent is None
