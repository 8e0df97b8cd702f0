"""Opening a bundle in one of its forms. Imports only what that form needs, because the import is part of a cold start."""

from __future__ import annotations

from distill.bundle import Bundle
from distill.classifier import Classifier
from distill.errors import requires
from export.settings import Form


def open_form(bundle: Bundle, form: Form, threads: int | None = None) -> Classifier:
    """Return the PyTorch model or a graph of a bundle as a classifier; `threads` None: all processors of this process."""
    if form == "pytorch":
        with requires("running a PyTorch model"):
            from distill.models.eager import EagerClassifier
        return EagerClassifier(bundle, threads=threads)
    from export.runtime.sessions import OnnxClassifier

    return OnnxClassifier.open(bundle, precision=form, threads=threads)
