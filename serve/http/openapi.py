"""The OpenAPI document, generated from the types that requests are decoded with, and a self-contained HTML page of it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from serve.http.routes import Route

REFUSALS = {
    "400": "malformed request",
    "401": "missing or wrong token",
    "404": "no such model",
    "408": "the body did not arrive in time",
    "413": "the body is too large",
    "415": "the content type is not JSON, or the body is compressed",
    "421": "the Host header names another server",
    "422": "invalid input",
    "429": "overloaded; retry after the seconds in Retry-After",
    "431": "the head is too large",
    "503": "computing the answer failed or took too long",
    "504": "no answer before the deadline",
}
_INTEGER = {"schema": {"type": "integer", "minimum": 1}}
_CUT = {"x-truncated-texts": {"description": "texts that were cut to max_length; absent if none was", **_INTEGER}}
_RETRY = {"Retry-After": {"description": "seconds", **_INTEGER}}
_KINDS = {"metrics": "text/plain", "docs": "text/html", "page": "text/html"}

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "pre{overflow:auto}"
)


def document(routes: Sequence[Route], *, root_path: str = "") -> dict[str, Any]:
    """Return the OpenAPI document; `root_path` is the path under which a proxy serves the routes."""
    types = [kind for route in routes for kind in (route.takes, route.gives, route.error)]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {}
    for route, takes, gives, error in zip(routes, schemas[0::3], schemas[1::3], schemas[2::3], strict=True):
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, takes, gives=gives, error=error)
    return {
        "openapi": "3.1.0",
        "info": {"title": "potstill", "version": version("potstill"), "description": "Text classification in three protocols."},
        **({"servers": [{"url": root_path}]} if root_path else {}),
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
    }


def page(described: dict[str, Any]) -> bytes:
    """Return the document as an HTML page."""
    parts = []
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            shown = f"<pre>{html.escape(json.dumps(body, indent=1))}</pre>" if body else ""
            parts.append(
                f"<h2>{method.upper()} <code>{html.escape(path)}</code></h2><p>{html.escape(operation['summary'])}</p>{shown}"
            )
    schemas = html.escape(json.dumps(described["components"]["schemas"], indent=1))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>potstill: routes</title><style>{_STYLE}</style><h1>Routes</h1>"
        f'<p>OpenAPI document: <a href="openapi.json">openapi.json</a></p>'
        f"{''.join(parts)}<h2>Types</h2><pre>{schemas}</pre></html>"
    ).encode()


def _operation(route: Route, takes: Any, *, gives: Any, error: Any) -> dict[str, Any]:
    content = {_KINDS.get(route.does, "application/json"): {"schema": gives}}
    refusals = {
        status: {"description": why, "content": {"application/json": {"schema": error}}}
        | ({"headers": _RETRY} if status == "429" else {})
        for status, why in _refusals_of(route).items()
    }
    answer = {"description": "the answer", "content": content} | ({"headers": _CUT} if route.does == "infer" else {})
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": "_".join(re.findall(r"\w+", route.method.lower() + route.path)),
        "responses": {"200": answer, **refusals},
    }
    if route.takes is not None:
        operation["requestBody"] = {"required": route.does != "reload", "content": {"application/json": {"schema": takes}}}
    if "{" in route.path:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"{(\w+)}", route.path)
        ]
    if route.audience != "open":
        operation["security"] = [{"bearer": []}, {}]
    return operation


def _refusals_of(route: Route) -> dict[str, str]:
    if route.does == "infer":
        return REFUSALS
    known = {"404": "no such model"} if "{" in route.path else {}
    if route.does in ("ready", "live"):
        return {**known, "503": "shutting down, or no thread answers" if route.does == "ready" else "no thread answers"}
    if route.audience == "administrator":
        return {status: REFUSALS[status] for status in ("400", "401", "404")} | {"409": "bundle refused; the old one is served"}
    return {**known, "401": REFUSALS["401"]} if route.audience == "caller" else known
