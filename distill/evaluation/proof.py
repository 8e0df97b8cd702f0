"""Whether distillation helped: the verdict, and the report of `potstill distill --control --seeds N`.

Made from logits alone; training the arms is `distill.training.trials`' job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from distill.data import Dataset
from distill.evaluation.intervals import Bootstrap, Estimate
from distill.evaluation.metrics import Quality, evaluate
from distill.labels import Logits

Verdict = Literal["helped", "did not help", "cannot be told"]


def verdict_of(gain: Estimate) -> Verdict:
    """Return what the interval of a gain allows to say."""
    if gain.low > 0:
        return "helped"
    return "did not help" if gain.high < 0 else "cannot be told"


def verdict_in_words(gain: Estimate, *, subject: str = "distillation", against: str = "the control", num_seeds: int) -> str:
    """Return in a sentence whether something helped, with the gain and its interval.

    Args:
        gain: Macro-F1 with it minus macro-F1 without it, paired.
        subject: What may have helped, such as "transfer from movies".
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
    """One trained classifier: its seed, its folder below the report's, how many epochs it took, and what it answers.

    Attributes:
        seed: Seed of the run.
        folder: Where its bundle stands, below the report's folder.
        epochs: Epochs it was trained for.
        validation_macro_f1: What it was chosen by.
        logits: Its answers to the texts of the report, shape (texts, labels).
    """

    seed: int
    folder: str
    epochs: int
    validation_macro_f1: float
    logits: Logits


@dataclass(frozen=True)
class RunReport:
    """Figures of one run on the texts of the report."""

    seed: int
    folder: str
    epochs: int
    validation_macro_f1: float
    macro_f1: float
    expected_calibration_error: float
    brier_score: float
    negative_log_likelihood: float


@dataclass(frozen=True)
class ArmReport:
    """Figures of one arm: means over its seeds, intervals over texts and seeds, and each run."""

    macro_f1: Estimate
    retention: Estimate
    agreement: Estimate
    expected_calibration_error: float
    brier_score: float
    negative_log_likelihood: float
    runs: tuple[RunReport, ...]


@dataclass(frozen=True)
class ProofReport:
    """What a comparison found.

    Attributes:
        split: Which texts it was measured on; validation texts have chosen the epochs, so they flatter every arm alike.
        num_texts: How many they are.
        fingerprint: Digest of them.
        teacher: The teacher's figures on them.
        arms: Figures of each arm.
        gain: Macro-F1 of the student minus the control's, paired; None without a control.
        verdict: What its interval allows to say; None without a control.
        words: The same in a sentence.
        chosen_seed: The student that stands in the report's folder: the best on the validation texts.
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
        """Return it as JSON holds it."""
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
        data: The texts all have answered.
        split: What they are.
        teacher: The teacher's logits, shape (texts, labels).
        arms: Runs of each arm, with the same seeds in the same order.
        chosen_seed: Which student stands in the report's folder.
        seed: Seed of the bootstrap.
    """
    num_seeds = len(arms["student"])
    bootstrap = Bootstrap(data.label_ids, num_labels=len(data.labels), num_seeds=num_seeds, seed=seed)
    reports = {name: _arm_report(runs, data, teacher, bootstrap) for name, runs in arms.items()}
    gain, words = None, "There is no control to compare with; see --control."
    if "control" in arms:
        student, control = (bootstrap.macro_f1(_answers(arms[name], data)) for name in ARMS)
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
    """Return a row of cells per arm, in the order of `PROOF_COLUMNS`."""
    teacher = report.teacher
    low, high = teacher.macro_f1_interval
    rows = [["teacher", "-", f"{teacher.macro_f1:.4f}", f"{low:.4f} - {high:.4f}", "-", "-", *_calibration(teacher)]]
    for name, arm in report.arms.items():
        score = arm.macro_f1
        rows.append(
            [
                name,
                ", ".join(str(run.seed) for run in arm.runs),
                f"{score.value:.4f}",
                f"{score.low:.4f} - {score.high:.4f}",
                f"{arm.retention.value:.1%}",
                f"{arm.agreement.value:.1%}",
                *_calibration(arm),
            ]
        )
    return rows


def _arm_report(runs: Sequence[Run], data: Dataset, teacher: Logits, bootstrap: Bootstrap) -> ArmReport:
    answers, reference = _answers(runs, data), data.task.decisions(teacher)
    qualities = [_quality(run.logits, data) for run in runs]
    score = bootstrap.macro_f1(answers)
    return ArmReport(
        macro_f1=score.estimate(),
        retention=(score / bootstrap.macro_f1(reference)).estimate(),
        agreement=bootstrap.agreement(answers, reference).estimate(),
        expected_calibration_error=float(np.mean([quality.expected_calibration_error for quality in qualities])),
        brier_score=float(np.mean([quality.brier_score for quality in qualities])),
        negative_log_likelihood=float(np.mean([quality.negative_log_likelihood for quality in qualities])),
        runs=tuple(
            RunReport(
                seed=run.seed,
                folder=run.folder,
                epochs=run.epochs,
                validation_macro_f1=run.validation_macro_f1,
                macro_f1=quality.macro_f1,
                expected_calibration_error=quality.expected_calibration_error,
                brier_score=quality.brier_score,
                negative_log_likelihood=quality.negative_log_likelihood,
            )
            for run, quality in zip(runs, qualities, strict=True)
        ),
    )


def _quality(logits: Logits, data: Dataset) -> Quality:
    return evaluate(labels=data.label_ids, logits=logits, label_names=data.labels, problem_type=data.problem_type)


def _answers(runs: Sequence[Run], data: Dataset) -> NDArray[np.int64]:
    return np.stack([data.task.decisions(run.logits) for run in runs])


def _calibration(figures: Quality | ArmReport) -> list[str]:
    return [
        f"{value:.4f}" for value in (figures.expected_calibration_error, figures.brier_score, figures.negative_log_likelihood)
    ]
