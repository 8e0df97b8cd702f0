"""Score one part: rows in; the bytes of its two files and its figures out. The same rows produce the same bytes anywhere.

Logits are computed on one thread, in chunks that depend only on the part, so that no bit depends on other work.
"""

from __future__ import annotations

import hashlib
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
from distill.texts import TextInput, parts_of
from export.runtime.long_texts import answer_long
from export.runtime.sessions import OnnxClassifier
from serve.bulk.inputs import CHUNK_ROWS, BadRow, beginning
from serve.bulk.parts import RawPart
from serve.bulk.settings import LINE_KEY, QUARANTINE, ScoreSettings

with requires("bulk scoring"):
    import pyarrow as pa
    import pyarrow.parquet as pq


@dataclass(frozen=True)
class ScoredPart:
    """Counts and files of one part, as the manifest lists them.

    Attributes:
        num_rows: Labelled rows.
        num_bad: Rows in the quarantine.
        labels: Rows per assigned label.
        score_sum: Sum of the scores.
        num_cut: Texts longer than the bundle's `max_length`, which were cut or read in windows.
        files: Size and sha256 of each file, by its path below the output folder.
    """

    num_rows: int
    num_bad: int
    labels: dict[str, int]
    score_sum: float
    num_cut: int
    files: dict[str, tuple[int, str]]


def score_part(
    raw: RawPart, *, classifier: OnnxClassifier, schema: pa.Schema, settings: ScoreSettings
) -> tuple[ScoredPart, dict[str, bytes]]:
    """Label the rows of a part; return its counts and the content of its files, the quarantine first.

    Args:
        raw: The rows.
        classifier: Runs on one thread; several workers may share it.
        schema: Schema of the kept columns.
        settings: Which columns are written.
    """
    texts, lines, _, malformed = raw.rows
    problems = [_problem_with(text, settings) for text in texts]
    good = [place for place, problem in enumerate(problems) if problem is None]
    unusable = [
        BadRow(lines[place], problem.partition(";")[0], beginning(texts[place]), place)
        for place, problem in enumerate(problems)
        if problem is not None
    ]
    bad = sorted([*malformed, *unusable], key=lambda row: row.line)
    kept = pa.concat_tables([schema.empty_table(), *raw.rows.kept])
    logits, num_cut = _logits(classifier, [texts[place] for place in good], settings.long_texts)
    columns, labels, score_sum = _answers(classifier, logits, settings)
    by_line = {} if settings.key else _line_key([lines[place] for place in good], raw.source)
    contents = {f"{QUARANTINE}/{raw.name}.parquet": _quarantine(bad, kept, raw.source)} if bad else {}
    contents[f"{raw.name}.parquet"] = _parquet({**by_line, **_taken(kept, good), **columns})
    files = {path: (len(content), hashlib.sha256(content).hexdigest()) for path, content in contents.items()}
    return ScoredPart(len(good), len(bad), labels, score_sum, num_cut, files), contents


def _problem_with(text: Any, settings: ScoreSettings) -> str | None:
    """Return why a text, or the first unusable text of a pair, cannot be labelled; None if it can."""
    for name, part in zip(settings.text_columns, parts_of(text), strict=True):
        # A longer text was cut when it was read, so its length is not known.
        is_long = isinstance(part, str) and len(part) > settings.max_text_chars
        limit = f"the text has more than --max-text-chars {settings.max_text_chars:,} characters"
        if problem := limit if is_long else problem_with(part, settings.max_text_chars):
            return problem if settings.pair_column is None else f"in {name!r}, {problem}"
    return None


def _logits(classifier: OnnxClassifier, texts: Sequence[TextInput], long_texts: LongTexts) -> tuple[Logits, int]:
    """Return the logits, and how many texts were longer than `max_length`."""
    answers = [
        answer_long(classifier, texts[start : start + CHUNK_ROWS], long_texts=long_texts)
        for start in range(0, len(texts), CHUNK_ROWS)
    ]
    return (
        np.concatenate([np.empty((0, len(classifier.labels)), np.float32), *(logits for logits, _ in answers)]),
        sum(num_long for _, num_long in answers),
    )


def _answers(
    classifier: Classifier, logits: Logits, settings: ScoreSettings
) -> tuple[dict[str, pa.Array], dict[str, int], float]:
    """Return the added columns, the rows per label and the sum of the scores."""
    task, names = task_of(classifier.problem_type), classifier.labels
    shares = task.probabilities(logits)
    scores = shares.max(axis=1)
    if task.problem_type == "multi_label_classification":
        chosen = task.chosen_labels(logits)
        label = pa.array([[names[place] for place in np.flatnonzero(row)] for row in chosen], pa.list_(pa.string()))
        counts = dict(zip(names, map(int, chosen.sum(axis=0)), strict=True))
    else:
        label = pa.array([names[top] for top in top_labels(logits)], pa.string())
        counts = Counter(label.to_pylist())
    columns = {
        "label": label,
        "score": pa.array(scores),
        "probabilities": pa.array(list(shares), pa.list_(pa.float32())),
        "logits": pa.array(list(logits), pa.list_(pa.float32())),
    }
    return {column: columns[name] for name, column in settings.answers.items()}, counts, math.fsum(map(float, scores))


def _taken(kept: pa.Table, places: Sequence[int | None]) -> dict[str, pa.ChunkedArray]:
    return dict(zip(kept.column_names, kept.take(pa.array(places, pa.int64())).columns, strict=True))


def _line_key(lines: Sequence[int], source: str) -> dict[str, pa.Array]:
    return dict(zip(LINE_KEY, (pa.array([source] * len(lines), pa.string()), pa.array(lines, pa.int64())), strict=True))


def _quarantine(bad: Sequence[BadRow], kept: pa.Table, source: str) -> bytes:
    # Where a kept column has the name of one of these, the row's own line and reason are written. A row that could not be
    # read has no place: its kept columns are null.
    own = {
        **_line_key([row.line for row in bad], source),
        "reason": pa.array([row.reason for row in bad], pa.string()),
        "begins": pa.array([row.begins for row in bad], pa.string()),
    }
    others = kept.drop_columns([name for name in own if name in kept.column_names])
    return _parquet({**_taken(others, [row.place for row in bad]), **own})


def _parquet(columns: Mapping[str, Any]) -> bytes:
    table, sink = pa.table(dict(columns)).combine_chunks(), pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=max(1, len(table)))
    return bytes(sink.getvalue())
