"""`potstill serve`: from bundles and settings to a server that runs."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from distill.errors import SettingsError
from serve.settings import ServeSettings, named_model

if TYPE_CHECKING:
    from serve.answering.models import ModelSource


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
    from serve.answering.models import ModelSource
    from serve.http.app import create_app
    from serve.http.connection import run

    # Batches run side by side already; the tokenizer's own threads would only take the processor from each other.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # It warns of every line that is not HTTP; anybody could fill the log.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    named = [named_model(each) for each in model]
    sources = [ModelSource.of_bundle(name, path, settings.limits_with(options)) for name, path, options in named]
    if bundle is not None:
        sources.insert(0, _main_source(bundle, settings))
    elif settings.fallback is not None:
        raise SettingsError("--fallback stands behind a student; name one: potstill serve STUDENT --fallback TEACHER")
    if not sources:
        raise SettingsError("there is no bundle to serve; name one: potstill serve FOLDER, or --model NAME=FOLDER")
    sys.exit(run(create_app(sources, settings), settings))


def _main_source(bundle: Path, settings: ServeSettings) -> ModelSource:
    from serve.answering.fallback import cascade_source
    from serve.answering.models import ModelSource

    name, limits = bundle.absolute().name, settings.limits_with({})
    if settings.fallback is None:
        return ModelSource.of_bundle(name, bundle, limits)
    return cascade_source(name, bundle, settings.fallback, limits, min_confidence=settings.min_confidence)
