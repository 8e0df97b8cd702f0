"""OpenTelemetry traces (optional): one span per request, a child of the caller's span by `traceparent`."""

from __future__ import annotations

from typing import Any

from distill.errors import requires
from serve.http.app import App
from serve.http.asgi import Receive, Scope, Send

with requires("traces"):
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import SpanKind, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator


class Traced:
    """Middleware that records a span per request; no text and no token goes into it."""

    def __init__(self, app: App, provider: TracerProvider) -> None:
        self._app = app
        self._tracer = provider.get_tracer("potstill")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request inside its span."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        about = {"http.request.method": scope["method"], "url.path": scope["path"]}
        context = TraceContextTextMapPropagator().extract(carrier)
        with self._tracer.start_as_current_span(scope["method"], context, SpanKind.SERVER, about) as span:

            async def send_and_note(message: Any) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            await self._app(scope, receive, send_and_note)


def provider_from_environment() -> TracerProvider:
    """Return a provider that exports spans in batches to the endpoint in the OTEL_* variables, the last ones at exit."""
    provider = TracerProvider(resource=Resource.create({"service.name": "potstill"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
