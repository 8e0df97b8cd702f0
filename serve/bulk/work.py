"""The values of bulk scoring: what a job is, what a finished part is, and the work on one part. Starts nothing."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

from distill.bundle import MANIFEST, Bundle
from distill.errors import BundleError, requires
from distill.machine import instruction_set
from distill.settings import Precision
from export.runtime.sessions import OnnxClassifier
from serve.bulk.inputs import InputFile
from serve.bulk.output import Committed, Output
from serve.bulk.parts import PartName, RawPart
from serve.bulk.scoring import score_part
from serve.bulk.settings import ScoreSettings

with requires("bulk scoring"):
    import pyarrow as pa

_VERSIONS = ("potstill", "onnxruntime", "tokenizers", "numpy", "pyarrow")


@dataclass(frozen=True)
class Job:
    """What one run has to do.

    Attributes:
        bundle: The bundle, opened and verified.
        precision: Which of its graphs.
        sources: The input files.
        schema: Schema of the kept columns.
        output: Where the parts are written.
        settings: What is read and written.
    """

    bundle: Bundle
    precision: Precision
    sources: tuple[InputFile, ...]
    schema: pa.Schema
    output: Output
    settings: ScoreSettings

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the result, as names and digests without paths; two runs of one job agree in it."""
        kept_out = {"workers", "ray", "price_per_hour", "precision"}
        return {
            "bundle": bundle_digest(self.bundle),
            "precision": self.precision,
            "labels": list(self.bundle.labels),
            "inputs": [[source.name, source.fingerprint] for source in self.sources],
            "settings": self.settings.model_dump(mode="json", exclude=kept_out),
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

    name: PartName
    part: Committed
    worker: str
    seconds: float

    @property
    def num_rows(self) -> int:
        """Rows of the part, bad ones included."""
        return self.part.num_rows + self.part.num_bad


class Runner(Protocol):
    """Distributes the parts of a job over workers."""

    def __call__(self, job: Job, *, done: frozenset[str]) -> Iterator[Finished]:
        """Score the parts that are not in `done`, and yield each when it is written, in any order."""
        ...


def make_part(raw: RawPart, *, job: Job, classifier: OnnxClassifier, worker: str) -> Finished:
    """Score a part and write it: the work of every worker, under every runner."""
    started = time.monotonic()
    name = job.sources[raw.name.source].name
    scored = score_part(raw, classifier=classifier, source_name=name, schema=job.schema, settings=job.settings)
    return Finished(raw.name, job.output.write_part(raw.name, scored), worker, time.monotonic() - started)


def bundle_digest(bundle: Bundle) -> str:
    """Return the sha256 of the bundle's manifest on disk, which holds the digests of all its files."""
    try:
        return hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest()
    except OSError as exc:
        raise BundleError(f"{bundle.path} cannot be read any more ({exc.strerror}); finished parts are kept") from exc
