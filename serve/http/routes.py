"""Which route answers what: the table that requests are looked up in and that the OpenAPI document is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from serve.http.protocols.base import Dialect
from serve.http.protocols.huggingface import HuggingFace, HuggingFaceError, HuggingFaceRequest, LabelScore
from serve.http.protocols.oip import InferError, InferRequest, OpenInference
from serve.http.protocols.tei import ErrorResponse, PredictRequest, TextEmbeddingsInference

HUGGING_FACE, TEI, OIP = HuggingFace(), TextEmbeddingsInference(), OpenInference()

Audience = Literal["open", "caller", "administrator"]


@dataclass(frozen=True)
class Route:
    """One path.

    Attributes:
        path: With `{name}` for a model.
        method: GET also answers HEAD.
        does: The application's method that answers, or "infer".
        dialect: Whose errors it gives.
        audience: Who may.
        summary: For the OpenAPI document.
        takes: Type of the body.
        gives: Type of the answer.
        error: Type of an error's body.
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
    _inference("/models/{name}", HUGGING_FACE, "The same, of a named model", **_HF),
    _inference("/predict", TEI, "text-embeddings-inference's predict", **_TEI),
    _inference("/models/{name}/predict", TEI, "The same, of a named model", **_TEI),
    _inference("/v2/models/{name}/infer", OIP, "Open Inference Protocol", **_OIP),
    _inference("/v2/models/{name}/versions/{version}/infer", OIP, "The same, with its version", **_OIP),
    Route("/v2", "GET", "server_metadata", "Name and extensions of the server", OIP, error=InferError),
    Route("/v2/health/live", "GET", "live", "The process runs", OIP, "open", error=InferError),
    Route("/v2/health/ready", "GET", "ready", "It takes requests", OIP, "open", error=InferError),
    Route("/v2/models/{name}", "GET", "model_metadata", "Inputs and outputs of a model", OIP, error=InferError),
    Route("/v2/models/{name}/versions/{version}", "GET", "model_metadata", "The same", OIP, error=InferError),
    Route("/v2/models/{name}/ready", "GET", "model_ready", "A model takes requests", OIP, "open", error=InferError),
    Route("/v2/models/{name}/versions/{version}/ready", "GET", "model_ready", "The same", OIP, "open", error=InferError),
    Route("/health", "GET", "ready", "It takes requests", audience="open"),
    Route("/health/live", "GET", "live", "The process runs", audience="open"),
    Route("/health/ready", "GET", "ready", "It takes requests", audience="open"),
    Route("/info", "GET", "info", "Labels, quality, size, lineage of every model"),
    Route("/metrics", "GET", "metrics", "Counters, in Prometheus' text format", gives=str),
    Route("/openapi.json", "GET", "openapi", "This document", audience="open"),
    Route("/docs", "GET", "docs", "The same, to read", audience="open", gives=str),
    Route("/", "GET", "page", "The page", audience="open", gives=str),
    Route("/admin/reload", "POST", "reload", "Open a bundle beside the one that answers, and swap", audience="administrator"),
)


@dataclass(frozen=True)
class Found:
    """A route and what its path named."""

    route: Route
    model: str | None = None
    version: str | None = None


class Table:
    """Paths to routes; those without a name by one look-up."""

    def __init__(self, routes: tuple[Route, ...] = ROUTES) -> None:
        self._exact: dict[str, dict[str, Found]] = {}
        self._named: list[tuple[list[str], Route]] = []
        for route in routes:
            if "{" in route.path:
                self._named.append((route.path.split("/"), route))
            else:
                self._exact.setdefault(route.path, {})[route.method] = Found(route)

    def find(self, path: str) -> Mapping[str, Found]:
        """Return what a path answers by method; empty when there is nothing."""
        exact = self._exact.get(path)
        if exact is not None:
            return exact
        parts = path.split("/")
        found: dict[str, Found] = {}
        for pattern, route in self._named:
            if len(pattern) == len(parts) and all(
                want == got or (want.startswith("{") and got) for want, got in zip(pattern, parts, strict=True)
            ):
                values = dict(zip(pattern, parts, strict=True))
                found[route.method] = Found(route, values.get("{name}"), values.get("{version}"))
        return found
