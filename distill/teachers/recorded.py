"""Teacher answers that were given elsewhere: a column of logits in the data, or the output of `potstill score --logits`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from distill.bundle import MANIFEST, Bundle
from distill.classifier import TextInput
from distill.errors import DatasetError, SettingsError, requires
from distill.labels import Logits, ProblemType
from distill.progress import Reporter
from distill.storage import writing_to
from distill.teachers.answer_store import LogitFile
from distill.teachers.answers import PartlyAnswered, keys_of, soft_targets_dir
from distill.teachers.teacher import AnyTeacher, Teacher

_RECORDED_TEXTS = 4096


class RecordedLogits:
    """A classifier that answers for the texts it was recorded with, and for no other."""

    def __init__(
        self,
        answers: Iterable[tuple[str, Sequence[float]]],
        *,
        labels: tuple[str, ...],
        folder: Path,
        problem_type: ProblemType = "single_label_classification",
    ) -> None:
        """Read texts and their logits, once and one at a time.

        Args:
            answers: Each text with one finite number a label, in the order of `labels`; of a repeated text the first count.
            labels: Label names, in order.
            folder: Where they are laid down; whoever owns it removes it.
            problem_type: How the logits become probabilities.

        Raises:
            DatasetError: A text has another number of logits than there are labels, or one that is not finite.
        """
        self.labels = labels
        self.problem_type: ProblemType = problem_type
        self._file = LogitFile(folder / "recorded", len(labels))
        source = iter(answers)
        while chunk := list(islice(source, _RECORDED_TEXTS)):
            for text, logits in chunk:
                _require_logits(text, logits, labels)
            texts, columns = zip(*chunk, strict=True)
            self._file.append(keys_of(texts), np.array(columns, dtype=np.float32))

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return the recorded logits, shape (len(texts), len(labels)), float32.

        Raises:
            DatasetError: One of the texts is not recorded.
        """
        found, logits = self._file.find(keys_of([str(text) for text in texts]))
        if not found.all():
            missing = str(texts[int(np.argmin(found))])
            raise DatasetError(
                f"no teacher logits are recorded for the text {missing[:60]!r}; every text that is learnt from or validated on "
                "needs them in its file, and augmented texts need a teacher that can be asked"
            )
        return logits


def _require_logits(text: str, logits: Sequence[float], labels: tuple[str, ...]) -> None:
    if len(logits) != len(labels) or not np.isfinite(logits).all():
        raise DatasetError(
            f"the text {text[:60]!r} has the teacher logits {list(logits)}; wanted {len(labels)} finite numbers, for "
            f"{', '.join(labels)} in this order"
        )


JOB = "_manifest.json"
_SCHEMA = 1
_CHUNK_ROWS = 16_384


