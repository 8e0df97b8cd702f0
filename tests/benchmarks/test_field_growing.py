"""Rows of a field's result over several runs: what stays, what is replaced, what is still missing."""

from __future__ import annotations

from typing import Any

from benchmarks.field.growing import FieldRows

TEXTS = {"dev": "a", "test": "b"}


def student(name: str, seed: int, **more: Any) -> dict[str, Any]:
    identity = {"measured": "quality", "name": name, "seed": seed, "precision": "int8"}
    return {**identity, "teacher_sha256": "t", "weights_sha256": "w", **more}


def test_a_row_that_says_the_same_keeps_its_day_and_another_replaces_it() -> None:
    old = {**student("narrow", 0, size_bytes=3), "test_fingerprints": TEXTS, "made": {"measured_on": "2026-01-01"}}
    rows = FieldRows([old], TEXTS)
    rows.keep(student("narrow", 0, size_bytes=3))
    assert rows.all() == [old]
    rows.keep(student("narrow", 0, size_bytes=4))
    (row,) = rows.all()
    assert row["size_bytes"] == 4
    assert row["made"]["measured_on"] > "2026-01-01"
    assert row["made"].keys() >= {"git_commit", "cpu"}


def test_rows_of_other_texts_are_not_taken_over() -> None:
    assert FieldRows([{**student("narrow", 0), "test_fingerprints": {"dev": "a"}}], TEXTS).all() == []


def test_a_student_counts_if_it_did_not_fail_and_learnt_from_the_teacher_that_is_named() -> None:
    rows = FieldRows([], TEXTS)
    rows.keep(student("narrow", 0), student("static", 0, failed="a gate"))
    assert rows.has_student("narrow", 0)
    assert rows.has_student("narrow", 0, teacher="t")
    assert not rows.has_student("narrow", 0, teacher="another")
    assert not rows.has_student("static", 0)
    assert rows.missing(["narrow", "static"], [0, 1]) == ["narrow-1", "static-0", "static-1"]
    assert rows.weights_of("narrow") == "w"
    assert rows.weights_of("teacher") is None


def test_students_are_timed_if_each_has_a_row_that_did_not_fail() -> None:
    rows = FieldRows([], TEXTS)
    timed = {"measured": "single-stream", "name": "narrow int8", "precision": "int8"}
    assert not rows.are_timed(["narrow"])
    rows.keep({**timed, "failed": "killed"})
    assert not rows.are_timed(["narrow"])
    rows.keep({**timed, "p50_ms": 1.0})
    assert rows.are_timed(["narrow"])
    assert not rows.are_timed(["narrow", "static"])
