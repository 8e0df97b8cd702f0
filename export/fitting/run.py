"""`potstill fit`: from data, or a fine-tuned classifier, to a proven student within a budget.

The stages, in order: floors; forms timed and weighed untrained; teacher; successive halving over the recipes; graphs behind
their gates; choice on validation texts; control; measuring on test texts; report. Each finished step is kept in the folder of
the run, and the same call resumes there. Test texts choose nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from distill.bundle import GRAPH_OF_PRECISION, Bundle
from distill.classifier import Classifier
from distill.data import Dataset, Splits
from distill.errors import GateError, SettingsError
from distill.evaluation.floors import MajorityClassifier, TfidfClassifier
from distill.evaluation.scores import metric_words
from distill.labels import Logits
from distill.machine import machine_name
from distill.progress import Reporter, SilentReporter
from distill.settings import BUILTIN_MINILM
from distill.storage import cache_dir, kept_or_made, require_writable
from distill.teachers.answers import teacher_logits
from distill.teachers.teacher import Teacher, open_teacher, require_useful_teacher
from distill.texts import TextInput
from distill.training.by_recipe import Learning
from distill.training.lesson import distillation_lesson
from export.fitting.choose import Costs, broken, chosen, exceeded, nearest
from export.fitting.graphs import Exported, calibrated, copied, exported, validated
from export.fitting.job import FitTeacher, Job, planned, prepared, teacher_settings
from export.fitting.plan import Plan
from export.fitting.reporting.findings import Evidence, Found, measured_rows, write_fit_report
from export.fitting.reporting.result import FitReport
from export.fitting.training import CALIBRATED, TEACHER, TRIED, Round, control_of, controls_of_fewer, halved, tuned_teacher
from export.fitting.unsure import unsure_answers
from export.fitting.weighing import Form, recipes_of, timed
from export.measure.candidates import bundle_candidate
from export.settings import ExportSettings, FitSettings

STUDENT: Final = "student"


class NothingFitsError(GateError):
    """No form keeps the budget; `report` says which budget binds and what comes nearest."""

    def __init__(self, message: str, report: FitReport) -> None:
        super().__init__(message)
        self.report = report


STAGES: Final = ("floors", "weighing", "teacher", "students", "graphs", "choice", "control", "measuring")
MOST_DELAY: Final = 3.0


@dataclass
class Stages:
    """Minutes by stage, in order, and the announcement of each with the time that is left."""

    reporter: Reporter
    minutes: dict[str, float] = field(default_factory=dict)
    planned: Mapping[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    current: str = ""
    started: float = 0.0

    @contextmanager
    def stage(self, name: str, words: str) -> Iterator[None]:
        """Announce a stage and take its time."""
        self.current, self.started = name, self.clock()
        left = self._left_min()
        time_left = f" (about {left:.0f} minutes left in all)" if left >= 1 else ""
        self.reporter.say(f"{STAGES.index(name) + 1} of {len(STAGES)}  {name}: {words}{time_left}")
        yield
        self.minutes[name] = round(self._spent_min(), 2)

    def going_on(self, left_s: float) -> None:
        """Say how long everything takes from here, given the planned seconds that are left of the present stage."""
        if (left := self._left_min(left_s / 60)) >= 1:
            self.reporter.say(f"about {left:.0f} minutes left in all")

    def _spent_min(self) -> float:
        return (self.clock() - self.started) / 60

    def _left_min(self, of_current: float | None = None) -> float:
        """Return the planned minutes that are left; longer if what is done took longer than planned.

        A resumed run's stages take no time, which says nothing about the rest, so it is never shorter.
        """
        left = {name: minutes for name, minutes in self.planned.items() if name not in self.minutes}
        spent = sum(minutes for name, minutes in self.minutes.items() if name in self.planned)
        if of_current is not None:
            left[self.current] = min(of_current, self.planned[self.current])
            spent += self._spent_min()
        done = sum(self.planned.values()) - sum(left.values())
        delay = spent / done if done > 0 else 1.0
        return sum(left.values()) * min(max(delay, 1.0), MOST_DELAY)


def fit(
    texts: Splits | Dataset,
    *,
    out: Path | str,
    teacher: FitTeacher = BUILTIN_MINILM,
    unlabeled: Iterable[TextInput] = (),
    settings: FitSettings | None = None,
    reporter: Reporter | None = None,
) -> FitReport:
    """Find, train and prove a student within a budget; write `teacher`, `student`, `report.html` and `report.json` to `out`.

    Args:
        texts: Training and validation texts, and test texts to measure on; or one set, of which a tenth becomes validation
            texts. Without test texts, some of a large training set are cut off; of a small one, the validation texts measure.
        out: Folder of the run; an interrupted run resumes there.
        teacher: An encoder to fine-tune (a folder, a hub id, `builtin:minilm`, `builtin:mpnet`), a bundle, any
            classifier, or several.
        unlabeled: Further texts to learn from.
        settings: Budget, metric, effort.
        reporter: Told of progress.

    Raises:
        NothingFitsError: No student keeps the budget.
        TeacherError: The teacher is not worth learning from.
        SettingsError: A setting that cannot be honoured, or another run is working in `out`.
        StorageError: `out` cannot be written.
    """
    settings, reporter, out = settings or FitSettings(), reporter or SilentReporter(), Path(out)
    require_writable(out)
    with _one_at_a_time(out):
        return _fitted(prepared(texts, teacher, unlabeled, settings, reporter), out)


def plan_fit(
    texts: Splits | Dataset,
    *,
    teacher: FitTeacher = BUILTIN_MINILM,
    unlabeled: Iterable[TextInput] = (),
    settings: FitSettings | None = None,
    reporter: Reporter | None = None,
) -> Plan:
    """Return the forms with their predicted costs, and the expected minutes by stage; nothing is trained. See `fit`."""
    settings, reporter = settings or FitSettings(), reporter or SilentReporter()
    return planned(prepared(texts, teacher, unlabeled, settings, reporter))[1]


def _fitted(job: Job, out: Path) -> FitReport:
    stages = Stages(job.reporter)
    with stages.stage("floors", f"TF-IDF with logistic regression and the commonest label, on {len(job.splits.train)} texts"):
        train = job.splits.train
        floors: dict[str, Classifier] = {"tfidf": TfidfClassifier(train), "majority": MajorityClassifier(train)}
    with stages.stage("weighing", "every student, untrained: its speed on this machine and its size"):
        job, plan = planned(job, out)
        job.reporter.say(plan.words())
        stages.planned = plan.minutes
    evidence = Evidence(
        splits=job.splits,
        settings=job.settings,
        budget=job.budget,
        plan=plan,
        floors=floors,
        minutes=stages.minutes,
        answers=job.answers,
    )
    if not plan.within:
        _refuse(evidence, out)
    with stages.stage("teacher", job.encoder or "given"):
        teacher = _proven_teacher(job, out)
        job = replace(job, teacher=teacher)
        on_validation = teacher_logits(teacher.asked, job.splits.validation.texts, reporter=job.reporter).logits
        require_useful_teacher(logits=on_validation, label_ids=job.splits.validation.label_ids, labels=teacher.asked.labels)
        _report_teacher(job, on_validation, floors)
    learning = Learning(teacher, job.splits, job.unlabeled, job.reporter, distillation_lesson)
    with stages.stage("students", ", ".join(recipes_of(plan.within))):
        unsure = unsure_answers(job, plan, learning, folder=out / TRIED)
        rounds = halved(
            plan.candidates if unsure is None else plan.candidates.taught(unsure.way),
            recipes_of(plan.within),
            learning,
            folder=out / TRIED,
            scorer=job.validation,
            halving=not job.settings.train_all,
            told=stages.going_on,
        )
    with stages.stage("graphs", "calibrated, then int8, each checked before it is saved"):
        graphs = _graphs(job, plan.within, rounds, out)
    with stages.stage("choice", "on the validation texts"):
        evidence = replace(evidence, rounds=rounds, graphs=graphs, teacher=teacher, teacher_on_validation=on_validation)
        validation = validated(graphs.bundles, job.validation, of_teacher=on_validation)
        evidence = replace(evidence, unsure=unsure, validation=validation, costs=_costs(job, graphs.bundles, out))
        floor = max(_on_validation(job, each) for each in floors.values())
        winner = _choice(job, evidence, out)
        student = copied(graphs.bundles[winner], out / STUDENT)
    with stages.stage("control", f"{winner.partition('/')[0]} trained on the labels alone"):
        stages_of_winner = plan.candidates.stages[winner.partition("/")[0]]
        control = control_of(stages_of_winner, learning, folder=out / TRIED)
        control = _calibrated(job, control, out / TRIED / CALIBRATED / "control")
        by_labels = controls_of_fewer(stages_of_winner, learning, folder=out / TRIED) if job.has_human_labels else {}
        by_labels |= {len(job.splits.train): control} if by_labels else {}
    with stages.stage("measuring", f"on {len(job.measured)} {'test' if job.splits.test else 'validation'} texts"):
        found = Found(winner, student, control, floor, by_labels)
        measured = measured_rows(evidence, found, out, job.reporter)
    return write_fit_report(replace(evidence, found=found), out, measured=measured, reporter=job.reporter)


def _proven_teacher(job: Job, out: Path) -> Teacher:
    if job.encoder is None:
        for folder in job.teacher.folders:
            if folder is not None and cache_dir() in folder.parents and len(job.teacher.folders) == 1:
                copied(Bundle.open(folder), out / TEACHER)  # adopted for this run: kept with its result
        return job.teacher
    return open_teacher(
        tuned_teacher(job.encoder, job.splits, teacher_settings(job.settings), out=out, reporter=job.reporter),
        device="auto",
    )


def _report_teacher(job: Job, on_validation: Logits, floors: Mapping[str, Classifier]) -> None:
    """Report the teacher's validation score beside those of the floors, and what to do if a floor is as good."""
    score = job.validation.value(on_validation)
    job.reporter.say(f"teacher: validation {metric_words(job.settings.metric)} {score:.4f}")
    for name, floor in floors.items():
        value = _on_validation(job, floor)
        job.reporter.say(f"{name}: validation {metric_words(job.settings.metric)} {value:.4f}")
        if value >= score:
            job.reporter.say(
                f"the teacher is no better than {name} on these texts, so its students will hardly be: more labelled "
                "texts or another --teacher may help"
            )


