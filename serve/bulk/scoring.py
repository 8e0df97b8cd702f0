"""One part: rows in, the bytes of its two files and its figures out. The same rows give the same bytes, anywhere.

Answers are computed on one thread, in chunks that depend on the part alone, so that no bit depends on who works beside it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.classifier import Classifier, top_labels
from distill.data.files import problem_with
from distill.errors import requires
from distill.labels import Logits, chosen_labels, probabilities
from distill.settings import LongTexts
from export.runtime.long_texts import answer_long
from export.runtime.sessions import OnnxClassifier
from serve.bulk.inputs import CHUNK_ROWS, BadRow, beginning
from serve.bulk.parts import PartName, RawPart
from serve.bulk.settings import LINE_KEY, ScoreSettings

with requires("bulk scoring"):
    import pyarrow as pa
    import pyarrow.parquet as pq


@dataclass(frozen=True)
class ScoredPart:
    """What became of a part.

    Attributes:
        name: Which part.
        answers: Its Parquet file.
        quarantine: The Parquet file of its bad rows; None where all were good.
        num_rows: Rows that were labelled.
        num_bad: Rows that were not.
        labels: How often each label was given.
        score_sum: Sum of the scores.
        num_cut: Texts that were longer than the bundle's `max_length`, and lost their end or were read in windows.
    """

    name: PartName
    answers: bytes
    quarantine: bytes | None
    num_rows: int
    num_bad: int
    labels: dict[str, int]
    score_sum: float
    num_cut: int


def score_part(
    raw: RawPart, *, classifier: OnnxClassifier, source_name: str, schema: pa.Schema, settings: ScoreSettings
) -> ScoredPart:
    """Label the rows of a part.

    Args:
        raw: The rows.
        classifier: Runs on one thread; several workers may share it.
        source_name: What rows of this file are known by.
        schema: Of the kept columns.
        settings: What is written.
    """
    bad = list(raw.malformed)
    good: list[int] = []
    for place, text in enumerate(raw.texts):
        problem = problem_with(text, settings.max_text_chars)
        if problem is None:
            good.append(place)
        else:
            bad.append(BadRow(raw.lines[place], problem.partition(";")[0], beginning(text), place))
    kept = pa.Table.from_batches(raw.kept) if raw.kept else None
    texts = [raw.texts[place] for place in good]
    logits, num_cut = _logits(classifier, texts, settings.long_texts)
    table, labels, score_sum = _answers(classifier, logits, settings)
    table = _with_columns(_kept_rows(kept, good, schema), [raw.lines[place] for place in good], source_name, table, settings)
    quarantine = _quarantine(sorted(bad, key=lambda row: row.line), kept, source_name, schema) if bad else None
    return ScoredPart(raw.name, _bytes_of(table), quarantine, len(good), len(bad), labels, score_sum, num_cut)


def _logits(classifier: OnnxClassifier, texts: Sequence[str], long_texts: LongTexts) -> tuple[Logits, int]:
    """Return the logits, and how many texts were too long to be read at once."""
    answers, num_cut = [np.empty((0, len(classifier.labels)), np.float32)], 0
    for start in range(0, len(texts), CHUNK_ROWS):
        logits, num_long = answer_long(classifier, texts[start : start + CHUNK_ROWS], long_texts=long_texts)
        answers.append(logits)
        num_cut += num_long
    return np.concatenate(answers), num_cut


def _answers(
    classifier: Classifier, logits: Logits, settings: ScoreSettings
) -> tuple[list[tuple[str, pa.Array]], dict[str, int], float]:
    problem_type, names = classifier.problem_type, classifier.labels
    shares = probabilities(logits, problem_type)
    tops = top_labels(logits)
    scores = shares[np.arange(len(tops)), tops]
    chosen = chosen_labels(logits, problem_type)
    if problem_type == "multi_label_classification":
        given = [[names[place] for place in np.flatnonzero(row)] for row in chosen]
        label: pa.Array = pa.array(given, pa.list_(pa.string()))
        counts = dict(zip(names, map(int, chosen.sum(axis=0)), strict=True))
    else:
        label = pa.array(np.array(names, dtype=object)[tops], pa.string())
        counts = dict(Counter(names[top] for top in tops))
    columns = {"label": label, "score": pa.array(scores), "probabilities": _lists(shares), "logits": _lists(logits)}
    table = [(column, columns[name]) for name, column in settings.answers.items()]
    return table, counts, math.fsum(map(float, scores))


def _lists(values: Logits) -> pa.Array:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))


def _kept_rows(kept: pa.Table | None, places: Sequence[int], schema: pa.Schema) -> list[tuple[str, pa.ChunkedArray]]:
    if kept is None:
        return [(each.name, pa.chunked_array([pa.nulls(len(places), each.type)])) for each in schema]
    taken = kept.take(pa.array(places, pa.int64()))
    return [(name, taken.column(name)) for name in schema.names]


def _with_columns(
    kept: list[tuple[str, Any]], lines: list[int], source_name: str, answers: list[tuple[str, Any]], settings: ScoreSettings
) -> pa.Table:
    by_line = [] if settings.key else _line_key(lines, source_name)
    columns = dict([*by_line, *kept, *answers])
    return pa.table(list(columns.values()), names=list(columns))


def _line_key(lines: list[int], source_name: str) -> list[tuple[str, pa.Array]]:
    return list(zip(LINE_KEY, (pa.array([source_name] * len(lines), pa.string()), pa.array(lines, pa.int64())), strict=True))


def _quarantine(bad: Sequence[BadRow], kept: pa.Table | None, source_name: str, schema: pa.Schema) -> bytes:
    lines = [row.line for row in bad]
    said = [
        *_line_key(lines, source_name),
        ("reason", pa.array([row.reason for row in bad], pa.string())),
        ("begins", pa.array([row.begins for row in bad], pa.string())),
    ]
    places = pa.array([row.place for row in bad], pa.int64())  # a row that could not be read has no columns
    taken = [] if kept is None else [(name, kept.column(name).take(places)) for name in schema.names]
    columns = dict([*((name, values) for name, values in taken if name not in dict(said)), *said])
    return _bytes_of(pa.table(list(columns.values()), names=list(columns)))


def _bytes_of(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink, compression="zstd", row_group_size=max(1, len(table)))
    return bytes(sink.getvalue())
