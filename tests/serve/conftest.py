"""Real servers on real sockets, over bundles that the real pipeline made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Running
from waiting import wait_until

from distill.bundle import Bundle
from serve.answering.models import ModelSource
from serve.http.app import App, create_app
from serve.http.server import Server
from serve.settings import ServeSettings


@pytest.fixture
def start_server() -> Iterator[Callable[..., Running]]:
    """Return a function that serves an application; all of them end with the test."""
    running = []

    def start(app: App, settings: ServeSettings, make: Callable[[App, ServeSettings], Server] = Server) -> Running:
        server = make(app, settings)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        running.append(Running(app, server, thread))
        return running[-1]

    yield start
    for each in running:
        each.stop()


@pytest.fixture
def serve_sources(start_server: Callable[..., Running]) -> Callable[..., Running]:
    """Return a function that serves sources with settings."""

    def start(sources: list[ModelSource], settings: ServeSettings, environment: dict[str, str] | None = None) -> Running:
        return start_server(create_app(sources, settings, environment=environment or {}), settings)

    return start


@pytest.fixture
def serve_bundle(serve_sources: Callable[..., Running], tiny_student: Bundle) -> Callable[..., Running]:
    """Return a function from settings to a server of the tiny student, named `tiny`."""

    def start(path: Path = tiny_student.path, *, environment: dict[str, str] | None = None, **settings: Any) -> Running:
        made = ServeSettings(port=0, drain_s=0, **settings)
        return serve_sources([ModelSource.of_bundle("tiny", path, made.limits_with({}))], made, environment)

    return start


@pytest.fixture
def server(serve_bundle: Callable[..., Running]) -> Running:
    """Return a server of the tiny student with the defaults."""
    return serve_bundle()