def _graphs(job: Job, forms: Sequence[Form], rounds: Mapping[str, Sequence[Round]], out: Path) -> Exported:
    students = {
        name: _calibrated(job, found[-1].bundle, out / TRIED / CALIBRATED / name)
        for name, found in rounds.items()
        if found and found[-1].share == 1.0
    }
    graphs = exported(
        students,
        forms,
        folder=out / TRIED / "forms",
        validation=job.splits.validation,
        settings=ExportSettings(),
        reporter=job.reporter,
    )
    if not graphs.bundles:
        raise GateError(f"no int8 graph passed its gates: {'; '.join(graphs.failed.values())}")
    return graphs


def _calibrated(job: Job, bundle: Bundle, folder: Path) -> Bundle:
    return calibrated(bundle, folder=folder, scorer=job.validation, reporter=job.reporter)


def _on_validation(job: Job, floor: Classifier) -> float:
    return job.validation.value(floor.predict_logits(job.splits.validation.texts))


def _choice(job: Job, evidence: Evidence, out: Path) -> str:
    """Return the chosen form.

    Raises:
        NothingFitsError: None keeps enough of the teacher's macro-F1, or all are slower than predicted and over the budget.
    """
    forms, costs = evidence.validation, evidence.costs
    over = {name: broken(form, costs[name], job.budget) for name, form in forms.items()}
    fitting = {name: form for name, form in forms.items() if not over[name]}
    if not fitting:
        enough = [name for name in forms if "min_kept" not in over[name]]
        best = max(forms, key=lambda name: forms[name].kept)
        binding = tuple(dict.fromkeys(one for name in enough for one in over[name])) or ("min_kept",)
        closest = nearest({name: costs[name] for name in enough}, job.budget) if enough else (best,)
        _refuse(evidence, out, binding=binding, closest=closest)
    winner = chosen(fitting, costs, job.settings.prefer)
    score = f"validation {metric_words(job.settings.metric)} {forms[winner].score.value:.4f}"
    job.reporter.say(f"chosen: {winner}, {score}, {costs[winner].ms:.2f} ms")
    return winner


