"""The server behind Ray Serve: replicas on a cluster, each the ASGI application that `potstill serve` runs.

Ray Serve accepts connections, distributes requests and starts replicas; limits, protocols and batching are those of the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.errors import SettingsError, requires
from serve.answering.models import ModelSource
from serve.http.app import App, create_app
from serve.settings import ServeSettings


def build(arguments: Mapping[str, Any]) -> Any:
    """Return a Ray Serve application: `serve run serve.ray_serve:build bundle=student num_replicas=4`.

    Args:
        arguments: `bundle`, a folder that every node can read; `num_replicas` (default 1); `num_cpus` per replica (default 1);
            everything else is a setting of the server.

    Raises:
        SettingsError: No bundle is given, or a setting is unknown or out of range.
    """
    with requires("serving on a Ray cluster"):
        from ray import serve

    if "bundle" not in arguments:
        raise SettingsError("no bundle to serve; name one: serve run serve.ray_serve:build bundle=FOLDER")
    given = {"num_replicas": 1, "num_cpus": 1, **arguments}
    bundle, replicas, cpus = Path(given.pop("bundle")), int(given.pop("num_replicas")), int(given.pop("num_cpus"))
    # A replica uses as many threads as Ray reserves processors for it.
    settings = ServeSettings(**{"threads": max(1, cpus), **given})

    def app() -> App:
        return create_app([ModelSource.of_bundle(bundle.resolve().name, bundle, settings.limits_with({}))], settings)

    options = {"num_replicas": replicas, "ray_actor_options": {"num_cpus": cpus}, "max_ongoing_requests": settings.max_queue}
    return serve.deployment(serve.ingress(app)(), name="potstill").options(**options).bind()
