"""The routes: the table that requests are looked up in and that the OpenAPI document is made from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Annotated, Any, Literal

import msgspec

from serve.http.access import Audience
from serve.http.protocols.base import Dialect
from serve.http.protocols.huggingface import HuggingFace, HuggingFaceError, HuggingFaceRequest, LabelScore
from serve.http.protocols.oip import InferError, InferRequest, OpenInference
from serve.http.protocols.tei import ErrorResponse, PredictRequest, TextEmbeddingsInference

HUGGING_FACE, TEI, OIP = HuggingFace(), TextEmbeddingsInference(), OpenInference()


class ReloadRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `/admin/reload`, which may be left out; empty fields mean the default model and its current folder."""

    model: Annotated[str, msgspec.Meta(min_length=1, description="name of a model")] = ""
    bundle: Annotated[str, msgspec.Meta(min_length=1, description="folder of its new bundle")] = ""


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
        takes: Type of the request body; only that of a reload may be left out.
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


_HF = partial(
    Route, method="POST", does="infer", takes=HuggingFaceRequest, gives=list[list[LabelScore]], error=HuggingFaceError
)
_TEI = partial(
    Route,
    method="POST",
    does="infer",
    dialect=TEI,
    takes=PredictRequest,
    gives=list[LabelScore | list[LabelScore]],
    error=ErrorResponse,
)
_OIP = partial(Route, dialect=OIP, error=InferError)

ROUTES = (
    _HF("/", summary="Hugging Face text classification"),
    _HF("/models/{name}", summary="The same for a named model"),
    _TEI("/predict", summary="text-embeddings-inference's predict"),
    _TEI("/models/{name}/predict", summary="The same for a named model"),
    _OIP("/v2/models/{name}/infer", "POST", "infer", "Open Inference Protocol", takes=InferRequest),
    _OIP("/v2/models/{name}/versions/{version}/infer", "POST", "infer", "The same for a version", takes=InferRequest),
    _OIP("/v2", "GET", "server_metadata", "Name and extensions of the server"),
    _OIP("/v2/health/live", "GET", "live", "Liveness: the process runs, and not all its workers hang", audience="open"),
    _OIP("/v2/health/ready", "GET", "ready", "Readiness: the server accepts requests and its workers answer", audience="open"),
    _OIP("/v2/models/{name}", "GET", "model_metadata", "Inputs and outputs of a model"),
    _OIP("/v2/models/{name}/versions/{version}", "GET", "model_metadata", "The same for a version"),
    _OIP("/v2/models/{name}/ready", "GET", "ready", "Readiness of a model", audience="open"),
    _OIP("/v2/models/{name}/versions/{version}/ready", "GET", "ready", "The same for a version", audience="open"),
    Route("/health", "GET", "ready", "Readiness: the server accepts requests and its workers answer", audience="open"),
    Route("/health/live", "GET", "live", "Liveness: the process runs, and not all its workers hang", audience="open"),
    Route("/health/ready", "GET", "ready", "Readiness: the server accepts requests and its workers answer", audience="open"),
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
        takes=ReloadRequest,
    ),
)


@dataclass(frozen=True)
class Found:
    """A route, and the name of the model and the version in its path."""

    route: Route
    name: str | None = None
    version: str | None = None


_PATTERNS = [(re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(route.path))), route) for route in ROUTES]


@lru_cache(maxsize=256)
def find(path: str) -> Mapping[str, Found]:
    """Return the routes of a path by method; empty when there are none."""
    matches = ((pattern.fullmatch(path), route) for pattern, route in _PATTERNS)
    return {route.method: Found(route, **match.groupdict()) for match, route in matches if match}
