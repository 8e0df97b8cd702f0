"""The report of a run: what was found becomes a `FitReport`, `report.json` and `report.html`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from distill.asking.teaching import is_answers
from distill.bundle import GRAPH_OF_PRECISION, WEIGHTS, Bundle
from distill.classifier import Classifier
from distill.data import Dataset, Splits
from distill.evaluation.metrics import macro_f1, retention
from distill.evaluation.scores import metric_words
from distill.labels import Logits
from distill.machine import describe_environment
from distill.models.loading import load_bundle
from distill.progress import Reporter, SilentReporter
from distill.storage import kept_or_made, write_atomically
from distill.teachers.answers import teacher_logits
from distill.teachers.teacher import Teacher
from export.fitting.choose import MEGABYTE, Costs, Validated, best_form, broken, exceeded
from export.fitting.graphs import Exported
from export.fitting.plan import Plan
from export.fitting.reporting.answers import human_labels, labelling
from export.fitting.reporting.details import alternatives, calibration, disagreements, ece, per_label
from export.fitting.reporting.page import write_page
from export.fitting.reporting.result import (
    Budget,
    FitReport,
    FormResult,
    Reference,
    Rung,
    Score,
    UnsureAnswers,
)
from export.fitting.reporting.summary import best_of, instead_of_the_student
from export.fitting.scores import Scorer
from export.fitting.training import Round
from export.fitting.weighing import Form
from export.measure.candidates import bundle_candidate, floor_candidates
from export.measure.rows import measure
from export.runtime.sessions import OnnxClassifier
from export.settings import MIN_PROCESSES, BenchSettings, FitSettings

REPORT_JSON: Final = "report.json"
MEASURED_JSON: Final = "measured.json"
CONTROL: Final = "student_no_distillation"
FIRST_LOOK: Final = BenchSettings(settle_s=1.0, rounds=6, throughput_rounds=MIN_PROCESSES, throughput_texts=128)
"""How much is timed with effort `quick`: the student and the teacher. Other students have the times that chose."""


@dataclass(frozen=True)
class Found:
    """The chosen student and what it is compared with.

    Attributes:
        winner: Name of the form.
        student: Its bundle.
        control: The bundle of its control.
        floor: Validation score of the best floor; 0 if there is none.
        by_labels: With a language model as teacher, controls that learnt from human labels, by the number of these.
    """

    winner: str
    student: Bundle
    control: Bundle
    floor: float
    by_labels: Mapping[int, Bundle] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """What is known so far; a run that finds nothing stops before `found`. `validation` and `costs` are of trained forms."""

    splits: Splits
    settings: FitSettings
    budget: Budget
    plan: Plan
    floors: Mapping[str, Classifier]
    minutes: Mapping[str, float]
    rounds: Mapping[str, Sequence[Round]] = field(default_factory=dict)
    graphs: Exported = field(default_factory=lambda: Exported({}, {}))
    teacher: Teacher | None = None
    teacher_on_validation: Logits | None = None
    validation: Mapping[str, Validated] = field(default_factory=dict)
    costs: Mapping[str, Costs] = field(default_factory=dict)
    found: Found | None = None
    binding: tuple[str, ...] = ()
    nearest: tuple[str, ...] = ()
    answers: str | None = None
    unsure: UnsureAnswers | None = None

    @property
    def measured(self) -> Dataset:
        """The texts that the final scores are from."""
        return self.splits.test or self.splits.validation


def write_fit_report(
    evidence: Evidence, out: Path, *, measured: Mapping[str, Any] | None = None, reporter: Reporter | None = None
) -> FitReport:
    """Write the report to `out`.

    Args:
        evidence: What is known.
        out: Folder of the run.
        measured: As `measured_rows` returns it; None if nothing was found that could be measured.
        reporter: Shows progress.
    """
    reporter = reporter or SilentReporter()
    measured = measured or {"environment": describe_environment(), "rows": []}
    report = _report(evidence, measured["environment"], measured["rows"], reporter)
    write_atomically(
        out / REPORT_JSON,
        json.dumps({"schema": 1, **asdict(report), "rows": measured["rows"]}, indent=1, allow_nan=False) + "\n",
    )
    write_page(out, report)
    return report


def measured_rows(evidence: Evidence, found: Found, out: Path, reporter: Reporter) -> dict[str, Any]:
    """Return environment and rows; those of an earlier run if the same weights and graphs were measured on the same texts."""
    folder = next((path for path in evidence.teacher.folders if path is not None), None) if evidence.teacher else None
    reference = None if folder is None else bundle_candidate(Bundle.open(folder), name="teacher", form="pytorch")
    timed = [] if reference is None else [reference]
    timed.append(bundle_candidate(found.student, name="student", form="int8"))
    others = {name: bundle for name, bundle in evidence.graphs.bundles.items() if name != found.winner}
    untimed = [
        bundle_candidate(found.control, name=CONTROL, form="pytorch"),
        bundle_candidate(found.student, name="student", form="fp32"),
        *(bundle_candidate(bundle, name=name, form="int8") for name, bundle in others.items()),
        *floor_candidates(evidence.splits.train),
    ]
    settings, kept = FIRST_LOOK, out / MEASURED_JSON
    if evidence.plan.effort != "quick":
        settings, timed, untimed = BenchSettings(), [*timed, *untimed], []
    candidates = [*timed, *untimed]
    names = (WEIGHTS, *GRAPH_OF_PRECISION.values())
    bundles = [Bundle.open(each.bundle_path) for each in candidates if each.bundle_path]
    digests = [[files[name].sha256 for name in names if name in files] for files in (one.manifest.files for one in bundles)]
    parts = [digests, evidence.measured.fingerprint(), evidence.splits.train.fingerprint(), settings.model_dump(mode="json")]
    return kept_or_made(
        kept,
        decided_by=parts,
        make=lambda: measure(
            timed, evidence.measured, untimed=untimed, teacher=reference, settings=settings, reporter=reporter
        ),
    )


@dataclass(frozen=True)
class _Scored:
    """Logits and scores of one classifier on the measured texts; the share of the teacher that is kept is of macro-F1."""

    logits: Logits
    score: Score
    macro_f1: float

    @classmethod
    def of(cls, logits: Logits, scorer: Scorer) -> _Scored:
        return cls(logits, scorer.score(logits), macro_f1(scorer.data.label_ids, logits))


def _report(
    evidence: Evidence, environment: dict[str, Any], rows: Sequence[Mapping[str, Any]], reporter: Reporter
) -> FitReport:
    settings, found = evidence.settings, evidence.found
    scorer = Scorer(evidence.measured, settings.metric)
    by_name = {(row["name"], row["precision"]): row for row in rows}
    teacher = _teacher_scored(evidence, scorer, reporter)
    scored = _students_scored(evidence, scorer)
    floors = tuple(_floor(name, floor, evidence, scorer) for name, floor in evidence.floors.items())
    forms = tuple(_form_result(form, evidence, scored, teacher, by_name) for form in evidence.plan.candidates.forms)
    student = scored.get(found.winner) if found else None
    best_floor = best_of(floors)
    floor_wins = bool(student and best_floor and best_floor.test and best_floor.test.value >= student.score.value)
    verdict = _verdict(evidence, forms, best_floor if floor_wins else None)
    of_student = None if student is None else student.logits
    of_teacher = None if teacher is None else teacher.logits
    temperature = found.student.manifest.calibration_temperature if found else None
    teacher_row = by_name.get(("teacher", "fp32"), {})
    return FitReport(
        verdict=verdict,
        metric=settings.metric,
        budget=evidence.budget,
        prefer=settings.prefer,
        effort=evidence.plan.effort,
        seed=settings.seed,
        measured_on="validation" if found is None or evidence.splits.test is None else "test",
        num_texts={name: len(part) for name, part in _parts(evidence.splits).items()},
        teacher=Reference(
            "teacher",
            None if evidence.teacher_on_validation is None else _on_validation(evidence).score(evidence.teacher_on_validation),
            teacher.score if teacher else None,
            teacher_row.get("p50_ms"),
            teacher_row.get("size_bytes"),
        ),
        floors=floors,
        control=_control(evidence, scorer),
        forms=forms,
        winner=found.winner if found else None,
        floor_wins=floor_wins,
        floor_gap=_floor_gap(evidence, scorer, best_floor, of_student),
        binding=evidence.binding,
        nearest=evidence.nearest,
        alternatives=alternatives(forms),
        per_label=per_label(evidence.measured, of_student, of_teacher),
        disagreements=disagreements(evidence.measured, of_student, of_teacher),
        calibration=calibration(evidence.measured, of_student),
        labelling=labelling(evidence.answers, forms, settings),
        human_labels=human_labels(found.by_labels if found else {}, scorer),
        unsure=evidence.unsure,
        ece=ece(evidence.measured, of_student),
        temperature=temperature,
        ece_uncalibrated=ece(evidence.measured, None if of_student is None else of_student * np.float32(temperature or 1)),
        notes=evidence.splits.notes,
        minutes=dict(evidence.minutes),
        environment=environment,
        settings=settings.model_dump(mode="json"),
    )


def _parts(splits: Splits) -> dict[str, Dataset]:
    parts = {"train": splits.train, "validation": splits.validation}
    return parts if splits.test is None else {**parts, "test": splits.test}


def _on_validation(evidence: Evidence) -> Scorer:
    return Scorer(evidence.splits.validation, evidence.settings.metric)


def _teacher_scored(evidence: Evidence, scorer: Scorer, reporter: Reporter) -> _Scored | None:
    if evidence.teacher is None or evidence.found is None:
        return None
    logits = teacher_logits(evidence.teacher.asked, evidence.measured.texts, reporter=reporter).logits
    return _Scored.of(logits, scorer)


def _students_scored(evidence: Evidence, scorer: Scorer) -> dict[str, _Scored]:
    """Return the scores of every graph; of none if nothing was chosen, because the texts that measure choose nothing."""
    opened = {} if evidence.found is None else evidence.graphs.bundles
    graphs = {name: OnnxClassifier.open(bundle, precision="int8") for name, bundle in opened.items()}
    return {name: _Scored.of(graph.predict_logits(scorer.data.texts), scorer) for name, graph in graphs.items()}


def _floor(name: str, floor: Classifier, evidence: Evidence, scorer: Scorer) -> Reference:
    one = evidence.measured.problem_type == "single_label_classification"
    commonest = "always the commonest label" if one else "always the labels that at least half of the texts have"
    texts = {"tfidf": "TF-IDF with logistic regression", "majority": commonest}
    return Reference(
        name,
        _on_validation(evidence).score(floor.predict_logits(evidence.splits.validation.texts)),
        scorer.score(floor.predict_logits(evidence.measured.texts)),
        summary=texts[name],
    )


def _floor_gap(evidence: Evidence, scorer: Scorer, floor: Reference | None, student: Logits | None) -> Score | None:
    """Return the score of the student minus that of the best floor."""
    if floor is None or student is None:
        return None
    logits = evidence.floors[floor.name].predict_logits(evidence.measured.texts)
    return Score.of((scorer.figure(student) - scorer.figure(logits)).estimate())


def _control(evidence: Evidence, scorer: Scorer) -> Reference | None:
    if evidence.found is None:
        return None
    model, by_answers = load_bundle(evidence.found.control), is_answers(evidence.splits.train.source)
    return Reference(
        CONTROL,
        _on_validation(evidence).score(model.predict_logits(evidence.splits.validation.texts)),
        scorer.score(model.predict_logits(evidence.measured.texts)),
        summary=f"the same student, trained on {'the answers as hard labels' if by_answers else 'the labels alone'} and "
        "without an assistant, in fp32",
    )


def _form_result(
    form: Form,
    evidence: Evidence,
    scored: Mapping[str, _Scored],
    teacher: _Scored | None,
    rows: Mapping[Any, Mapping[str, Any]],
) -> FormResult:
    found, name = evidence.found, form.name
    rungs = _rungs(evidence, form.recipe)
    training_s = sum(each.bundle.manifest.training_s for each in evidence.rounds.get(form.recipe, ()))
    base = FormResult(
        name=name,
        recipe=form.recipe,
        tables=form.tables,
        predicted_ms=round(form.costs.ms, 4),
        predicted_bytes=form.costs.size_bytes,
        status="over_budget",
        reason="",
        rungs=rungs,
        training_s=round(training_s, 1),
    )
    over = exceeded(form.costs, evidence.budget)
    if over:
        return replace(base, reason=f"over {_flags(over)}, so it was not trained")
    if name in evidence.graphs.failed:
        return replace(base, status="failed_gate", reason=evidence.graphs.failed[name])
    if name not in evidence.validation:
        return replace(base, status="eliminated", reason=_why_eliminated(evidence, form.recipe))
    row = rows.get(("student" if found and name == found.winner else name, "int8"), {})
    validated, costs = evidence.validation[name], evidence.costs[name]
    over = broken(validated, costs, evidence.budget)
    trained = replace(
        base,
        status="over_budget" if over else "winner" if found and name == found.winner else "finalist",
        reason=_why_over(validated, over) if found is None or over else _why_chosen(evidence, found, name),
        measured_ms=row.get("p50_ms") or round(costs.ms, 4),
        measured_bytes=costs.size_bytes,
        validation=Score.of(validated.score.estimate()),
        kept=round(validated.kept, 6),
    )
    if name not in scored or teacher is None:  # nothing was chosen, so nothing was measured
        return trained
    own = scored[name]
    kept = retention(student_macro_f1=own.macro_f1, teacher_macro_f1=teacher.macro_f1)
    return replace(trained, test=own.score, kept=round(kept, 6))


def _why_over(form: Validated, over: Sequence[str]) -> str:
    """Return which budgets a trained form does not keep."""
    costs = [name for name in over if name != "min_kept"]
    return " and ".join(
        [f"over {_flags(costs)} when measured"] * bool(costs)
        + [f"keeps {form.kept:.1%} of the teacher's macro-F1 on validation texts"] * ("min_kept" in over)
    )


def _rungs(evidence: Evidence, recipe: str) -> tuple[Rung, ...]:
    scorer, texts = _on_validation(evidence), evidence.splits.validation.texts
    return tuple(
        Rung(each.share, scorer.score(load_bundle(each.bundle).predict_logits(texts)))
        for each in evidence.rounds.get(recipe, ())
    )


def _why_eliminated(evidence: Evidence, recipe: str) -> str:
    rounds = evidence.rounds.get(recipe, ())
    if not rounds:
        return f"not trained: {'the teacher has too few layers' if evidence.rounds else 'the run stopped before'}"
    return (
        f"stopped after {rounds[-1].share:.0%} of its training: {rounds[-1].score:.4f} on validation texts, others were better"
    )


def _why_chosen(evidence: Evidence, found: Found, name: str) -> str:
    costs = evidence.costs
    forms = {one: form for one, form in evidence.validation.items() if not broken(form, costs[one], evidence.budget)}
    best, form, winner = best_form(forms, costs), forms[name], forms[found.winner]
    if name == found.winner:
        if name == best:
            return "the nearest to the teacher of those with the highest validation scores"
        words = {"speed": "the fastest", "size": "the smallest"}[evidence.settings.prefer]
        gap = forms[best].score.value - form.score.value
        return f"{words} of those that are as good as the best ({best}, {gap:+.4f} on validation texts)"
    slower, farther = costs[name].ms / costs[found.winner].ms, float((form.distances - winner.distances).mean())
    below = f", below TF-IDF ({found.floor:.4f})" if form.score.value < found.floor else ""
    return (
        f"{form.score.value - winner.score.value:+.4f} on validation texts against {found.winner}, {abs(farther):.3f} nats "
        f"{'farther from' if farther > 0 else 'nearer to'} the teacher's probabilities, at {slower:.2f} times its time{below}"
    )


def _flags(budgets: Sequence[str]) -> str:
    return " and ".join(f"--{name.replace('_', '-')}" for name in budgets)


def _verdict(evidence: Evidence, forms: Sequence[FormResult], floor: Reference | None) -> str:
    if evidence.found is None:
        near = "; ".join(
            f"{form.name}: {form.measured_ms or form.predicted_ms:.2f} ms, "
            f"{(form.measured_bytes or form.predicted_bytes) / MEGABYTE:.1f} MB{', ' + form.reason if form.validation else ''}"
            for form in forms
            if form.name in evidence.nearest
        )
        advice = "Lower it, or add texts" if evidence.binding == ("min_kept",) else "Raise the budget"
        return f"No student keeps {_flags(evidence.binding)}. Nearest: {near}. {advice}."
    winner = next(form for form in forms if form.status == "winner")
    score, of = winner.test or winner.validation, "" if evidence.settings.metric == "macro_f1" else "'s macro-F1"
    words = (
        f"{winner.name}: {metric_words(evidence.settings.metric)} {0.0 if score is None else score.value:.3f}"
        f"{' against the answers of the language model' if is_answers(evidence.measured.source) else ''}"
        f"{'' if winner.kept is None else f', {winner.kept:.1%} of the teacher{of}'}"
        f"{'' if winner.measured_ms is None else f', {winner.measured_ms:.2f} ms a text'}"
        f"{'' if winner.measured_bytes is None else f', {winner.measured_bytes / MEGABYTE:.1f} MB'}"
    )
    return f"Deploy {words}." if floor is None else f"{instead_of_the_student(floor)} The student is {words}."
