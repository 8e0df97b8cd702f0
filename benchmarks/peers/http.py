"""An address of anyone's that answers `{"inputs": text}` with labels and scores, over one connection that stays open.

The form is that of the Hugging Face inference API and of text-embeddings-inference: a list of `{"label", "score"}`, or such
a list for each text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from export.measure.protocol import BATCH, Job, Logits, Peer

TIMEOUT_S = 60.0
LEAST_SCORE = 1e-12


def open_peer(job: Job) -> Peer:
    """Ask once, so that what is wrong is said at the start."""
    url = job.options["url"]
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{url} is not an address; wanted http://HOST:PORT/PATH")
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=TIMEOUT_S)
    path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"

    def one(text: str) -> Logits:
        answer = _asked(connection, path, text)
        nested = isinstance(answer, list) and answer and isinstance(answer[0], list)
        return _row(answer[0] if nested else answer, job.labels)

    def many(texts: Sequence[str]) -> Logits:
        rows = [
            _row(answer, job.labels)
            for start in range(0, len(texts), BATCH)
            for answer in _asked(connection, path, list(texts[start : start + BATCH]))
        ]
        if len(rows) != len(texts):
            raise ValueError(f"it gave {len(rows)} answers to {len(texts)} texts")
        return np.array(rows)

    one("a text")
    return Peer(one, many, {"batch": BATCH, "connections": 1}, "given with --url")


def _asked(connection: HTTPConnection, path: str, inputs: str | list[str]) -> Any:
    """Return what is answered to one text, or to a list of them."""
    try:
        connection.request("POST", path, json.dumps({"inputs": inputs}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        said = response.read()
    except (OSError, HTTPException) as exc:
        raise ValueError(f"no answer from {connection.host}: {exc or type(exc).__name__}") from exc
    if response.status == 200:
        with suppress(ValueError):
            return json.loads(said)
    raise ValueError(f"it answered {response.status} {said[:100]!r}, wanted 200 and JSON")


def _row(answer: Any, labels: Sequence[str]) -> Logits:
    """Return the log of the scores of a text in the order of the labels; one that was left out has what is missing to 1."""
    try:
        scores = {each["label"]: float(each["score"]) for each in ([answer] if isinstance(answer, dict) else answer)}
    except (TypeError, KeyError, ValueError) as exc:
        raise ValueError(f"it answered {json.dumps(answer)[:80]}, wanted a list of label and score") from exc
    if not scores.keys() <= set(labels):
        raise ValueError(f"it gave the labels {', '.join(sorted(scores))}, wanted {', '.join(labels)}")
    rest = 1 - sum(scores.values())
    return np.log([max(scores.get(label, rest), LEAST_SCORE) for label in labels])
