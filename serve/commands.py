"""The flags of `potstill serve`, and how they become a running server."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from distill.cli.flags import GROUPS, Flat, with_headings
from distill.errors import SettingsError
from serve.settings import ServeSettings, named_model


@with_headings
def serve(
    bundle: Annotated[
        Path | None, Parameter(help="a bundle with an ONNX graph; its folder name is the name of the model")
    ] = None,
    /,
    *,
    model: Annotated[
        tuple[str, ...],
        Parameter(
            group=GROUPS["Running"], help="more bundles: NAME=FOLDER, or NAME=FOLDER,LIMIT=VALUE,… with their own limits"
        ),
    ] = (),
    settings: Annotated[ServeSettings, Flat] = ServeSettings(),
) -> None:
    """Answer over HTTP until SIGTERM; SIGHUP reloads the bundles."""
    from serve.answering.fallback import cascade_source
    from serve.answering.models import ModelSource
    from serve.http.app import create_app
    from serve.http.server import return_large_blocks, run

    # Batches run in parallel; more threads in the tokenizer would only compete with them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return_large_blocks()
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # uvicorn warns about every line that is not HTTP, which lets any client fill the log.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    sources = [
        ModelSource.of_bundle(name, path, settings.limits_with(options), settings)
        for name, path, options in map(named_model, model)
    ]
    if bundle is not None:
        name, limits = bundle.absolute().name, settings.limits_with({})
        sources.insert(
            0,
            ModelSource.of_bundle(name, bundle, limits, settings)
            if settings.fallback is None
            else cascade_source(
                name, bundle, settings.fallback, limits, min_confidence=settings.min_confidence, trust=settings
            ),
        )
    elif settings.fallback is not None:
        raise SettingsError("--fallback needs a student: potstill serve STUDENT --fallback TEACHER")
    elif not sources:
        raise SettingsError("there is no bundle to serve; use potstill serve FOLDER, or --model NAME=FOLDER")
    sys.exit(run(create_app(sources, settings), settings))
