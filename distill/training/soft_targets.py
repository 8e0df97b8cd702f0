"""Teacher logits, computed once and kept by content.

A cache keyed by row number goes stale when rows move; this one is keyed by the text itself, in a file per teacher
(weights, config, tokenizer and max_length) and numeric form. Logits only. Appending is crash-safe: each record carries
a checksum, and a record that was cut by a kill is not read.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from distill.classifier import Classifier, Ensemble, mean_logits
from distill.errors import TeacherError
from distill.labels import Logits
from distill.progress import Reporter, SilentReporter
from distill.storage import cache_dir, writing_to
from distill.training.devices import Compute, computing_in
from distill.training.models import TorchClassifier

KEY_BYTES = 16
CHUNK_TEXTS = 1024


@runtime_checkable
class Digested(Protocol):
    """A classifier whose answers can be kept: `digest()` changes when they would."""

    def digest(self) -> str:
        """Return a name for everything that decides the logits; part of a file's name."""
        ...


@dataclass(frozen=True)
class SoftTargets:
    """Teacher logits of a list of texts, and how many of them were already known."""

    logits: Logits
    num_cached: int


def teacher_logits(
    teacher: Classifier,
    texts: Sequence[str],
    *,
    compute: Compute = "no",
    folder: Path | None = None,
    reporter: Reporter | None = None,
) -> SoftTargets:
    """Return the teacher's logits of each text, computing only those that no earlier run has computed.

    Args:
        teacher: Who is asked. The answers of each member of an ensemble are kept apart, so that they serve alone too; a
            classifier without a `digest()` is asked each time.
        texts: What it is asked; repeated texts are computed once.
        compute: Numbers it computes in; answers in others are kept apart.
        folder: Where the cache files stand; None is `soft_targets` in the user's cache folder.
        reporter: Told of progress.
    """
    reporter = reporter or SilentReporter()
    if isinstance(teacher, Ensemble):
        parts = [teacher_logits(member, texts, compute=compute, folder=folder, reporter=reporter) for member in teacher.members]
        return SoftTargets(mean_logits([part.logits for part in parts]), min(part.num_cached for part in parts))
    if not isinstance(teacher, Digested):
        return SoftTargets(_ask(teacher, texts, compute, reporter), 0)
    name = teacher.digest() if compute == "no" else f"{teacher.digest()}-{compute}"
    cache = _LogitFile((folder or cache_dir() / "soft_targets") / f"{name}.logits", len(teacher.labels))
    known = cache.read()
    keys = [_key_of(text) for text in texts]
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if missing:
        computed = _ask(teacher, list(missing.values()), compute, reporter)
        fresh = dict(zip(missing, computed, strict=True))
        cache.append(fresh)
        known |= fresh
    logits = np.stack([known[key] for key in keys]) if keys else np.empty((0, len(teacher.labels)), np.float32)
    return SoftTargets(logits=logits, num_cached=sum(key not in missing for key in keys))


def _ask(teacher: Classifier, texts: Sequence[str], compute: Compute, reporter: Reporter) -> Logits:
    if isinstance(teacher, TorchClassifier):
        rows = teacher.tokenizer.encode(texts)
        with reporter.task("teacher logits", len(rows)) as advance, computing_in(compute, teacher.model.device):
            return teacher.logits_of_rows(rows, advance)
    answers = [np.empty((0, len(teacher.labels)), np.float32)]
    with reporter.task("teacher logits", len(texts)) as advance:
        for start in range(0, len(texts), CHUNK_TEXTS):
            chunk = texts[start : start + CHUNK_TEXTS]
            answers.append(_require_shape(teacher.predict_logits(chunk), chunk, teacher))
            advance(len(chunk))
    return np.concatenate(answers)


def _require_shape(logits: Logits, texts: Sequence[str], teacher: Classifier) -> Logits:
    wanted = (len(texts), len(teacher.labels))
    if np.shape(logits) != wanted or not np.isfinite(logits).all():
        raise TeacherError(
            f"the teacher gave logits of shape {np.shape(logits)} for {len(texts)} texts and {len(teacher.labels)} labels; "
            f"wanted finite numbers of shape {wanted}"
        )
    return np.asarray(logits, dtype=np.float32)


def _key_of(text: str) -> bytes:
    # surrogatepass: the tokenizer refuses a lone surrogate, and says which text has it
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:KEY_BYTES]


class _LogitFile:
    """Fixed-size records of (key, logits, checksum), only ever appended to."""

    def __init__(self, path: Path, num_labels: int) -> None:
        self._path = path
        self._record = np.dtype([("key", f"V{KEY_BYTES}"), ("logits", "<f4", (num_labels,)), ("checksum", "<u4")])

    def read(self) -> dict[bytes, np.ndarray]:
        if not self._path.is_file():
            return {}
        content = self._path.read_bytes()  # not mapped: another process may be appending, or cutting a torn record
        usable = len(content) // self._record.itemsize
        records = np.frombuffer(content[: usable * self._record.itemsize], dtype=self._record)
        return {
            bytes(record["key"]): np.array(record["logits"])
            for record in records
            if _checksum(bytes(record["key"]), record["logits"]) == record["checksum"]
        }

    def append(self, fresh: dict[bytes, np.ndarray]) -> None:
        records = np.empty(len(fresh), dtype=self._record)
        for index, (key, logits) in enumerate(fresh.items()):
            records[index] = (key, logits, _checksum(key, logits))
        with writing_to(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                # A record that an earlier kill cut short would shift all that follow: start at a whole one.
                if torn := file.tell() % self._record.itemsize:
                    file.truncate(file.tell() - torn)
                file.write(records.tobytes())
                file.flush()
                os.fsync(file.fileno())


def _checksum(key: bytes, logits: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(logits, dtype="<f4").tobytes(), zlib.crc32(key))
