"""Bulk logits are soft targets: what `score --logits` wrote, `distill --teacher-logits-column` learns from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tiny_task import Outcome, tiny_texts

from distill.bundle import Bundle


def test_a_student_learns_from_the_logits_of_a_scored_table(
    tmp_path: Path, tiny_student: Bundle, tiny_model: Path, potstill: Callable[..., Outcome]
) -> None:
    texts, labels = zip(*tiny_texts(300), strict=True)
    pq.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "in.parquet")
    out = tmp_path / "scored"
    asked = ("--key", "text", "--columns", "label", "--logits", "--answer-prefix", "teacher_", "--part-rows", 200)
    done = potstill("score", tiny_student.path, "--input", tmp_path / "in.parquet", "--output", out, *asked)
    assert done.code == 0, done.err
    parts = sorted(out.glob("part-*"))
    assert len(parts) == 2
    taught = ("--teacher-logits-column", "teacher_logits", "--student", tiny_model, "--max-length", 32)
    settings = ("--epochs", 4, "--learning-rate", 2e-3, "--batch-size", 16, "--soft-weight", 1, "--json")
    done = potstill("distill", "--train", *parts, *taught, *settings, "--out", tmp_path / "student")
    assert done.code == 0, done.err
    # The labels had no weight: what it knows it has from the logits.
    assert json.loads(done.out.splitlines()[-1])["quality"]["pytorch"]["macro_f1"] > 0.8
