"""Logits that were computed before: recorded in the data, or written by `potstill score --logits`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from filelock import FileLock

from distill.classifier import Classifier, digest_of
from distill.errors import DatasetError, SettingsError, requires
from distill.labels import Logits, ProblemType
from distill.storage import sha256_of, writing_to
from distill.teachers.answer_store import AnswerStore, keys_of, soft_targets_dir
from distill.texts import TextInput, joined, of_parts

SCORE_JOB = "_manifest.json"
"""The file in an output folder of `potstill score` that describes it."""

_HINT = "every training and validation text needs them in its file, and --augment needs a teacher that can compute them"
_SCORE_SCHEMA = 1
_CHUNK_TEXTS = 4096


@dataclass(frozen=True)
class PartlyAnswered:
    """A teacher whose logits of some texts were computed elsewhere.

    Attributes:
        teacher: Computes the logits of all other texts.
        answers: The logits computed elsewhere, by text.
        answers_digest: Digest of the table they come from.
    """

    teacher: Classifier
    answers: AnswerStore
    answers_digest: str

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the order of the logits."""
        return self.teacher.labels

    @property
    def problem_type(self) -> ProblemType:
        """How logits become probabilities."""
        return self.teacher.problem_type

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return the teacher's own logits, shape (len(texts), len(labels))."""
        return self.teacher.predict_logits(texts)

    def digest(self) -> str:
        """Return a digest of the teacher and of the table."""
        return hashlib.sha256(f"{digest_of(self.teacher)} {self.answers_digest}".encode()).hexdigest()


