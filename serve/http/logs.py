"""The log of requests: one line each, which no client can forge, as text or as a JSON object."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from distill.classifier import TextInput
from serve.http.call import Call
from serve.settings import LogSettings

requests_log = logging.getLogger("serve.requests")

MAX_PATH_CHARS = 256


class RequestLog:
    """Writes a line per request; what a client sent is escaped."""

    def __init__(self, settings: LogSettings) -> None:
        self._as_json = settings.log_format == "json"

    def write(self, call: Call, status: int, seconds: float) -> None:
        """Log one answered request."""
        path, client, milliseconds = escaped(call.path[:MAX_PATH_CHARS]), call.client or "-", seconds * 1000
        if self._as_json:
            values = {"id": call.id, "client": client, "method": call.method, "path": call.path[:MAX_PATH_CHARS]}
            model = {"model": call.model.name} if call.model else {}
            requests_log.info("%s", json.dumps({**values, **model, "status": status, "ms": round(milliseconds, 1)}))
        else:
            requests_log.info("%s %s %s %s %.1fms %s", call.id, client, call.method, path, milliseconds, status)

    def write_texts(self, call: Call, texts: Sequence[TextInput]) -> None:
        """Log the texts of a request."""
        if self._as_json:
            requests_log.info("%s", json.dumps({"id": call.id, "texts": list(texts)}))
        else:
            requests_log.info("%s %s", call.id, texts)


def escaped(text: str) -> str:
    """Return a text as one word of printable ASCII: line ends, spaces and control characters are escaped."""
    return text.encode("unicode_escape").decode("ascii").replace(" ", "\\x20")
