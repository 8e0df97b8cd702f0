"""Whether distillation helped: the verdict, and the report of `potstill distill --control --seeds N`.

Computed from logits alone; `distill.training.trials` trains the arms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from distill.data import Dataset
from distill.evaluation.intervals import Bootstrap, Estimate
from distill.evaluation.metrics import Quality, evaluate
from distill.labels import Logits

Verdict = Literal["helped", "did not help", "cannot be told"]


def verdict_of(gain: Estimate) -> Verdict:
    """Return whether the interval of a gain is above 0, below 0, or contains 0."""
    if gain.low > 0:
        return "helped"
    return "did not help" if gain.high < 0 else "cannot be told"


def verdict_in_words(gain: Estimate, *, subject: str = "distillation", against: str = "the control", num_seeds: int) -> str:
    """Return a sentence on whether something helped, with the gain and its interval.

    Args:
        gain: Macro-F1 with it minus macro-F1 without it, paired.
        subject: What was tried, such as "transfer from movies".
        against: What it is compared with.
        num_seeds: Training runs of each. With one, the sentence says that the interval is over texts alone.
    """
    found = f"{gain.value:+.4f} macro-F1 against {against}, 95 % interval {gain.low:+.4f} to {gain.high:+.4f}"
    sentence = {
        "helped": f"{subject[0].upper()}{subject[1:]} helped: {found}.",
        "did not help": f"{subject[0].upper()}{subject[1:]} lowered quality: {found}.",
        "cannot be told": f"It is unclear whether {subject} helped: {found}, which contains 0.",
    }[verdict_of(gain)]
    if num_seeds > 1:
        return sentence
    return f"{sentence} One seed: the interval is over texts alone and leaves out the variation between training runs."


ArmName = Literal["student", "control"]
ARMS: Final[tuple[ArmName, ...]] = ("student", "control")

SCHEMA = 1
PROOF_COLUMNS = ("arm", "seeds", "macro-F1", "95 % interval", "kept", "agrees", "calibration error", "Brier", "NLL")


@dataclass(frozen=True)
class Run:
    """One trained classifier and its predictions.

    Attributes:
        seed: Seed of the run.
        folder: Folder of its bundle, below the report's folder.
        epochs: Epochs it was trained for.
        validation_macro_f1: Macro-F1 by which its epoch was chosen.
        logits: Logits of the texts of the report, shape (texts, labels).
    """

    seed: int
    folder: str
    epochs: int
    validation_macro_f1: float
    logits: Logits


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How well probabilities match the truth: of one run, or the mean over runs. See `Quality`."""

    expected_calibration_error: float
    brier_score: float
    negative_log_likelihood: float


@dataclass(frozen=True, kw_only=True)
class RunReport(Calibration):
    """Figures of one run on the texts of the report."""

    seed: int
    folder: str
    epochs: int
    validation_macro_f1: float
    macro_f1: float


@dataclass(frozen=True, kw_only=True)
class ArmReport(Calibration):
    """Figures of one arm: means over its seeds, with intervals over texts and seeds, and each run."""

    macro_f1: Estimate
    retention: Estimate
    agreement: Estimate
    runs: tuple[RunReport, ...]


CALIBRATION = tuple(field.name for field in fields(Calibration))


@dataclass(frozen=True)
class ProofReport:
    """Result of a comparison.

    Attributes:
        split: Texts it was measured on. Epochs are chosen on validation texts, so figures on them are too high.
        num_texts: Number of texts.
        fingerprint: Digest of the texts.
        teacher: The teacher's figures.
        arms: Figures of each arm.
        gain: Macro-F1 of the student minus the control's, paired; None without a control.
        verdict: Whether distillation helped, from the interval of the gain; None without a control.
        words: The verdict in a sentence.
        chosen_seed: Seed of the student in the report's folder: the best on the validation texts.
    """

    split: Literal["test", "validation"]
    num_texts: int
    fingerprint: str
    teacher: Quality
    arms: dict[ArmName, ArmReport]
    gain: Estimate | None
    verdict: Verdict | None
    words: str
    chosen_seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"schema": SCHEMA, **asdict(self)}


