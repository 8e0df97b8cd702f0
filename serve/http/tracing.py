"""OpenTelemetry (optional): a span and a duration per request, by the semantic conventions of HTTP servers.

A span is a child of its caller's by `traceparent`. No text and no token goes into it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from distill.errors import requires
from serve.errors import Refusal
from serve.http.app import App
from serve.http.call import Call
from serve.http.protocols.base import Headers, Reply

with requires("exporting telemetry"):
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.metrics import Histogram, Meter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.semconv.attributes.client_attributes import CLIENT_ADDRESS
    from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
    from opentelemetry.semconv.attributes.http_attributes import (
        HTTP_REQUEST_METHOD,
        HTTP_REQUEST_METHOD_ORIGINAL,
        HTTP_RESPONSE_STATUS_CODE,
        HTTP_ROUTE,
        HttpRequestMethodValues,
    )
    from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
    from opentelemetry.semconv.attributes.url_attributes import URL_PATH, URL_SCHEME
    from opentelemetry.semconv.attributes.user_agent_attributes import USER_AGENT_ORIGINAL
    from opentelemetry.semconv.metrics.http_metrics import HTTP_SERVER_REQUEST_DURATION
    from opentelemetry.trace import SpanKind, StatusCode, Tracer
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

Attributes = dict[str, str | int]

METHODS = frozenset(method.value for method in HttpRequestMethodValues)
DURATION_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""As the conventions advise."""


class Traced:
    """The application with a span and a duration per request."""

    def __init__(self, app: App, tracer: Tracer, meter: Meter | None) -> None:
        """Report to the tracer and, where there is one, to the meter."""
        self._app, self._tracer = app, tracer
        self._scheme = "http" if app.settings.tls_certificate is None else "https"
        self._durations: Histogram | None = None
        if meter is not None:
            self._durations = meter.create_histogram(
                HTTP_SERVER_REQUEST_DURATION,
                unit="s",
                description="Duration of HTTP server requests.",
                explicit_bucket_boundaries_advisory=DURATION_BUCKETS_S,
            )

    @property
    def is_closing(self) -> bool:
        """Whether clients are told to close their connections."""
        return self._app.is_closing

    def judge(self, method: str, path: str, headers: Headers, peer: str) -> Call:
        """Read a head; one that is answered at once is reported at once."""
        call = self._app.judge(method, path, headers, peer)
        if call.reply is not None:
            self._report(call, call.reply)
        return call

    def refuse(self, call: Call, refusal: Refusal) -> Reply:
        """Return the refusal of a call that has no reply yet."""
        return self._report(call, self._app.refuse(call, refusal))

    async def answer(self, call: Call, body: bytearray, is_wanted: Callable[[], bool]) -> Reply:
        """Answer one request."""
        return self._report(call, await self._app.answer(call, body, is_wanted))

    def headers_of(self, call: Call, reply: Reply) -> list[tuple[bytes, bytes]]:
        """Return the headers of an answer."""
        return self._app.headers_of(call, reply)

    def _report(self, call: Call, reply: Reply) -> Reply:
        seconds, about = time.monotonic() - call.began, self._common(call, reply)
        if self._durations is not None:
            self._durations.record(seconds, about)
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in call.headers.items()}
        known = call.method if call.method in METHODS else "HTTP"
        span = self._tracer.start_span(
            f"{known} {about[HTTP_ROUTE]}" if HTTP_ROUTE in about else known,
            TraceContextTextMapPropagator().extract(carrier),
            SpanKind.SERVER,
            about | self._particular(call),
            start_time=time.time_ns() - int(seconds * 1e9),
        )
        if reply.status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()
        return reply

    def _common(self, call: Call, reply: Reply) -> Attributes:
        """Return the attributes of span and duration: those with few values."""
        method = call.method if call.method in METHODS else HttpRequestMethodValues.OTHER.value
        about: Attributes = {HTTP_REQUEST_METHOD: method, URL_SCHEME: self._scheme, HTTP_RESPONSE_STATUS_CODE: reply.status}
        if call.found is not None:
            about[HTTP_ROUTE] = call.found.route.path
        if reply.status >= 500:
            about[ERROR_TYPE] = str(reply.status)
        return about

    @staticmethod
    def _particular(call: Call) -> Attributes:
        """Return the attributes that only the span has."""
        about: Attributes = {URL_PATH: call.path}
        if call.method not in METHODS:
            about[HTTP_REQUEST_METHOD_ORIGINAL] = call.method
        if call.address:
            about[CLIENT_ADDRESS] = call.address
        if b"user-agent" in call.headers:
            about[USER_AGENT_ORIGINAL] = call.headers[b"user-agent"].decode("latin-1")
        return about | _server_of(call.headers.get(b"host", b"").decode("latin-1"))


def _server_of(host: str) -> Attributes:
    """Return name and port that the client asked for; nothing where the header is malformed."""
    try:
        split = urlsplit(f"//{host}")
        name, port = split.hostname, split.port
    except ValueError:
        return {}
    found: Attributes = {SERVER_ADDRESS: name} if name else {}
    return found | ({SERVER_PORT: port} if name and port else {})


def exporters(environment: Mapping[str, str] = os.environ) -> tuple[TracerProvider, MeterProvider | None]:
    """Return providers that export to the endpoint in the OTEL_* variables, the last spans and metrics at exit.

    OTEL_METRICS_EXPORTER=none exports no metrics.
    """
    resource = Resource.create({"service.name": environment.get("OTEL_SERVICE_NAME", "potstill")})
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    if environment.get("OTEL_METRICS_EXPORTER") == "none":
        return tracers, None
    return tracers, MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource)
