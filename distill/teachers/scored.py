"""The output of `potstill score --logits` as a teacher's answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from distill.bundle import MANIFEST
from distill.errors import DatasetError, SettingsError, requires
from distill.labels import Logits
from distill.progress import Reporter
from distill.storage import sha256_of, writing_to
from distill.teachers.answer_store import AnswerStore, keys_of, soft_targets_dir
from distill.teachers.recorded import PartlyAnswered
from distill.teachers.teacher import Teacher

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
                if path.stat().st_size != size or sha256_of(path) != digest:
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


def with_scored(teacher: Teacher, folders: Sequence[Path], *, reporter: Reporter) -> Teacher:
    """Return the teacher with its members' answers from these folders.

    Args:
        teacher: Loaded from bundles.
        folders: Outputs of `potstill score --logits`; at most one for each bundle.
        reporter: Told what was found.

    Raises:
        SettingsError: A folder was scored with another bundle, or two with the same.
        DatasetError: A folder is not whole.
    """
    members = list(teacher.members)
    digests = [None if path is None else sha256_of(path / MANIFEST) for path in teacher.folders]
    for folder in folders:
        table = ScoredTable.open(folder)
        if table.bundle not in digests:
            raise SettingsError(f"{folder} was scored with another bundle, or before that changed; score it with the teacher")
        place = digests.index(table.bundle)
        member = members[place]
        if isinstance(member, PartlyAnswered):
            raise SettingsError(f"{folder} is the second one scored with the same bundle; score all texts into one folder")
        answers = AnswerStore(soft_targets_dir() / f"{table.digest[:40]}.scored", len(table.labels))
        _take_in(table, answers)
        reporter.say(f"scored: the {table.precision} graph has answered {table.num_rows:,} rows in {folder}")
        members[place] = PartlyAnswered(member, answers, table.digest)
    return replace(teacher, members=tuple(members))


def _take_in(table: ScoredTable, answers: AnswerStore) -> None:
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
