"""An address of anyone's that answers `{"inputs": text}` with labels and scores, over one connection that stays open.

The form is that of the Hugging Face inference API and of text-embeddings-inference: a list of `{"label", "score"}`, or such
a list for each text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from export.measure.protocol import BATCH, Job, Logits, Peer


class Address:
    """An open connection; texts go out, scores come back."""

    def __init__(self, url: str, labels: Sequence[str], *, timeout_s: float = 60.0) -> None:
        """Note where to ask; the connection opens with the first question."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url} is not an address; wanted http://HOST:PORT/PATH")
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout_s)
        self._path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        self._labels = tuple(labels)

    def one(self, text: str) -> Logits:
        """Return the log of the scores of one text."""
        answer = self._ask(text)
        return self._row(answer[0] if isinstance(answer, list) and answer and isinstance(answer[0], list) else answer)

    def many(self, texts: Sequence[str]) -> Logits:
        """Return the log of the scores of many texts, asked 32 at a time."""
        batches = [list(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
        rows = [self._row(answer) for batch in batches for answer in self._ask(batch)]
        if len(rows) != len(texts):
            raise ValueError(f"it gave {len(rows)} answers to {len(texts)} texts")
        return np.array(rows)

    def _ask(self, inputs: str | list[str]) -> Any:
        body = json.dumps({"inputs": inputs}).encode()
        try:
            self._connection.request("POST", self._path, body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            said = response.read()
        except (OSError, HTTPException) as exc:
            raise ValueError(f"no answer from {self._connection.host}: {exc or type(exc).__name__}") from exc
        if response.status != 200:
            raise ValueError(f"it answered {response.status}: {said[:120].decode(errors='replace')}")
        try:
            return json.loads(said)
        except ValueError as exc:
            raise ValueError(f"it answered {said[:60]!r}, wanted JSON") from exc

    def _row(self, answer: Any) -> Logits:
        several = [answer] if isinstance(answer, dict) else answer
        try:
            scores = {each["label"]: float(each["score"]) for each in several}
        except (TypeError, KeyError, ValueError) as exc:
            raise ValueError(f"it answered {json.dumps(answer)[:80]}, wanted a list of label and score") from exc
        if not scores.keys() <= set(self._labels):
            raise ValueError(f"it gave the labels {', '.join(sorted(scores))}, wanted {', '.join(self._labels)}")
        rest = max(1e-12, 1 - sum(scores.values()))
        return np.log([max(scores.get(label, rest), 1e-12) for label in self._labels])


def open_peer(job: Job) -> Peer:
    """Ask once, so that what is wrong is said at the start."""
    address = Address(job.options["url"], job.labels)
    address.one("a text")
    return Peer(one=address.one, many=address.many, settings={"batch": BATCH, "connections": 1}, source="given with --url")
