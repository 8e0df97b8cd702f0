"""What `potstill fit` found out: the values behind `report.json`, the page and the terminal.

Values only; everything here can be written as JSON and read back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from distill.evaluation.intervals import Estimate
from distill.settings import Unsure

FormStatus = Literal["over_budget", "eliminated", "finalist", "winner", "failed_gate"]
"""over_budget: never trained, or trained and then slower, larger or worse than the budget allows; eliminated: trained in part;
finalist: trained in full, not chosen; failed_gate: int8 lost too much."""

Tables = Literal["int8", "int4"]


@dataclass(frozen=True)
class Budget:
    """What the student may cost; None: no limit.

    Attributes:
        max_ms: Median time of one text on one thread of this machine, in milliseconds.
        max_mb: Size of what must be shipped to answer, in megabytes (10^6 bytes).
        min_kept: Least share of the teacher's macro-F1 that the student must keep, 0 to 1.
    """

    max_ms: float | None = None
    max_mb: float | None = None
    min_kept: float | None = None


@dataclass(frozen=True)
class Score:
    """A metric on held-out texts, 0 to 1, with a 95 % interval over texts."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, estimate: Estimate) -> Score:
        """Return an estimate, rounded for the report."""
        return cls(*(round(float(each), 6) for each in (estimate.value, estimate.low, estimate.high)))


@dataclass(frozen=True)
class Rung:
    """One round of successive halving.

    Attributes:
        share: Share of the full training, 0 to 1.
        score: On validation texts.
    """

    share: float
    score: Score


@dataclass(frozen=True)
class FormResult:
    """A form (a recipe with a precision of its embedding tables) and what became of it.

    Attributes:
        name: recipe/tables, such as "narrow/int4".
        recipe: Name of the recipe.
        tables: Precision of the embedding tables in the int8 graph.
        predicted_ms: Median time of one text, taken on the untrained student before anything was trained.
        predicted_bytes: Size to ship, of the untrained student.
        status: What became of it.
        reason: Why it was not chosen, or why it was, in one sentence.
        rungs: Rounds of successive halving that it went through.
        measured_ms: Median time of one text after export; None if it was not exported.
        measured_bytes: Size to ship after export; None if it was not exported.
        validation: Score of the int8 graph on validation texts; None if not trained in full.
        test: Score of the int8 graph on test texts; None if not trained in full or without test texts.
        kept: Share of the teacher's macro-F1, whatever the metric is, on the measured texts (on validation texts if nothing
            fits); None if unknown.
        training_s: Seconds of training that this form caused, its assistant not included.
    """

    name: str
    recipe: str
    tables: Tables
    predicted_ms: float
    predicted_bytes: int
    status: FormStatus
    reason: str
    rungs: tuple[Rung, ...] = ()
    measured_ms: float | None = None
    measured_bytes: int | None = None
    validation: Score | None = None
    test: Score | None = None
    kept: float | None = None
    training_s: float = 0.0


@dataclass(frozen=True)
class Reference:
    """Something the student is compared with: teacher, control, a floor (TF-IDF, majority)."""

    name: str
    validation: Score | None
    test: Score | None
    p50_ms: float | None = None
    size_bytes: int | None = None
    summary: str = ""


@dataclass(frozen=True)
class Alternative:
    """A form that scored higher than the winner and was not chosen; `sentence` says by how much, at what cost, and why."""

    form: str
    sentence: str


@dataclass(frozen=True)
class Disagreement:
    """A test text (or, without test texts, a validation text) on which student and teacher differ.

    With several labels a text, the probability is that of the student's surest answer among those that differ.
    """

    text: str
    true: str
    teacher: str
    student: str
    student_probability: float