@dataclass(frozen=True)
class ScoredTable:
    """A folder that `potstill score --logits` has filled.

    Attributes:
        folder: Where it stands.
        digest: Of its manifest, and with it of every part.
        bundle: Digest of the bundle that answered.
        precision: Of the graph that did.
        labels: The order of the logits.
        columns: Names of the columns that hold the texts and the logits.
        parts: Name, size and sha256 of each Parquet file.
        num_rows: In all of them.
    """

    folder: Path
    digest: str
    bundle: str
    precision: str
    labels: tuple[str, ...]
    columns: tuple[str, str]
    parts: tuple[tuple[str, int, str], ...]
    num_rows: int

    @classmethod
    def open(cls, folder: Path) -> ScoredTable:
        """Read what a folder holds.

        Raises:
            DatasetError: It is not such a folder, or the job is not finished.
            SettingsError: It was scored without the logits or without the texts.
        """
        try:
            content = (folder / JOB).read_bytes()
            said = json.loads(content)
            job, settings, schema = said["job"], said["job"]["settings"], said["schema"]
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise DatasetError(f"{folder} holds no {JOB} of `potstill score`; name its --output", path=folder) from exc
        if schema != _SCHEMA:
            raise DatasetError(f"{folder} was written with schema {schema!r}, this version has {_SCHEMA}", path=folder)
        if not said["complete"]:
            raise DatasetError(f"{folder} is not finished; run the same `potstill score` again", path=folder)
        if not settings["logits"] or settings["text_column"] not in (*settings["key"], *settings["columns"]):
            raise SettingsError(
                f"{folder} lacks the logits or the texts; score with --logits --columns {settings['text_column']}"
            )
        files = [(name, *entry) for part in said["parts"].values() for name, entry in part["files"].items()]
        return cls(
            folder=folder,
            digest=hashlib.sha256(content).hexdigest(),
            bundle=job["bundle"],
            precision=job["precision"],
            labels=tuple(job["labels"]),
            columns=(settings["text_column"], f"{settings['answer_prefix']}logits"),
            parts=tuple((name, size, digest) for name, size, digest in files if "/" not in name),
            num_rows=said["totals"]["num_rows"],
        )

    def __iter__(self) -> Iterator[tuple[list[str], Logits]]:
        """Yield texts with their logits, shape (texts, labels), some thousand at a time.

        Raises:
            DatasetError: A part is not what the manifest says.
        """
        with requires("reading Parquet files"):
            import pyarrow as pa
            import pyarrow.parquet as pq
        for name, size, digest in self.parts:
            path = self.folder / name
            try:
                if path.stat().st_size != size or _sha256(path) != digest:
                    raise DatasetError(f"{path} is damaged; run the same `potstill score` again", path=path)
                with pq.ParquetFile(path) as file:
                    for batch in file.iter_batches(_CHUNK_ROWS, columns=list(self.columns)):
                        yield self._read(path, batch)
            except (OSError, pa.ArrowException) as exc:
                raise DatasetError(f"cannot read {path}: {exc}", path=path) from exc

    def _read(self, path: Path, batch: Any) -> tuple[list[str], Logits]:
        texts, lists = (batch.column(name) for name in self.columns)
        logits = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        if len(logits) != len(texts) * len(self.labels) or not np.isfinite(logits).all():
            raise DatasetError(f"{path}: wanted {len(self.labels)} finite logits in each row", path=path)
        return texts.to_pylist(), logits.reshape(len(texts), len(self.labels))


def with_scored(
    teacher: Teacher,
    given: Sequence[AnyTeacher],
    folders: Sequence[Path],
    *,
    made: Callable[[Callable[[], object]], None],
    reporter: Reporter,
) -> Teacher:
    """Return the teacher with its members' answers from these folders.

    Args:
        teacher: Opened.
        given: What its members were opened from.
        folders: Outputs of `potstill score --logits`; one for each member at most.
        made: Lets the first process of the run do something, and all wait for it.
        reporter: Told what was found.

    Raises:
        SettingsError: A folder was scored with another bundle, or two with the same.
        DatasetError: A folder is not whole.
    """
    members = list(teacher.members)
    digests = [_digest_of(one) for one in given]
    for folder in folders:
        table = ScoredTable.open(folder)
        if table.bundle not in digests:
            raise SettingsError(f"{folder} was scored with another bundle, or before that changed; score it with the teacher")
        place = digests.index(table.bundle)
        member = members[place]
        if isinstance(member, PartlyAnswered):
            raise SettingsError(f"{folder} is the second one scored with the same bundle; score all texts into one folder")
        answers = LogitFile(soft_targets_dir() / f"{table.digest[:40]}.scored", len(table.labels))
        made(lambda table=table, answers=answers: _take_in(table, answers))  # type: ignore[misc]
        reporter.say(f"scored: the {table.precision} graph has answered {table.num_rows:,} rows in {folder}")
        members[place] = PartlyAnswered(member, answers, table.digest)
    return replace(teacher, members=tuple(members))


def _take_in(table: ScoredTable, answers: LogitFile) -> None:
    """Lay a table down by text, unless that was done; what a killed run left of it is made again."""
    with writing_to(answers.path):
        answers.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{answers.path}.making"):
            if answers.count() == table.num_rows:
                return
            answers.path.unlink(missing_ok=True)
            for texts, logits in table:
                answers.append(keys_of(texts), logits)
            answers.sync()


def _digest_of(teacher: AnyTeacher) -> str | None:
    return _sha256(teacher.path / MANIFEST) if isinstance(teacher, Bundle) else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
