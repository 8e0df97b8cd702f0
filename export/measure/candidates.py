"""Candidates: the classifiers of a comparison, each a bundle in one form or a floor, opened on demand."""

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
    """A classifier of a comparison.

    Attributes:
        name: Its name in tables.
        precision: Precision of its weights.
        runtime: The library that runs it.
        open: From a number of threads (None: all) to the loaded classifier.
        size_bytes: Size of the files needed to answer; None for a floor, which has no files.
        num_parameters: Number of weights.
        bundle_path: Its bundle; None for a floor.
        form: PyTorch or one of the graphs; None for a floor.
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
        """Identifies it within a comparison, where one bundle can appear with two precisions."""
        return f"{self.name} {self.precision}"


def bundle_candidate(bundle: Bundle, *, name: str, form: Form) -> Candidate:
    """Return a bundle in one form as a candidate.

    Raises:
        BundleError: The bundle has no such graph, or no PyTorch weights.
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
