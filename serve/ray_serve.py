"""The server behind Ray Serve: replicas on a cluster, each the ASGI application that `potstill serve` runs.

Ray Serve accepts connections, distributes requests and starts replicas; limits, protocols and batching are those of the server.
All replicas run the bundle that was there when the application was built: one that finds another does not start. A new
bundle is deployed, by `serve run` again, because a reload would reach one replica of many.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.errors import SettingsError, requires
from export.trust.pins import open_trusted
from serve.answering.models import ModelSource
from serve.http.app import App, create_app
from serve.settings import ServeSettings


def build(arguments: Mapping[str, Any]) -> Any:
    """Return a Ray Serve application: `serve run serve.ray_serve:build bundle=student num_replicas=4`.

    Args:
        arguments: `bundle`, a folder that every node can read; `num_replicas` (default 1); `num_cpus` per replica (default 1);
            everything else is a setting of the server.

    Raises:
        SettingsError: No bundle is given, or a setting is unknown, out of range or for the admin routes.
        BundleError: The bundle is damaged, or not what `require_digest` or `require_signature` demand.
    """
    with requires("serving on a Ray cluster"):
        from ray import serve

    if "bundle" not in arguments:
        raise SettingsError("no bundle to serve; name one: serve run serve.ray_serve:build bundle=FOLDER")
    given = {"num_replicas": 1, "num_cpus": 1, **arguments}
    bundle, replicas, cpus = Path(given.pop("bundle")), int(given.pop("num_replicas")), int(given.pop("num_cpus"))
    # A replica uses as many threads as Ray reserves processors for it.
    settings = ServeSettings(**{"threads": max(1, cpus), **given})

    if settings.admin_token_file is not None:
        raise SettingsError("a reload would reach one replica of many; leave admin_token_file out, and run `serve run` again")
    pinned = settings.model_copy(update={"require_digest": (open_trusted(bundle, settings).digest,)})

    def app() -> App:
        environment = {name: value for name, value in os.environ.items() if name != "POTSTILL_ADMIN_TOKENS"}
        source = ModelSource.of_bundle(bundle.resolve().name, bundle, pinned.limits_with({}), pinned)
        return create_app([source], pinned, environment=environment)

    options = {"num_replicas": replicas, "ray_actor_options": {"num_cpus": cpus}, "max_ongoing_requests": settings.max_queue}
    return serve.deployment(serve.ingress(app)(), name="potstill").options(**options).bind()