def _costs(job: Job, bundles: Mapping[str, Bundle], out: Path) -> dict[str, Costs]:
    """Return what each graph takes; the times of an earlier run of these graphs on this machine are kept: it chooses alike."""
    kept = out / TRIED / "timed.json"
    files = {name: bundle.manifest.files[GRAPH_OF_PRECISION["int8"]].sha256 for name, bundle in bundles.items()}

    def measured_ms() -> dict[str, float]:
        candidates = [bundle_candidate(bundle, name=name, form="int8") for name, bundle in bundles.items()]
        contenders = [each.contender(out, threads=1, name=each.name) for each in candidates]
        return timed(contenders, job.splits.validation.texts, reporter=job.reporter)

    decided_by = [files, job.splits.validation.fingerprint(), machine_name()]
    p50_ms = kept_or_made(kept, decided_by=decided_by, make=measured_ms)
    return {name: Costs(p50_ms[name], bundle.size_bytes("int8")) for name, bundle in bundles.items()}


def _refuse(evidence: Evidence, out: Path, *, binding: tuple[str, ...] = (), closest: tuple[str, ...] = ()) -> None:
    costs = evidence.plan.candidates.costs()
    binding = binding or tuple(dict.fromkeys(one for each in costs.values() for one in exceeded(each, evidence.budget)))
    closest = closest or nearest(costs, evidence.budget)
    report = write_fit_report(replace(evidence, binding=binding, nearest=closest), out)
    raise NothingFitsError(report.verdict, report)


@contextmanager
def _one_at_a_time(out: Path) -> Iterator[None]:
    lock = FileLock(out / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise SettingsError(f"another run is working in {out}; wait for it, or name another folder with --out") from None
    try:
        yield
    finally:
        lock.release()
