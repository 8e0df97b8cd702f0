"""What is timed, opened in this process: loading torch in a new one takes seconds, and most tests of `fit` ask for no times."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from export.measure.protocol import _answer
from export.measure.turns import Contender
from export.measure.workers import Worker


class Here(Worker):
    """A contender that answers the requests of the protocol without a process of its own."""

    def __init__(self, contender: Contender) -> None:
        self.name, self.peer = contender.name, importlib.import_module(contender.module).open_peer(contender.job)
        self.about = {name: getattr(self.peer, name) for name in ("settings", "source", "size_bytes", "gives")}

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        return dict(json.loads(json.dumps(_answer(self.peer, json.loads(json.dumps(request))))))


@contextmanager
def opened_here(contender: Contender, *, timeout_s: float, cpu: int | None = None) -> Iterator[Worker]:
    """Take the place of `Contender.start`."""
    contender.job.folder.mkdir(parents=True, exist_ok=True)
    yield Here(contender)
