"""Rows of results: quality and speed of each candidate. The command, the demo and the harness use the same rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from distill.classifier import Classifier, agreement
from distill.data import Dataset
from distill.errors import SettingsError
from distill.evaluation.metrics import confusion_matrix, evaluate, retention
from distill.labels import Logits
from distill.machine import describe_environment
from distill.progress import Advance, Reporter, SilentReporter
from export.measure.candidates import Candidate
from export.measure.latency import measure_latency, measure_process, measure_throughput, speed_figures
from export.settings import BenchSettings

SCHEMA = 1


def measure(
    candidates: Sequence[Candidate], test: Dataset, *, teacher: Candidate | None, settings: BenchSettings, reporter: Reporter
) -> dict[str, Any]:
    """Return `environment` and `rows` of a report: the quality and speed of each candidate, for JSON.

    Args:
        candidates: The classifiers to compare.
        test: Labelled texts.
        teacher: The candidate that ratios refer to; None: no ratios.
        settings: Rounds, threads, batch size.
        reporter: Shows progress.
    """
    environment = describe_environment()
    rows = measure_quality(candidates, test, teacher=teacher, reporter=reporter)
    speeds = measure_speed(candidates, test, teacher=teacher, settings=settings, reporter=reporter)
    return {"environment": environment, "rows": [row | speeds[key] for key, row in rows.items()]}


def measure_quality(
    candidates: Sequence[Candidate],
    test: Dataset,
    *,
    teacher: Candidate | None,
    reporter: Reporter | None = None,
) -> dict[str, dict[str, Any]]:
    """Return a row by the key of each candidate: what it is, and its quality, answering one text at a time, as a server does.

    Args:
        candidates: Candidates with the labels of the test texts.
        test: Labelled texts.
        teacher: The candidate that agreement and retention refer to; None: both are None.
        reporter: Shows progress.

    Raises:
        SettingsError: Labels differ, two candidates have the same key, or `teacher` is not among them.
    """
    _require_named(candidates, teacher)
    with (reporter or SilentReporter()).task("quality", len(candidates) * len(test)) as advance:
        logits = {each.key: _one_at_a_time(_opened(each, test, None), test, advance) for each in candidates}
    task = test.problem_type
    qualities = {
        key: evaluate(labels=test.label_ids, logits=found, label_names=test.labels, problem_type=task)
        for key, found in logits.items()
    }

    def row(candidate: Candidate) -> dict[str, Any]:
        quality, found = qualities[candidate.key], logits[candidate.key]
        return {
            "name": candidate.name,
            "precision": candidate.precision,
            "runtime": candidate.runtime,
            **asdict(quality),
            "macro_f1_interval": list(quality.macro_f1_interval),
            "agreement": agreement(found, logits[teacher.key], task) if teacher else None,
            "retention": retention(student_macro_f1=quality.macro_f1, teacher_macro_f1=qualities[teacher.key].macro_f1)
            if teacher
            else None,
            "confusion": confusion_matrix(test.label_ids, found.argmax(axis=1), num_labels=len(test.labels)).tolist()
            if test.label_ids.ndim == 1
            else None,  # a text may have several labels
            "size_bytes": candidate.size_bytes,
            "num_parameters": candidate.num_parameters,
        }

    return {candidate.key: row(candidate) for candidate in candidates}


def measure_speed(
    candidates: Sequence[Candidate],
    test: Dataset,
    *,
    teacher: Candidate | None,
    settings: BenchSettings,
    reporter: Reporter | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the speed figures by the key of each candidate.

    The candidates take turns in one run. Cold start and memory are measured in new processes; only bundles have them.
    """
    _require_named(candidates, teacher)
    reporter = reporter or SilentReporter()
    # Each call opens its own classifiers: those with the threads for latency are freed before the others are opened.
    latencies = measure_latency(
        {each.key: _opened(each, test, settings.threads) for each in candidates}, test.texts, settings, reporter=reporter
    )
    rates = measure_throughput(
        {each.key: _opened(each, test, None) for each in candidates}, test.texts, settings, reporter=reporter
    )
    speeds = {}
    with reporter.task("cold start and memory", len(candidates)) as advance:
        for each in candidates:
            speeds[each.key] = speed_figures(
                latencies[each.key],
                rates[each.key],
                teacher=latencies[teacher.key] if teacher else None,
                process=measure_process(each.bundle_path, each.form, test.texts) if each.bundle_path and each.form else None,
            )
            advance(1)
    return speeds


def _opened(candidate: Candidate, test: Dataset, threads: int | None) -> Classifier:
    """Open a candidate; refuse one with other labels or another task than the test texts."""
    classifier = candidate.open(threads)
    if (classifier.labels, classifier.problem_type) != (test.labels, test.problem_type):
        raise SettingsError(
            f"{candidate.key} is for {classifier.problem_type} with labels {list(classifier.labels)}, "
            f"the test texts are for {test.problem_type} with labels {list(test.labels)}"
        )
    return classifier


def _one_at_a_time(classifier: Classifier, test: Dataset, advance: Advance) -> Logits:
    rows = []
    for text in test.texts:
        rows.append(classifier.predict_logits([text]))
        advance(1)
    return np.concatenate(rows)


def _require_named(candidates: Sequence[Candidate], teacher: Candidate | None) -> None:
    keys = [candidate.key for candidate in candidates]
    if len(set(keys)) != len(keys):
        raise SettingsError(f"two candidates have the same name and precision among {keys}; give them other names")
    if teacher is not None and teacher.key not in keys:
        raise SettingsError(f"the teacher {teacher.key!r} is not among the candidates {keys}")


def kept_under(path: Path, key: str) -> dict[str, Any] | None:
    """Return what an earlier run kept in a JSON file under this key; None if there is nothing, or it cannot be read."""
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
        return {name: value for name, value in found.items() if name != "key"} if found["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
