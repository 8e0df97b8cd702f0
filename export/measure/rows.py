"""Rows of results: quality and speed of each candidate. The command, the demo and the harness use the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.classifier import Classifier, agreement, require_same_labels
from distill.data import Dataset
from distill.errors import SettingsError
from distill.evaluation.metrics import Quality, confusion_matrix, evaluate, retention
from distill.labels import Logits
from distill.progress import Advance, Reporter, SilentReporter
from export.measure.candidates import Candidate
from export.measure.latency import (
    Latency,
    ProcessFigures,
    measure_latency,
    measure_process,
    measure_throughput,
    ratio_of_medians,
    summary_of,
)
from export.settings import BenchSettings

SCHEMA = 1


@dataclass(frozen=True)
class CandidateQuality:
    """Quality of one candidate on the test texts.

    Attributes:
        quality: Its figures.
        confusion: Number of texts, shape (true label, predicted label); None where a text may have several labels.
        agreement: Share (0-1) of answers equal to the teacher's; None without a teacher.
        retention: Share (0-1) of the teacher's macro-F1; None without a teacher.
    """

    quality: Quality
    confusion: NDArray[np.int64] | None
    agreement: float | None
    retention: float | None


@dataclass(frozen=True)
class Speed:
    """Speed of one candidate, and how many times faster than the teacher it is (median, minimum, maximum over rounds)."""

    latency: Latency
    texts_per_second_rounds: tuple[float, ...]
    ratio_teacher: tuple[float, float, float] | None
    process: ProcessFigures | None


def measure_quality(
    candidates: Sequence[Candidate],
    test: Dataset,
    *,
    teacher: Candidate | None,
    reporter: Reporter | None = None,
) -> dict[str, CandidateQuality]:
    """Return the quality of each candidate, answering one text at a time, as a server does.

    Args:
        candidates: Candidates with the labels of the test texts.
        test: Labelled texts.
        teacher: The candidate that agreement and retention refer to.
        reporter: Shows progress.

    Raises:
        SettingsError: Labels differ, two candidates have the same key, or `teacher` is not among them.
    """
    _require_named(candidates, teacher)
    logits: dict[str, Logits] = {}
    with (reporter or SilentReporter()).task("quality", len(candidates) * len(test)) as advance:
        for candidate in candidates:
            classifier = candidate.open(None)
            if classifier.labels != test.labels:
                raise SettingsError(f"{candidate.key} has labels {list(classifier.labels)}, the test texts {list(test.labels)}")
            if classifier.problem_type != test.problem_type:
                raise SettingsError(f"{candidate.key} is for {classifier.problem_type}, the test texts for {test.problem_type}")
            logits[candidate.key] = _one_at_a_time(classifier, test, advance)
    task = test.problem_type
    qualities = {
        name: evaluate(labels=test.label_ids, logits=found, label_names=test.labels, problem_type=task)
        for name, found in logits.items()
    }
    best = None if teacher is None else qualities[teacher.key].macro_f1
    return {
        name: CandidateQuality(
            quality,
            confusion=_confusion(test, logits[name]),
            agreement=None if teacher is None else agreement(logits[name], logits[teacher.key], task),
            retention=None if best is None else retention(student_macro_f1=quality.macro_f1, teacher_macro_f1=best),
        )
        for name, quality in qualities.items()
    }


def measure_speed(
    candidates: Sequence[Candidate],
    test: Dataset,
    *,
    teacher: Candidate | None,
    settings: BenchSettings,
    reporter: Reporter | None = None,
) -> dict[str, Speed]:
    """Return the speed of each candidate; they take turns in one run. Cold start and memory are measured in new processes."""
    _require_named(candidates, teacher)
    reporter = reporter or SilentReporter()
    single = _opened(candidates, settings.threads)
    latencies = measure_latency(single, test.texts, settings, reporter=reporter)
    del single
    rates = measure_throughput(_opened(candidates, None), test.texts, settings, reporter=reporter)
    speeds = {}
    with reporter.task("cold start and memory", sum(candidate.form is not None for candidate in candidates)) as advance:
        for candidate in candidates:
            process = None
            if candidate.bundle_path is not None and candidate.form is not None:
                process = measure_process(candidate.bundle_path, candidate.form, test.texts)
                advance(1)
            latency = latencies[candidate.key]
            speeds[candidate.key] = Speed(
                latency=latency,
                texts_per_second_rounds=rates[candidate.key],
                ratio_teacher=None if teacher is None else ratio_of_medians(latencies[teacher.key], latency),
                process=process,
            )
    return speeds


def rows_of(
    candidates: Sequence[Candidate], qualities: Mapping[str, CandidateQuality], speeds: Mapping[str, Speed] | None = None
) -> list[dict[str, Any]]:
    """Return one flat row per candidate for JSON; a figure that was not measured is None."""
    return [_row(candidate, qualities[candidate.key], (speeds or {}).get(candidate.key)) for candidate in candidates]


def _row(candidate: Candidate, found: CandidateQuality, speed: Speed | None) -> dict[str, Any]:
    quality = found.quality
    row: dict[str, Any] = {
        "name": candidate.name,
        "precision": candidate.precision,
        "runtime": candidate.runtime,
        "macro_f1": quality.macro_f1,
        "macro_f1_interval": list(quality.macro_f1_interval),
        "accuracy": quality.accuracy,
        "agreement": found.agreement,
        "retention": found.retention,
        "expected_calibration_error": quality.expected_calibration_error,
        "brier_score": quality.brier_score,
        "negative_log_likelihood": quality.negative_log_likelihood,
        "per_class": {name: asdict(figures) for name, figures in quality.per_class.items()},
        "confusion": None if found.confusion is None else found.confusion.tolist(),
        "num_texts": quality.num_texts,
        "size_bytes": candidate.size_bytes,
        "num_parameters": candidate.num_parameters,
    }
    return row if speed is None else row | speed_figures(speed)


def speed_figures(speed: Speed) -> dict[str, Any]:
    """Return the speed figures of a row, all samples included."""
    ratio = speed.ratio_teacher
    return {
        **summary_of(speed.latency, speed.texts_per_second_rounds),
        "p50_ratio_teacher": ratio and ratio[0],
        "p50_ratio_teacher_range": ratio and list(ratio[1:]),
        "cold_start_s": speed.process and speed.process.cold_start_s,
        "peak_rss_bytes": speed.process and speed.process.peak_rss_bytes,
        "latency_rounds_ms": [[round(sample, 4) for sample in samples] for samples in speed.latency.rounds_ms],
        "texts_per_second_rounds": list(speed.texts_per_second_rounds),
    }


def _opened(candidates: Sequence[Candidate], threads: int | None) -> dict[str, Classifier]:
    opened = {candidate.key: candidate.open(threads) for candidate in candidates}
    first_name, first = next(iter(opened.items()))
    for name, classifier in opened.items():
        require_same_labels(first, classifier, names=(first_name, name))
    return opened


def _confusion(test: Dataset, logits: Logits) -> NDArray[np.int64] | None:
    if test.label_ids.ndim == 2:
        return None
    return confusion_matrix(test.label_ids, logits.argmax(axis=1), num_labels=len(test.labels))


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
