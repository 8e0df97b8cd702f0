"""What is put side by side: a bundle run one way, or a floor. Each knows its size and opens itself on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill.bundle import Bundle
from distill.classifier import Classifier
from distill.data import Dataset
from distill.errors import BundleError, requires
from distill.evaluation.floors import MajorityClassifier, TfidfClassifier
from distill.settings import Precision
from export.settings import Form

Runtime = Literal["pytorch", "onnxruntime", "scikit-learn", "none"]


@dataclass(frozen=True)
class Candidate:
    """One row in the making.

    Attributes:
        name: Its name in tables.
        precision: Numeric form of its weights.
        runtime: What runs it.
        open: Number of threads (None: all) to a ready classifier.
        size_bytes: What must be shipped to answer; None where nothing is shipped as files.
        num_parameters: Number of weights.
        bundle_path: Its bundle; None for a floor.
        form: How the bundle is run; None for a floor.
    """

    name: str
    precision: Precision
    runtime: Runtime
    open: Callable[[int | None], Classifier]
    size_bytes: int | None
    num_parameters: int
    bundle_path: Path | None = None
    form: Form | None = None

    @property
    def key(self) -> str:
        """What tells it from the other candidates of one run: one bundle may stand there in two precisions."""
        return f"{self.name} {self.precision}"


def bundle_candidate(bundle: Bundle, *, name: str, form: Form) -> Candidate:
    """Return a bundle run in one form.

    Raises:
        BundleError: It has no such graph, or no PyTorch weights.
    """
    if form == "pytorch":
        bundle.weights()
        return Candidate(
            name=name,
            precision="fp32",
            runtime="pytorch",
            open=lambda threads: _open_eager(bundle, threads),
            size_bytes=bundle.size_bytes(None),
            num_parameters=bundle.manifest.num_parameters,
            bundle_path=bundle.path,
            form=form,
        )
    bundle.graph(form)
    return Candidate(
        name=name,
        precision=form,
        runtime="onnxruntime",
        open=lambda threads: _open_graph(bundle, form, threads),
        size_bytes=bundle.size_bytes(form),
        num_parameters=bundle.manifest.num_parameters,
        bundle_path=bundle.path,
        form=form,
    )


def best_form(bundle: Bundle) -> Form:
    """Return int8 where there is such a graph, else fp32, else PyTorch."""
    try:
        return bundle.best_precision()
    except BundleError:
        bundle.weights()
        return "pytorch"


def floor_candidates(train: Dataset) -> list[Candidate]:
    """Return the floors: TF-IDF with logistic regression, and the majority class."""
    tfidf, majority = TfidfClassifier(train), MajorityClassifier(train)
    return [
        Candidate("tfidf", "fp32", "scikit-learn", lambda _: tfidf, None, tfidf.num_parameters),
        Candidate("majority", "fp32", "none", lambda _: majority, None, majority.num_parameters),
    ]


def _open_eager(bundle: Bundle, threads: int | None) -> Classifier:
    with requires("running a PyTorch model"):
        from distill.models.eager import EagerClassifier
    return EagerClassifier(bundle, threads=threads)


def _open_graph(bundle: Bundle, precision: Precision, threads: int | None) -> Classifier:
    from export.runtime.sessions import OnnxClassifier

    return OnnxClassifier.open(bundle, precision=precision, threads=threads)
