"""Candidates: the classifiers of a comparison, each a bundle in one form or a floor, opened on demand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from distill.bundle import Bundle
from distill.classifier import Classifier
from distill.data import Dataset
from distill.errors import BundleError
from distill.evaluation.floors import MajorityClassifier, TfidfClassifier
from distill.settings import Precision
from export.measure import openers
from export.measure.openers import open_form
from export.measure.protocol import Job
from export.measure.turns import Contender
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
        train: Texts that a floor is fitted on.
    """

    name: str
    precision: Precision
    runtime: Runtime
    open: Callable[[int | None], Classifier]
    size_bytes: int | None
    num_parameters: int
    bundle_path: Path | None = None
    form: Form | None = None
    train: Dataset | None = None

    @property
    def key(self) -> str:
        """Identifies it within a comparison, where one bundle can appear with two precisions."""
        return f"{self.name} {self.precision}"

    def contender(self, folder: Path, *, threads: int, name: str | None = None) -> Contender:
        """Return what is started to take turns.

        Args:
            folder: For the texts that a floor is fitted on.
            threads: That it may use.
            name: In turns; None is `key`.
        """
        data = None
        if self.train is not None:
            data = folder / "train.json"
            data.write_text(json.dumps({"train": self.train.texts, "train_labels": self.train.label_ids.tolist()}))
        return Contender(
            name or self.key,
            openers.__name__,
            Job(
                bundle=self.bundle_path or folder,
                folder=folder,
                threads=threads,
                labels=() if self.train is None else self.train.labels,
                data=data,
                options={"floor": self.name} if self.form is None else {"form": self.form},
            ),
        )


def bundle_candidate(bundle: Bundle, *, name: str, form: Form) -> Candidate:
    """Return a bundle in one form as a candidate.

    Raises:
        BundleError: The bundle has no such graph, or no PyTorch weights.
    """
    precision = None if form == "pytorch" else form
    return Candidate(
        name=name,
        precision=precision or "fp32",
        runtime="onnxruntime" if precision else "pytorch",
        open=partial(open_form, bundle, form),
        size_bytes=bundle.size_bytes(precision),  # refuses a form that the bundle does not have
        num_parameters=bundle.manifest.num_parameters,
        bundle_path=bundle.path,
        form=form,
    )


def best_form(bundle: Bundle) -> Form:
    """Return int8 if the bundle has that graph, else fp32, else PyTorch."""
    try:
        return bundle.best_precision()
    except BundleError:
        return "pytorch"


def floor_candidates(train: Dataset) -> list[Candidate]:
    """Return the floors: TF-IDF with logistic regression, and the majority class."""
    tfidf, majority = TfidfClassifier(train), MajorityClassifier(train)
    return [
        Candidate("tfidf", "fp32", "scikit-learn", lambda _: tfidf, None, tfidf.num_parameters, train=train),
        Candidate("majority", "fp32", "none", lambda _: majority, None, majority.num_parameters, train=train),
    ]
