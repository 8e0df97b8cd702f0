"""`potstill serve`: from bundles and settings to a server that runs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from distill.errors import SettingsError
from serve.settings import ServeSettings, named_model


def serve(
    bundle: Annotated[Path | None, Parameter(help="a bundle with a graph; named after its folder")] = None,
    /,
    *,
    model: Annotated[
        tuple[str, ...], Parameter(help="further bundles: NAME=FOLDER, or NAME=FOLDER,LIMIT=VALUE,… with limits of its own")
    ] = (),
    settings: Annotated[ServeSettings, Parameter(name="*")] = ServeSettings(),
) -> None:
    """Answer over HTTP as Hugging Face, text-embeddings-inference and the Open Inference Protocol do.

    SIGHUP reads the bundles again, SIGTERM ends in order.

    Example: potstill serve student
    """
    from serve.app import create_app
    from serve.models import Source
    from serve.server import run

    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # It warns of every line that is not HTTP; anybody could fill the log.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    named = [named_model(each) for each in model]
    sources = [Source.of_bundle(name, path, settings.limits_with(options)) for name, path, options in named]
    if bundle is not None:
        sources.insert(0, Source.of_bundle(bundle.absolute().name, bundle, settings.limits_with({})))
    if not sources:
        raise SettingsError("there is no bundle to serve; name one: potstill serve FOLDER, or --model NAME=FOLDER")
    sys.exit(run(create_app(sources, settings), settings))