class RecordedLogits:
    """A classifier that returns recorded logits; it has none for other texts."""

    def __init__(
        self,
        answers: Iterable[tuple[TextInput, Sequence[float]]],
        *,
        labels: tuple[str, ...],
        folder: Path,
        problem_type: ProblemType = "single_label_classification",
        hint: str = _HINT,
    ) -> None:
        """Read texts and their logits, once and in small batches.

        Args:
            answers: Each text with one finite number per label, in the order of `labels`; the first row of a repeated text
                is used.
            labels: Label names, in order.
            folder: Folder of the file that the logits are saved in; the caller removes it.
            problem_type: How the logits become probabilities.
            hint: What to do about a text without logits, for the message.

        Raises:
            DatasetError: The number of logits of a text differs from the number of labels, or a logit is not finite.
        """
        self.labels = labels
        self.problem_type: ProblemType = problem_type
        self._hint = hint
        self.answers = AnswerStore(folder / "recorded", len(labels))
        source = iter(answers)
        while chunk := tuple(islice(source, _CHUNK_TEXTS)):
            for text, logits in chunk:
                if len(logits) != len(labels) or not np.isfinite(logits).all():
                    raise DatasetError(
                        f"the text {joined(text)[:60]!r} has the teacher logits {list(logits)}; wanted {len(labels)} finite "
                        f"numbers, for {', '.join(labels)} in this order"
                    )
            texts, columns = zip(*chunk, strict=True)
            self.answers.append(keys_of(texts), np.array(columns, dtype=np.float32))

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return the recorded logits, shape (len(texts), len(labels)), float32.

        Raises:
            DatasetError: One of the texts is not recorded.
        """
        found, logits = self.answers.find(keys_of(texts))
        if not found.all():
            raise DatasetError(
                f"no teacher logits are recorded for the text {joined(texts[int(np.argmin(found))])[:60]!r}; {self._hint}"
            )
        return logits

    def digest(self) -> str:
        """Return the sha256 of the recorded texts and logits, the labels and the problem type."""
        return hashlib.sha256(json.dumps([self.labels, self.problem_type, self.answers.digest()]).encode()).hexdigest()


@dataclass(frozen=True)
class ScoredTable:
    """An output folder of `potstill score --logits`.

    Attributes:
        folder: The folder.
        digest: Digest of its manifest, which contains those of all files.
        bundle: Digest of the scoring bundle's manifest.
        precision: Precision of the graph.
        labels: Label names, in the order of the logits.
        columns: Names of the columns of texts, one or, of pairs, two, and of logits, the last.
        parts: Name, size in bytes and sha256 of each Parquet file.
        num_rows: Number of rows in all files.
    """

    folder: Path
    digest: str
    bundle: str
    precision: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    parts: tuple[tuple[str, int, str], ...]
    num_rows: int

    @classmethod
    def open(cls, folder: Path) -> ScoredTable:
        """Read the manifest of a folder.

        Raises:
            DatasetError: It is not an output folder of `potstill score`, or the job is not finished.
            SettingsError: It contains no logits or no texts.
        """
        try:
            content = (folder / SCORE_JOB).read_bytes()
            manifest = json.loads(content)
            job, settings, schema = manifest["job"], manifest["job"]["settings"], manifest["schema"]
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise DatasetError(
                f"{folder} has no {SCORE_JOB} of `potstill score`; name the --output of that command", path=folder
            ) from exc
        if schema != _SCORE_SCHEMA:
            raise DatasetError(
                f"{folder} has schema {schema!r}, this version reads {_SCORE_SCHEMA}; score again with this version",
                path=folder,
            )
        if not manifest["complete"]:
            raise DatasetError(f"{folder} is not complete; run the same `potstill score` again", path=folder)
        texts = [name for name in (settings["text_column"], settings.get("pair_column")) if name is not None]
        if not settings["logits"] or not {*texts} <= {*settings["key"], *settings["columns"]}:
            flags = " ".join(f"--columns {name}" for name in texts)
            raise SettingsError(f"{folder} has no logits or no texts; score again with --logits {flags}")
        return cls(
            folder=folder,
            digest=hashlib.sha256(content).hexdigest(),
            bundle=job["bundle"],
            precision=job["precision"],
            labels=tuple(job["labels"]),
            columns=(*texts, f"{settings['answer_prefix']}logits"),
            parts=tuple(
                (name, size, digest)
                for part in manifest["parts"].values()
                for name, (size, digest) in part["files"].items()
                if "/" not in name
            ),
            num_rows=manifest["totals"]["num_rows"],
        )

    def store(self) -> AnswerStore:
        """Return the logits by text, from the user's cache; they are copied there first if they are not complete there."""
        answers = AnswerStore(soft_targets_dir() / f"{self.digest[:40]}.scored", len(self.labels))
        with writing_to(answers.path):
            answers.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{answers.path}.making"):
                if answers.count() != self.num_rows:  # none, or what a killed run left
                    answers.path.unlink(missing_ok=True)
                    for texts, logits in self._read():
                        answers.append(keys_of(texts), logits)
                    answers.sync()
        return answers

    def _read(self) -> Iterator[tuple[list[TextInput], Logits]]:
        """Yield texts and their logits, shape (texts, labels), a few thousand at a time.

        Raises:
            DatasetError: A file is not what the manifest says.
        """
        with requires("reading Parquet files"):
            import pyarrow as pa
            import pyarrow.parquet as pq
        for name, size, digest in self.parts:
            path = self.folder / name
            try:
                if path.stat().st_size != size or sha256_of(path) != digest:
                    raise DatasetError(f"{path} is damaged; run the same `potstill score` again", path=path)
                with pq.ParquetFile(path) as file:
                    for batch in file.iter_batches(_CHUNK_TEXTS, columns=list(self.columns)):
                        *parts, lists = (batch.column(column) for column in self.columns)
                        texts = [of_parts(row) for row in zip(*(part.to_pylist() for part in parts), strict=True)]
                        logits = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
                        if len(logits) != len(texts) * len(self.labels) or not np.isfinite(logits).all():
                            raise DatasetError(f"{path}: wanted {len(self.labels)} finite logits in each row", path=path)
                        yield texts, logits.reshape(len(texts), len(self.labels))
            except (OSError, pa.ArrowException) as exc:
                raise DatasetError(f"cannot read {path}: {exc}", path=path) from exc
