"""Rows of results: quality and speed of each candidate. The command, the demo and the harness use the same rows."""

from __future__ import annotations

import tempfile
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
from distill.machine import available_cpus, describe_environment
from distill.progress import Advance, Reporter, SilentReporter
from export.measure.candidates import Candidate
from export.measure.circumstances import Session
from export.measure.statistics import marks_of, medians_of, over_processes, percentile, ratios_of, tail
from export.measure.turns import Fresh, Turns, fresh_process, next_texts, take_turns
from export.settings import BenchSettings

SCHEMA = 1
FRESH_TEXTS = 200
"""Texts that a fresh process answers before its memory is read."""


def measure(
    candidates: Sequence[Candidate],
    test: Dataset,
    *,
    untimed: Sequence[Candidate] = (),
    teacher: Candidate | None,
    settings: BenchSettings,
    reporter: Reporter,
) -> dict[str, Any]:
    """Return `environment` and `rows` of a report: the quality and speed of each candidate, for JSON.

    Args:
        candidates: The classifiers to compare.
        untimed: Others, of which the quality is measured; every figure of their speed is None.
        test: Labelled texts.
        teacher: The candidate that ratios refer to; None: no ratios.
        settings: Rounds, threads, batch size.
        reporter: Shows progress.
    """
    environment = describe_environment()
    rows = measure_quality([*candidates, *untimed], test, teacher=teacher, reporter=reporter)
    speeds = measure_speed(candidates, test, teacher=teacher, settings=settings, reporter=reporter)
    none = dict.fromkeys(name for speed in speeds.values() for name in speed)
    return {"environment": environment, "rows": [row | speeds.get(key, none) for key, row in rows.items()]}


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
    """Return the speed figures by the key of each candidate, all taking turns in one run.

    Raises:
        PeerError: One cannot be started, died, or took too long.
    """
    _require_named(candidates, teacher)
    reporter = reporter or SilentReporter()
    singles = next_texts(len(test), settings.rounds, settings.texts_per_round)
    several = next_texts(len(test), settings.throughput_rounds, settings.throughput_texts)
    with tempfile.TemporaryDirectory() as place:
        one, all_cpus = (
            [each.contender(Path(place), threads=threads) for each in candidates]
            for threads in (settings.threads, available_cpus())
        )
        latency = take_turns(one, test.texts, singles, "single", settings, reporter=reporter)
        rates = take_turns(all_cpus, test.texts, several, "many", settings, reporter=reporter)
        fresh = {
            each.name: [
                fresh_process(each, test.texts[:FRESH_TEXTS], timeout_s=settings.timeout_s, at_once=False)
                for _ in range(settings.processes)
            ]
            for each, candidate in zip(all_cpus, candidates, strict=True)
            if candidate.bundle_path is not None
        }
    alone, at_once = latency.required(), rates.required()
    reference = alone[teacher.key] if teacher else None
    return {
        key: {
            **latency_figures(found, latency.session, reference),
            **rate_figures(at_once[key], settings.throughput_texts),
            **_process_figures(fresh.get(key, ())),
        }
        for key, found in alone.items()
    }


def latency_figures(found: Turns, session: Session, reference: Turns | None) -> dict[str, Any]:
    """Return the latency figures of a row for JSON, all samples included; the ratio says how much faster than the reference."""
    p50, samples = over_processes(medians_of(found.ms, found.process_of)), np.concatenate(found.ms)
    ratio = over_processes(ratios_of(reference.ms, found.ms, found.process_of)) if reference else None
    marks = marks_of(
        found.ms, steady=found.steady, others_processors=session.others_processors, stolen_share=session.stolen_share
    )
    p99 = tail(found.ms, 99)
    return {
        "p50_ms": p50.value,
        "p50_ms_interval": [p50.low, p50.high],
        "p90_ms": percentile(samples, 90),
        "p99_ms": p99.value if p99 else None,
        "p99_ms_interval": [p99.low, p99.high] if p99 else None,
        "marks": marks,
        "noisy": bool(marks),
        "p50_ratio_teacher": ratio.value if ratio else None,
        "p50_ratio_teacher_interval": [ratio.low, ratio.high] if ratio else None,
        "process_of_round": found.process_of,
        "latency_rounds_ms": [[round(sample, 4) for sample in each] for each in found.ms],
    }


def rate_figures(found: Turns, texts: int) -> dict[str, Any]:
    """Return the throughput figures of a row for JSON, all samples included."""
    rates = [[1000 * texts / ms for ms in each] for each in found.ms]
    rate = over_processes(medians_of(rates, found.process_of))
    return {
        "texts_per_second": rate.value,
        "texts_per_second_interval": [rate.low, rate.high],
        "texts_per_second_rounds": [each[0] for each in rates],
    }


def _process_figures(fresh: Sequence[Fresh]) -> dict[str, Any]:
    """Return medians over fresh processes; a floor has no files that a process could start from."""
    if not fresh:
        return {"cold_start_s": None, "peak_rss_bytes": None}
    peaks = [each.peak_rss_bytes for each in fresh if each.peak_rss_bytes is not None]
    return {
        "cold_start_s": float(np.median([each.first_answer_s for each in fresh])),
        "peak_rss_bytes": int(np.median(peaks)) if peaks else None,
    }


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
