"""OpenTelemetry traces (optional): one span per request, a child of the caller's span by `traceparent`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from distill.errors import requires
from serve.errors import Refusal
from serve.http.app import App
from serve.http.call import Call
from serve.http.protocols.base import Headers, Reply

with requires("traces"):
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator


@dataclass(frozen=True)
class Traced:
    """The application with a span per request; no text and no token goes into it."""

    app: App
    tracer: Tracer

    @property
    def is_closing(self) -> bool:
        """Whether clients are told to close their connections."""
        return self.app.is_closing

    def judge(self, method: str, path: str, headers: Headers, peer: str) -> Call:
        """Read a head; a refusal on the head is a span of its own."""
        call = self.app.judge(method, path, headers, peer)
        if call.reply is not None:
            with self._span(call) as span:
                _end(span, call.reply)
        return call

    def refuse(self, call: Call, refusal: Refusal) -> Reply:
        """Return the refusal of a call that has no reply yet."""
        with self._span(call) as span:
            return _end(span, self.app.refuse(call, refusal))

    async def answer(self, call: Call, body: bytes, is_wanted: Callable[[], bool]) -> Reply:
        """Answer one request inside its span."""
        with self._span(call) as span:
            return _end(span, await self.app.answer(call, body, is_wanted))

    def headers_of(self, call: Call, reply: Reply) -> list[tuple[bytes, bytes]]:
        """Return the headers of an answer."""
        return self.app.headers_of(call, reply)

    def _span(self, call: Call) -> AbstractContextManager[Span]:
        context = TraceContextTextMapPropagator().extract(
            {name.decode("latin-1"): value.decode("latin-1") for name, value in call.headers.items()}
        )
        about = {"http.request.method": call.method, "url.path": call.path}
        return self.tracer.start_as_current_span(call.method, context, SpanKind.SERVER, about)


def _end(span: Span, reply: Reply) -> Reply:
    span.set_attribute("http.response.status_code", reply.status)
    if reply.status >= 500:
        span.set_status(StatusCode.ERROR)
    return reply


def tracer_from_environment() -> Tracer:
    """Return a tracer that exports spans in batches to the endpoint in the OTEL_* variables, the last ones at exit."""
    provider = TracerProvider(resource=Resource.create({"service.name": "potstill"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("potstill")
