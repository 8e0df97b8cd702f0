"""The values of bulk scoring: what a job is, what a finished part is, and the work on one part. Starts nothing."""

from __future__ import annotations

import hashlib
import platform
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from distill.bundle import MANIFEST, Bundle
from distill.errors import BundleError, requires
from distill.machine import instruction_set
from distill.settings import Precision
from export.runtime.sessions import OnnxClassifier
from export.trust.pins import TrustSettings
from serve.bulk.inputs import InputFile
from serve.bulk.output import Output
from serve.bulk.parts import RawPart
from serve.bulk.scoring import ScoredPart, score_part
from serve.bulk.settings import InputSettings, ScoreSettings

with requires("bulk scoring"):
    import pyarrow as pa

# Settings that do not decide the result; the precision is in the identity by its own name.
_NO_INFLUENCE = {"workers", "ray", "price_per_hour", "precision", *InputSettings.model_fields, *TrustSettings.model_fields}

_VERSIONS = ("potstill", "onnxruntime", "tokenizers", "numpy", "pyarrow")


@dataclass(frozen=True)
class Job:
    """What one run has to do.

    Attributes:
        bundle: The bundle, opened and verified.
        precision: Which of its graphs.
        sources: The input files to read.
        inputs: Name and fingerprint of every input file, those of earlier runs included, by number.
        schema: Schema of the kept columns.
        output: Where the parts are written.
        settings: What is read and written.
    """

    bundle: Bundle
    precision: Precision
    sources: tuple[InputFile, ...]
    inputs: tuple[tuple[str, str], ...]
    schema: pa.Schema
    output: Output
    settings: ScoreSettings

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the result, as names and digests without paths; two runs of one job agree in it."""
        return {
            "bundle": self.bundle.digest,
            "precision": self.precision,
            "labels": list(self.bundle.labels),
            "inputs": [list(each) for each in self.inputs],
            "settings": self.settings.model_dump(mode="json", exclude=_NO_INFLUENCE),
            "columns": [[field.name, str(field.type)] for field in self.schema],
            "versions": {name: version(name) for name in _VERSIONS},
            "processor": f"{platform.machine()} {instruction_set()}",
        }


@dataclass(frozen=True)
class Finished:
    """A part that a worker has written.

    Attributes:
        name: Which part.
        part: Its counts and files.
        worker: Name of the worker.
        seconds: How long the worker took.
    """

    name: str
    part: ScoredPart
    worker: str
    seconds: float

    @property
    def num_rows(self) -> int:
        """Rows of the part, bad ones included."""
        return self.part.num_rows + self.part.num_bad


Runner = Callable[[Job, frozenset[str]], Iterator[Finished]]
"""Distributes the parts of a job over workers: scores those that are not in the set of finished ones, and yields each when it
is written, in any order."""


def make_part(raw: RawPart, *, job: Job, classifier: OnnxClassifier, worker: str | None = None) -> Finished:
    """Score a part and write it: the work of every worker, under every runner; `worker` is by default the thread's name."""
    started = time.monotonic()
    part, contents = score_part(raw, classifier=classifier, schema=job.schema, settings=job.settings)
    for path, content in contents.items():
        job.output.write(path, content)
    return Finished(raw.name, part, worker or threading.current_thread().name, time.monotonic() - started)


def bundle_digest(bundle: Bundle) -> str:
    """Return the sha256 of the bundle's manifest on disk, which holds the digests of all its files."""
    try:
        return hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest()
    except OSError as exc:
        raise BundleError(f"{bundle.path} cannot be read any more ({exc.strerror}); finished parts are kept") from exc
