"""The routes: the table that requests are looked up in and that the OpenAPI document is made from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from serve.http.access import Audience
from serve.http.protocols.base import Dialect
from serve.http.protocols.huggingface import HuggingFace, HuggingFaceError, HuggingFaceRequest, LabelScore
from serve.http.protocols.oip import InferError, InferRequest, OpenInference
from serve.http.protocols.tei import ErrorResponse, PredictRequest, TextEmbeddingsInference

HUGGING_FACE, TEI, OIP = HuggingFace(), TextEmbeddingsInference(), OpenInference()


@dataclass(frozen=True)
class Route:
    """One path and method.

    Attributes:
        path: May hold `{name}` and `{version}` of a model.
        method: GET also answers HEAD.
        does: What the application does to answer it.
        dialect: The protocol of its errors.
        audience: Who may use it.
        summary: Text for the OpenAPI document.
        takes: Type of the request body.
        gives: Type of the response body.
        error: Type of the body of an error.
    """

    path: str
    method: Literal["GET", "POST"]
    does: str
    summary: str
    dialect: Dialect = HUGGING_FACE
    audience: Audience = "caller"
    takes: Any = None
    gives: Any = dict[str, Any]
    error: Any = HuggingFaceError


def _inference(path: str, dialect: Dialect, summary: str, *, takes: Any, gives: Any, error: Any) -> Route:
    return Route(path, "POST", "infer", summary, dialect, takes=takes, gives=gives, error=error)


_HF: dict[str, Any] = {"takes": HuggingFaceRequest, "gives": list[list[LabelScore]], "error": HuggingFaceError}
_TEI: dict[str, Any] = {"takes": PredictRequest, "gives": list[LabelScore | list[LabelScore]], "error": ErrorResponse}
_OIP: dict[str, Any] = {"takes": InferRequest, "error": InferError, "gives": dict[str, Any]}

ROUTES = (
    _inference("/", HUGGING_FACE, "Hugging Face text classification", **_HF),
    _inference("/models/{name}", HUGGING_FACE, "The same for a named model", **_HF),
    _inference("/predict", TEI, "text-embeddings-inference's predict", **_TEI),
    _inference("/models/{name}/predict", TEI, "The same for a named model", **_TEI),
    _inference("/v2/models/{name}/infer", OIP, "Open Inference Protocol", **_OIP),
    _inference("/v2/models/{name}/versions/{version}/infer", OIP, "The same for a version", **_OIP),
    Route("/v2", "GET", "server_metadata", "Name and extensions of the server", OIP, error=InferError),
    Route("/v2/health/live", "GET", "live", "Liveness: the process runs", OIP, "open", error=InferError),
    Route("/v2/health/ready", "GET", "ready", "Readiness: the server accepts requests", OIP, "open", error=InferError),
    Route("/v2/models/{name}", "GET", "model_metadata", "Inputs and outputs of a model", OIP, error=InferError),
    Route("/v2/models/{name}/versions/{version}", "GET", "model_metadata", "The same for a version", OIP, error=InferError),
    Route("/v2/models/{name}/ready", "GET", "ready", "Readiness of a model", OIP, "open", error=InferError),
    Route(
        "/v2/models/{name}/versions/{version}/ready",
        "GET",
        "ready",
        "The same for a version",
        OIP,
        "open",
        error=InferError,
    ),
    Route("/health", "GET", "ready", "Readiness: the server accepts requests", audience="open"),
    Route("/health/live", "GET", "live", "Liveness: the process runs", audience="open"),
    Route("/health/ready", "GET", "ready", "Readiness: the server accepts requests", audience="open"),
    Route("/info", "GET", "info", "Labels, quality, size and lineage of every model"),
    Route("/metrics", "GET", "metrics", "Metrics in the Prometheus text format", gives=str),
    Route("/openapi.json", "GET", "openapi", "This document", audience="open"),
    Route("/docs", "GET", "docs", "This document as a page", audience="open", gives=str),
    Route("/", "GET", "page", "The page", audience="open", gives=str),
    Route(
        "/admin/reload",
        "POST",
        "reload",
        "Load and check a bundle, then replace the served one",
        audience="administrator",
    ),
)


@dataclass(frozen=True)
class Found:
    """A route, and the model and version in its path."""

    route: Route
    model: str | None = None
    version: str | None = None


class Table:
    """Finds routes by path; a path without variables takes one dictionary look-up."""

    def __init__(self, routes: tuple[Route, ...] = ROUTES) -> None:
        self._exact: dict[str, dict[str, Found]] = {}
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        for route in routes:
            if "{" in route.path:
                pattern = re.escape(route.path).replace(r"\{name\}", "(?P<model>[^/]+)")
                self._patterns.append((re.compile(pattern.replace(r"\{version\}", "(?P<version>[^/]+)")), route))
            else:
                self._exact.setdefault(route.path, {})[route.method] = Found(route)

    def find(self, path: str) -> Mapping[str, Found]:
        """Return the routes of a path by method; empty when there are none."""
        exact = self._exact.get(path)
        if exact is not None:
            return exact
        matches = ((pattern.fullmatch(path), route) for pattern, route in self._patterns)
        return {route.method: Found(route, **match.groupdict()) for match, route in matches if match}