@dataclass(frozen=True)
class CalibrationBin:
    """Answers whose probability lies in [low, high): their count, mean probability and share of right ones.

    With several labels a text, there is an answer for each label.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Labelling:
    """What it takes to label texts in one way.

    Attributes:
        way: Who labels, and when.
        num_texts: How many texts.
        input_tokens: Tokens of prompts; None for a student.
        output_tokens: Tokens of answers; None for a student.
        hours: Hours of one thread; None for a language model.
        cost: At the prices that were given; None without them.
    """

    way: str
    num_texts: int
    input_tokens: int | None = None
    output_tokens: int | None = None
    hours: float | None = None
    cost: float | None = None


@dataclass(frozen=True)
class TriedWay:
    """A way to treat unsure answers, and what a student taught that way reached.

    Attributes:
        way: "keep", "weigh" or "leave_out".
        score: On validation texts.
        gain: That score minus the one of "keep".
        standard_error: Of the gain, paired over the validation texts.
    """

    way: Unsure
    score: Score
    gain: float
    standard_error: float


@dataclass(frozen=True)
class UnsureAnswers:
    """What became of the answers that the teacher is unsure of.

    Attributes:
        way: "keep", "weigh" or "leave_out".
        given: Whether the settings named it.
        tried: Of each way, what a student reached; empty if the way was given or all answers are equally sure.
        recipe: Of that student; "" without one.
        by_answers: Whether the validation labels are answers of the language model too.
    """

    way: Unsure
    given: bool = False
    tried: tuple[TriedWay, ...] = ()
    recipe: str = ""
    by_answers: bool = False


@dataclass(frozen=True)
class HumanLabels:
    """The chosen student's form, trained on this many human labels and nothing else; its score on the measured texts."""

    count: int
    score: Score


@dataclass(frozen=True)
class FitReport:
    """The whole result of a run of `potstill fit`.

    Attributes:
        verdict: One sentence: what to deploy, or why nothing fits.
        metric: "macro_f1", "accuracy", "micro_f1" or "recall:LABEL".
        budget: As asked for.
        prefer: "speed", "quality" or "size".
        effort: "quick", "standard" or "thorough".
        seed: Of the run.
        measured_on: "test" or "validation": which texts the final scores are from; "validation" if nothing fits.
        num_texts: Count of texts by split.
        teacher: The teacher.
        floors: TF-IDF and the commonest label.
        control: The winner's form trained on the labels alone; None if it was not trained.
        forms: Every form, from the fastest to the slowest.
        winner: Name of the chosen form; None if nothing fits.
        floor_wins: Whether a floor is as good as the chosen student.
        floor_gap: The score of the chosen student minus that of the best floor, -1 to 1, paired over the measured texts; None
            if nothing fits.
        binding: Which budgets could not be met, if nothing fits: "max_ms", "max_mb", "min_kept".
        nearest: If nothing fits, names of the nearest forms on each side.
        alternatives: What scored higher and was not chosen.
        per_label: Rows of {"label", "support", "teacher_recall", "student_recall", "student_precision"}.
        disagreements: Examples where student and teacher differ.
        calibration: Reliability of the winner's probabilities on the measured texts.
        labelling: With a language model as teacher: what its answers cost, and what more labels would.
        human_labels: With a language model as teacher and human labels to learn from: what these alone bring, by their number.
        unsure: What became of the answers that the teacher is unsure of; None if nothing was asked for.
        ece: Expected calibration error of the winner on the measured texts, 0 to 1.
        temperature: By which the logits of the winner were divided to calibrate its probabilities, fitted on validation texts.
        ece_uncalibrated: Expected calibration error of the winner without that.
        notes: What was noticed about the data and decided from it (lengths, class weights, dropped rows).
        minutes: Wall time by stage, in order.
        environment: As `describe_environment` returns it.
        settings: The settings of the run, as JSON.
    """

    verdict: str
    metric: str
    budget: Budget
    prefer: str
    effort: str
    seed: int
    measured_on: str
    num_texts: dict[str, int]
    teacher: Reference
    floors: tuple[Reference, ...]
    control: Reference | None
    forms: tuple[FormResult, ...]
    winner: str | None
    floor_wins: bool = False
    floor_gap: Score | None = None
    binding: tuple[str, ...] = ()
    nearest: tuple[str, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    per_label: tuple[dict[str, Any], ...] = ()
    disagreements: tuple[Disagreement, ...] = ()
    calibration: tuple[CalibrationBin, ...] = ()
    labelling: tuple[Labelling, ...] = ()
    human_labels: tuple[HumanLabels, ...] = ()
    unsure: UnsureAnswers | None = None
    ece: float | None = None
    temperature: float | None = None
    ece_uncalibrated: float | None = None
    notes: tuple[str, ...] = ()
    minutes: dict[str, float] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
