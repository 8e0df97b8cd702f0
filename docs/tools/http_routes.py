"""The reference of the HTTP routes, from the OpenAPI document that the server itself gives out."""

from __future__ import annotations

from typing import Any

from docs.tools.markdown import code, plain, table
from serve.http.openapi import REFUSALS, document
from serve.http.routes import ROUTES


def http_page() -> str:
    """Return the page of the routes: what each takes, gives and answers when it refuses."""
    described = document(ROUTES)
    operations = [(path, verb, operation) for path, verbs in described["paths"].items() for verb, operation in verbs.items()]
    rows = [[code(f"{verb.upper()} {path}"), plain(operation["summary"])] for path, verb, operation in operations]
    parts = [
        "# HTTP",
        "The routes of `potstill serve`, from the OpenAPI document that it serves at `/openapi.json`. "
        "[Serve](../deploy/serve.md) says how the server is run and limited.",
        table(["route", "what it does"], rows),
        *(_operation(path, verb, operation) for path, verb, operation in operations),
        "## Refusals\n\n" + table(["status", "reason"], [[code(status), plain(why)] for status, why in REFUSALS.items()]),
        "## Types",
        *(_schema(name, schema) for name, schema in described["components"]["schemas"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def _operation(path: str, verb: str, operation: dict[str, Any]) -> str:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    [given] = [content["schema"] for content in operation["responses"]["200"]["content"].values()]
    statuses = [code(status) for status in operation["responses"] if status != "200"]
    lines = [f"- Takes {_shape(body)}"] if body else []
    lines.append(f"- Gives {_shape(given)}")
    if statuses:
        lines.append(f"- Refuses with {', '.join(statuses)}: see [refusals](#refusals)")
    if "security" in operation:
        lines.append("- Asks for the bearer token, if the server has one")
    heading = f"{verb.upper()} {path}".replace("{", "\\{")
    return f"## {heading}\n\n{plain(operation['summary'])}.\n\n" + "\n".join(lines)


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = []
    for key, value in schema.get("properties", {}).items():
        default = "required" if key in required else code(str(value.get("default", "")))
        rows.append([code(key), _shape(value), default, plain(_meaning(value))])
    shown = "\n\n" + table(["key", "type", "default", "meaning"], rows) if rows else ""
    return f"### {name}\n\n{plain(schema.get('description', ''))}{shown}"


def _meaning(value: dict[str, Any]) -> str:
    described = [each["description"] for each in (value, *value.get("anyOf", [])) if "description" in each]
    return str(described[0]) if described else ""


def _shape(schema: dict[str, Any]) -> str:
    """Return the type of a JSON value in words, with links to the named types."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_shape(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(code(repr(each)) for each in schema["enum"])
    if schema.get("type") == "array":
        return f"list of ({_shape(schema['items'])})" if "items" in schema else "list"
    return code(schema.get("type", "any value"))