def prove(
    data: Dataset,
    *,
    split: Literal["test", "validation"],
    teacher: Logits,
    arms: Mapping[ArmName, Sequence[Run]],
    chosen_seed: int,
    seed: int = 0,
) -> ProofReport:
    """Compare the arms with each other and with the teacher.

    Args:
        data: The texts, with labels.
        split: Split that the texts are from.
        teacher: The teacher's logits, shape (texts, labels).
        arms: Runs of each arm, with the same seeds in the same order.
        chosen_seed: Seed of the student in the report's folder.
        seed: Seed of the bootstrap.
    """
    num_seeds = len(arms["student"])
    bootstrap = Bootstrap(data.label_ids, num_labels=len(data.labels), num_seeds=num_seeds, seed=seed)
    reports = {name: _arm_report(runs, data, teacher, bootstrap) for name, runs in arms.items()}
    gain, words = None, "There is no control to compare with; see --control."
    if "control" in arms:
        student, control = (bootstrap.macro_f1(_predicted(arms[name], data)) for name in ARMS)
        gain = (student - control).estimate()
        words = verdict_in_words(gain, num_seeds=num_seeds)
    return ProofReport(
        split=split,
        num_texts=len(data),
        fingerprint=data.fingerprint(),
        teacher=_quality(teacher, data),
        arms=reports,
        gain=gain,
        verdict=None if gain is None else verdict_of(gain),
        words=words,
        chosen_seed=chosen_seed,
    )


def proof_cells(report: ProofReport) -> list[list[str]]:
    """Return one row of cells per arm, in the order of `PROOF_COLUMNS`."""
    teacher = report.teacher
    rows = [
        ["teacher", "-", *_score_cells(teacher.macro_f1, *teacher.macro_f1_interval), "-", "-", *_calibration_cells(teacher)]
    ]
    for name, arm in report.arms.items():
        seeds, score = ", ".join(str(run.seed) for run in arm.runs), arm.macro_f1
        shares = (f"{share.value:.1%}" for share in (arm.retention, arm.agreement))
        rows.append([name, seeds, *_score_cells(score.value, score.low, score.high), *shares, *_calibration_cells(arm)])
    return rows


def _score_cells(value: float, low: float, high: float) -> tuple[str, str]:
    return f"{value:.4f}", f"{low:.4f} - {high:.4f}"


def _calibration_cells(figures: Quality | ArmReport) -> list[str]:
    return [f"{getattr(figures, name):.4f}" for name in CALIBRATION]


def _arm_report(runs: Sequence[Run], data: Dataset, teacher: Logits, bootstrap: Bootstrap) -> ArmReport:
    predicted, reference = _predicted(runs, data), data.task.decisions(teacher)
    qualities = [_quality(run.logits, data) for run in runs]
    score = bootstrap.macro_f1(predicted)
    return ArmReport(
        macro_f1=score.estimate(),
        retention=(score / bootstrap.macro_f1(reference)).estimate(),
        agreement=bootstrap.agreement(predicted, reference).estimate(),
        runs=tuple(
            RunReport(
                seed=run.seed,
                folder=run.folder,
                epochs=run.epochs,
                validation_macro_f1=run.validation_macro_f1,
                macro_f1=quality.macro_f1,
                **{name: getattr(quality, name) for name in CALIBRATION},
            )
            for run, quality in zip(runs, qualities, strict=True)
        ),
        **{name: float(np.mean([getattr(quality, name) for quality in qualities])) for name in CALIBRATION},
    )


def _quality(logits: Logits, data: Dataset) -> Quality:
    return evaluate(labels=data.label_ids, logits=logits, label_names=data.labels, problem_type=data.problem_type)


def _predicted(runs: Sequence[Run], data: Dataset) -> NDArray[np.int64]:
    return np.stack([data.task.decisions(run.logits) for run in runs])
