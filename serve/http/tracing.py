"""OpenTelemetry traces (optional): one span per request, a child of the caller's span by `traceparent`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distill.errors import requires
from serve.http.app import App
from serve.http.asgi import Receive, Scope, Send

with requires("traces"):
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import SpanKind, StatusCode, Tracer
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator


@dataclass(frozen=True)
class Traced:
    """Middleware that records a span per request; no text and no token goes into it."""

    app: App
    tracer: Tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request inside its span."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context = TraceContextTextMapPropagator().extract(
            {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        )
        about = {"http.request.method": scope["method"], "url.path": scope["path"]}
        with self.tracer.start_as_current_span(scope["method"], context, SpanKind.SERVER, about) as span:

            async def send_and_note(message: Any) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            await self.app(scope, receive, send_and_note)


def tracer_from_environment() -> Tracer:
    """Return a tracer that exports spans in batches to the endpoint in the OTEL_* variables, the last ones at exit."""
    provider = TracerProvider(resource=Resource.create({"service.name": "potstill"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("potstill")
