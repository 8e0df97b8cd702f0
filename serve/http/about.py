"""What the GET routes answer: health, the server and its models, the documentation, the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from serve.answering.models import Model
from serve.http import openapi
from serve.http.protocols.base import Reply
from serve.http.routes import ROUTES

PAGE = Path(__file__).parents[1] / "page" / "index.html"
METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_HTML = b"text/html; charset=utf-8"
_SAME_ORIGIN_ONLY = (
    (
        b"content-security-policy",
        b"default-src 'none'; connect-src 'self'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
)


def json_reply(values: Mapping[str, Any]) -> Reply:
    """Return values as a JSON reply with status 200."""
    return Reply(200, json.dumps(values).encode())


def fixed_replies(root_path: str) -> dict[str, Reply]:
    """Return the replies that never change, by what their route does."""
    document = openapi.document(ROUTES, root_path=root_path)
    return {
        "server_metadata": json_reply(
            {"name": "potstill", "version": version("potstill"), "extensions": ["binary_tensor_data"]}
        ),
        "openapi": json_reply(document),
        "docs": Reply(200, openapi.page(document), _HTML, _SAME_ORIGIN_ONLY),
        "page": Reply(200, PAGE.read_bytes(), _HTML, _SAME_ORIGIN_ONLY),
    }


def info(models: Mapping[str, Model], default: Model) -> dict[str, Any]:
    """Return `/info`: the default model in the fields of text-embeddings-inference, and the card of every model."""
    labels = default.engine.classifier.labels
    return {
        "model_id": default.name,
        "model_type": {
            "classifier": {
                "id2label": dict(enumerate(labels)),
                "label2id": {label: index for index, label in enumerate(labels)},
            }
        },
        "max_input_length": default.engine.max_length,
        "max_client_batch_size": default.limits.max_texts,
        "version": version("potstill"),
        "models": {
            name: {**model.engine.about, **model.engine.live(), "version": model.engine.version}
            for name, model in models.items()
        },
    }
