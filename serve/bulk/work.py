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
    """What is to be done.

    Attributes:
        bundle: Opened and verified.
        precision: Which graph.
        sources: The input files.
        schema: Of the kept columns.
        output: Where the parts go.
        settings: What is read and written.
    """

    bundle: Bundle
    precision: Precision
    sources: tuple[InputFile, ...]
    schema: pa.Schema
    output: Output
    settings: ScoreSettings

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for two runs to make one result; no paths, only names and digests."""
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
        name: Which.
        part: What it holds.
        worker: Who made it.
        seconds: How long that took.
    """

    name: PartName
    part: Committed
    worker: str
    seconds: float


def make_part(raw: RawPart, *, job: Job, classifier: OnnxClassifier, worker: str) -> Finished:
    """Label a part and write it: what every worker does, wherever it is."""
    started = time.monotonic()
    name = job.sources[raw.name.source].name
    scored = score_part(
        raw,
        classifier=classifier,
        source_name=name,
        schema=job.schema,
        settings=job.settings,
    )
    return Finished(raw.name, job.output.write_part(scored), worker, time.monotonic() - started)


class Runner(Protocol):
    """Who does the work."""

    def __call__(self, job: Job, *, done: frozenset[str]) -> Iterator[Finished]:
        """Make the parts that are not done and yield each when it is written, in any order."""
        ...


def bundle_digest(bundle: Bundle) -> str:
    """Return the sha256 of the bundle's manifest as it stands, which holds those of all its files."""
    try:
        return hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest()
    except OSError as exc:
        raise BundleError(f"{bundle.path} is gone ({exc.strerror}); finished parts are kept") from exc
