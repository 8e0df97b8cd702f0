"""Rows of the speed scenarios: quality and speed of one candidate side by side, raw samples included.

A row without quality has no speed either: it says why it failed, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness.candidates import Candidate
from benchmarks.harness.sessions import Turns
from distill.classifier import agreement
from distill.data import Dataset
from distill.errors import PotstillError
from distill.evaluation.intervals import Bootstrap
from distill.evaluation.metrics import evaluate
from distill.labels import Logits
from export.measure.statistics import (
    Estimate,
    marks_of,
    median_estimate,
    percentile,
    ratio_estimate,
    samples_by_process,
    spread,
)

DIGITS = 10


@dataclass(frozen=True)
class Reference:
    """What ratios, retention and agreement refer to: the teacher, else the first row."""

    name: str
    turns: Turns
    logits: Logits


def quality_part(
    logits: Logits, test: Dataset, *, texts: int, gives: str = "logits", reference: Logits | None, seed: int
) -> dict[str, Any]:
    """Return the quality of one row.

    Args:
        logits: Answers to the first `texts` test texts, in their order, shape (texts, labels).
        test: Labelled texts.
        texts: How many were answered.
        gives: "labels" where the logits only say which label; it then has no calibration.
        reference: The reference's answers, for retention and agreement.
        seed: Seed of the intervals.

    Raises:
        PotstillError: An answer is missing, or is not a number.
    """
    if logits.shape != (texts, len(test.labels)):
        raise PotstillError(f"its answers have the shape {logits.shape}, wanted {(texts, len(test.labels))}")
    if not np.isfinite(logits).all():
        raise PotstillError("some of its answers are not numbers")
    label_ids, task = test.label_ids[:texts], test.problem_type
    found = evaluate(labels=label_ids, logits=logits, label_names=test.labels, problem_type=task, seed=seed)
    part: dict[str, Any] = {
        "macro_f1": found.macro_f1,
        "macro_f1_interval": list(found.macro_f1_interval),
        "accuracy": found.accuracy,
        "expected_calibration_error": found.expected_calibration_error if gives == "logits" else None,
        "retention": None,
        "agreement": None,
        "num_texts": texts,
        "predicted": _spelled(logits, test),
    }
    if reference is not None:
        bootstrap = Bootstrap(label_ids, num_labels=len(test.labels), num_seeds=1, seed=seed)
        ours, theirs = (bootstrap.macro_f1(test.task.decisions(each)) for each in (logits, reference))
        part["retention"] = vars((ours / theirs).estimate()) if theirs.value else None
        part["agreement"] = agreement(logits, reference, task)
    return part


def identity_part(candidate: Candidate, about: Mapping[str, Any], *, prepared_s: float | None, session: int) -> dict[str, Any]:
    """Return what a row is: name, kind, settings and their source, size, digests."""
    return {
        "name": candidate.name,
        "kind": candidate.kind,
        "precision": candidate.precision,
        "settings": about["settings"],
        "source": about["source"],
        "size_bytes": about["size_bytes"],
        "identity": dict(candidate.identity),
        "prepared_s": prepared_s,
        "session": session,
    }


def latency_part(turns: Turns, *, reference: Reference | None, others_processors: float | None, seed: int) -> dict[str, Any]:
    """Return the latency of single texts: median with interval, tails where samples allow, ratio to the reference."""
    part = {
        **_marks(turns, others_processors),
        "p50_ms": _json(median_estimate(samples_by_process(turns.ms, turns.process_of), seed=seed)),
        "p90_ms": percentile(turns.ms, 90),
        "p99_ms": percentile(turns.ms, 99),
        "p50_ratio": None,
        "process_of_round": turns.process_of,
        "latency_us": _microseconds(turns.ms),
    }
    if reference is not None:
        part |= {"reference": reference.name, "p50_ratio": _ratio(reference, turns, seed)}
    return part


def rate_part(
    turns: Turns, *, texts: int, reference: Reference | None, others_processors: float | None, seed: int
) -> dict[str, Any]:
    """Return the rate of many texts at once, with its interval, and the ratio to the reference's."""
    rates = [[1000 * texts / ms for ms in each] for each in turns.ms]
    part = {
        **_marks(turns, others_processors, least=False),
        "texts_per_second": _json(median_estimate(samples_by_process(rates, turns.process_of), seed=seed)),
        "rate_ratio": None,
        "process_of_round": turns.process_of,
        "texts_per_second_rounds": [round(each[0], 2) for each in rates],
    }
    if reference is not None:
        part |= {"reference": reference.name, "rate_ratio": _ratio(reference, turns, seed)}
    return part


def failed_row(candidate: Candidate, reason: str) -> dict[str, Any]:
    """Return the row of a candidate that could not be measured."""
    return {"name": candidate.name, "kind": candidate.kind, "precision": candidate.precision, "failed": reason}


def slug_of(name: str) -> str:
    """Return a row's name as it stands in the names of figures."""
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower())


def _marks(turns: Turns, others_processors: float | None, *, least: bool = True) -> dict[str, Any]:
    samples = sum(len(each) for each in turns.ms)
    found = spread(turns.ms)
    steady = all(each.steady for each in turns.settled)
    counted = samples if least else 10**9  # a rate has no percentiles
    return {
        "marks": marks_of(spread=found, steady=steady, others_processors=others_processors, samples=counted),
        "spread": found,
        "warmup": [vars(each) for each in turns.settled],
        "samples": samples,
    }


def _ratio(reference: Reference, turns: Turns, seed: int) -> dict[str, float]:
    return _json(ratio_estimate(reference.turns.ms, turns.ms, process_of=turns.process_of, seed=seed))


def _spelled(logits: Logits, test: Dataset) -> Any:
    """Return the labels given, a digit a text where there are few enough."""
    decisions = test.task.decisions(logits)
    if decisions.ndim == 1 and len(test.labels) <= DIGITS:
        return "".join(map(str, decisions.tolist()))
    return decisions.tolist()


def _microseconds(rounds: Sequence[Sequence[float]]) -> list[list[int]]:
    return [[round(1000 * sample) for sample in each] for each in rounds]


def _json(estimate: Estimate) -> dict[str, float]:
    return estimate.to_json()
