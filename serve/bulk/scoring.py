"""Score one part: rows in; the bytes of its two files and its figures out. The same rows produce the same bytes anywhere.

Logits are computed on one thread, in chunks that depend only on the part, so that no bit depends on other work.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.classifier import Classifier, top_labels
from distill.data.files import problem_with
from distill.errors import requires
from distill.labels import Logits, task_of
from distill.settings import LongTexts
from export.runtime.long_texts import answer_long
from export.runtime.sessions import OnnxClassifier
from serve.bulk.inputs import CHUNK_ROWS, BadRow, beginning
from serve.bulk.parts import RawPart
from serve.bulk.settings import LINE_KEY, ScoreSettings

with requires("bulk scoring"):
    import pyarrow as pa
    import pyarrow.parquet as pq


@dataclass(frozen=True)
class Figures:
    """Counts of one part.

    Attributes:
        num_rows: Labelled rows.
        num_bad: Rows in the quarantine.
        labels: Rows per assigned label.
        score_sum: Sum of the scores.
        num_cut: Texts longer than the bundle's `max_length`, which were cut or read in windows.
    """

    num_rows: int
    num_bad: int
    labels: dict[str, int]
    score_sum: float
    num_cut: int


@dataclass(frozen=True)
class ScoredPart:
    """A scored part, not yet written.

    Attributes:
        answers: The content of its Parquet file.
        quarantine: The content of the Parquet file of its bad rows; None when there are none.
        figures: Its counts.
    """

    answers: bytes
    quarantine: bytes | None
    figures: Figures


def score_part(
    raw: RawPart, *, classifier: OnnxClassifier, source_name: str, schema: pa.Schema, settings: ScoreSettings
) -> ScoredPart:
    """Label the rows of a part.

    Args:
        raw: The rows.
        classifier: Runs on one thread; several workers may share it.
        source_name: Name of the input file in the output.
        schema: Schema of the kept columns.
        settings: Which columns are written.
    """
    bad = list(raw.malformed)
    good: list[int] = []
    for place, text in enumerate(raw.texts):
        problem = problem_with(text, settings.max_text_chars)
        if problem is None:
            good.append(place)
        else:
            bad.append(BadRow(raw.lines[place], problem.partition(";")[0], beginning(text), place))
    kept = {name: column for name, column in _kept_columns(raw, schema).items() if name in schema.names}
    logits, num_cut = _logits(classifier, [raw.texts[place] for place in good], settings.long_texts)
    columns, labels, score_sum = _answers(classifier, logits, settings)
    by_line = {} if settings.key else _line_key([raw.lines[place] for place in good], source_name)
    answers = _parquet({**by_line, **_taken(kept, good), **columns})
    quarantine = _quarantine(sorted(bad, key=lambda row: row.line), kept, source_name) if bad else None
    return ScoredPart(answers, quarantine, Figures(len(good), len(bad), labels, score_sum, num_cut))


def _logits(classifier: OnnxClassifier, texts: Sequence[str], long_texts: LongTexts) -> tuple[Logits, int]:
    """Return the logits, and how many texts were longer than `max_length`."""
    answers, num_cut = [np.empty((0, len(classifier.labels)), np.float32)], 0
    for start in range(0, len(texts), CHUNK_ROWS):
        logits, num_long = answer_long(classifier, texts[start : start + CHUNK_ROWS], long_texts=long_texts)
        answers.append(logits)
        num_cut += num_long
    return np.concatenate(answers), num_cut


def _answers(
    classifier: Classifier, logits: Logits, settings: ScoreSettings
) -> tuple[dict[str, pa.Array], dict[str, int], float]:
    """Return the added columns, the rows per label and the sum of the scores."""
    task, names = task_of(classifier.problem_type), classifier.labels
    shares = task.probabilities(logits)
    tops = top_labels(logits)
    scores = shares[np.arange(len(tops)), tops]
    if task.problem_type == "multi_label_classification":
        chosen = task.chosen_labels(logits)
        label: pa.Array = pa.array([[names[place] for place in np.flatnonzero(row)] for row in chosen], pa.list_(pa.string()))
        counts = dict(zip(names, map(int, chosen.sum(axis=0)), strict=True))
    else:
        label = pa.array(np.array(names, dtype=object)[tops], pa.string())
        counts = dict(Counter(names[top] for top in tops))
    columns = {"label": label, "score": pa.array(scores), "probabilities": _lists(shares), "logits": _lists(logits)}
    written = {column: columns[name] for name, column in settings.answers.items()}
    return written, counts, math.fsum(map(float, scores))


def _lists(values: Logits) -> pa.Array:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))


def _kept_columns(raw: RawPart, schema: pa.Schema) -> dict[str, pa.ChunkedArray]:
    # Kept batches end with a column without a name: they have a length even where no column is kept.
    table = pa.Table.from_batches(raw.kept, schema.append(pa.field("", pa.null())))
    return dict(zip(table.column_names, table.columns, strict=True))


def _taken(columns: Mapping[str, pa.ChunkedArray], places: Sequence[int | None]) -> dict[str, pa.ChunkedArray]:
    indices = pa.array(places, pa.int64())
    return {name: column.take(indices) for name, column in columns.items()}


def _line_key(lines: Sequence[int], source_name: str) -> dict[str, pa.Array]:
    names = pa.array([source_name] * len(lines), pa.string())
    return dict(zip(LINE_KEY, (names, pa.array(lines, pa.int64())), strict=True))


def _quarantine(bad: Sequence[BadRow], kept: Mapping[str, pa.ChunkedArray], source_name: str) -> bytes:
    own = {
        **_line_key([row.line for row in bad], source_name),
        "reason": pa.array([row.reason for row in bad], pa.string()),
        "begins": pa.array([row.begins for row in bad], pa.string()),
    }
    taken = _taken(kept, [row.place for row in bad])  # a row that could not be read has no place: its columns are null
    return _parquet({**{name: column for name, column in taken.items() if name not in own}, **own})


def _parquet(columns: Mapping[str, Any]) -> bytes:
    table, sink = pa.table(dict(columns)).combine_chunks(), pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=max(1, len(table)))
    return bytes(sink.getvalue())
