"""Students of a model behind an address: what is lost on the way, and what soft answers are worth.

A fine-tuned teacher answers over HTTP with log-probabilities, and `ask` asks it about texts without labels. Gold labels
measure the students on the test texts, and choose nothing.

    direct   taught by the teacher itself
    asked    taught by its answers
    soft     taught by answers of a model that is less sure: drawn at a temperature, a few log-probabilities each, some wrong
    hard     taught by the label alone that each of these replies names
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.asking.scripted_address import ScriptedAddress, Shares
from benchmarks.harness.pieces import Rows
from benchmarks.harness.scenario import markdown_table
from distill.asking.combined import Answered
from distill.asking.labelling import ask
from distill.asking.settings import AskSettings
from distill.asking.task import LabellingTask
from distill.asking.teaching import ANSWERS_OF, open_answers, teacher_of
from distill.bundle import Bundle
from distill.classifier import Classifier
from distill.data import Dataset, Splits, load_splits
from distill.errors import DatasetError
from distill.evaluation.metrics import evaluate
from distill.labels import task_of
from distill.models.loading import load_bundle
from distill.progress import Reporter
from distill.recipes import RECIPES
from distill.settings import BUILTIN_MINILM, DataSettings, DistillSettings
from distill.teacher_settings import TeacherSettings
from distill.teachers.answers import teacher_logits
from distill.training.distillation import train_student
from export.fitting.training import tuned_teacher

ONCE: Final = ("direct", "asked")
REPEATED: Final = ("soft", "hard")
WAYS: Final = {
    "direct": "the teacher itself",
    "asked": "its answers over HTTP",
    "soft": "probabilities of less sure answers",
    "hard": "labels of the same answers",
}
"""Of each way, who teaches."""
OTHER_WORDS: Final = ("mixed", "unclear", "good", "bad", "none", "other")
"""What a language model thinks of besides the labels; with few log-probabilities an unlikely label is not among them."""
CONCURRENCY: Final = 32

Answer = Callable[[str, tuple[str, ...]], Shares]


def recipe() -> DistillSettings:
    """Return how every student learns: the static recipe for a few minutes, made of `builtin:minilm` and no noisy copies."""
    quick = {"student": BUILTIN_MINILM, "epochs": 6, "patience": 6, "max_length": 64}
    return DistillSettings(**{**RECIPES["static"].settings.model_dump(), **quick})


@dataclass(frozen=True)
class Study:
    """What is asked and taught; the defaults are those of the committed result.

    Attributes:
        data: The texts; their gold labels divide the texts, measure on the test texts, and teach the teacher if none is given.
        teacher: A bundle; None: `builtin:minilm`, fine-tuned on these texts.
        seeds: Seeds of the students; `direct` and `asked` have the first alone.
        settings: How a student learns.
        sampling_temperature: At which the less sure model draws its answers.
        top_logprobs: Log-probabilities that it returns at a token.
        stray: Probability that it gives to words which are no label.
        wrong: Share of the texts on which it confuses the likeliest label with another.
    """

    data: DataSettings
    teacher: Path | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: DistillSettings = field(default_factory=recipe)
    sampling_temperature: float = 1.0
    top_logprobs: int = 5
    stray: float = 0.1
    wrong: float = 0.05

    def students(self) -> Iterator[tuple[str, int]]:
        """Yield way and seed of each student."""
        yield from ((way, self.seeds[0]) for way in ONCE)
        yield from ((way, seed) for seed in self.seeds for way in REPEATED)


@dataclass(frozen=True)
class Bench:
    """Where the students are taught.

    Attributes:
        study: What is asked and taught.
        folder: Holds the teacher, the answers and the students.
        rows: The finished rows.
        reporter: Told of each step.
    """

    study: Study
    folder: Path
    rows: Rows
    reporter: Reporter

    @cached_property
    def splits(self) -> Splits:
        """The texts, with their gold labels in the order of the teacher."""
        splits, labels = load_splits(self.study.data), self.teacher.labels
        test = splits.test and splits.test.in_order(labels)
        return Splits(splits.train.in_order(labels), splits.validation.in_order(labels), test)

    @cached_property
    def gold(self) -> Dataset:
        """The test texts, whose labels measure the students."""
        if self.splits.test is None:
            raise DatasetError("gold labels measure the students; give test texts")
        return self.splits.test

    @cached_property
    def teacher(self) -> Bundle:
        """The teacher, fine-tuned now if it is not given."""
        if self.study.teacher is not None:
            return Bundle.open(self.study.teacher)
        splits = load_splits(self.study.data)
        return tuned_teacher(BUILTIN_MINILM, splits, TeacherSettings(), out=self.folder, reporter=self.reporter)

    @cached_property
    def shares(self) -> Mapping[str, Shares]:
        """The teacher's probability of each label, by text."""
        texts = (*self.splits.train.single_texts(), *self.splits.validation.single_texts())
        model = load_bundle(self.teacher)
        found = task_of(model.problem_type).probabilities(teacher_logits(model, texts, reporter=self.reporter).logits)
        return {text: dict(zip(model.labels, row, strict=True)) for text, row in zip(texts, found.tolist(), strict=True)}


def make_students(bench: Bench) -> None:
    """Teach the students whose rows are missing, and keep a row for each."""
    for way, seed in bench.study.students():
        name = f"student-{way}-{seed}"
        if not bench.rows.has(name):
            bench.reporter.say(f"student taught {way}, seed {seed}")
            row = taught(bench, way, seed, {"soft_weight": 0.0} if way == "hard" else {})
            bench.rows.keep({"name": name, "kind": "student", "way": way, "seed": seed, **row})


def student_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the figures of the rows there are: of each pair of ways, the mean over their seeds."""
    found = {way: [row for row in rows if row["kind"] == "student" and row["way"] == way] for way in (*ONCE, *REPEATED)}

    def mean(way: str, name: str) -> float:
        return float(np.mean([row[name] for row in found[way]]))

    figures = {}
    if all(found[way] for way in ONCE):
        figures["share_of_direct"] = mean("asked", "macro_f1") / mean("direct", "macro_f1")
    if all(found[way] for way in REPEATED):
        name = "expected_calibration_error"
        figures["soft_ece_ratio"] = mean("soft", name) / mean("hard", name)
    return figures


def students_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the students: of each way the mean over its seeds; empty without students."""
    found = [row for row in rows if row["kind"] == "student"]
    lines = []
    for way, who in WAYS.items():
        of_way = [row for row in found if row["way"] == way]
        if of_way:
            names = ("right_labels", "macro_f1", "expected_calibration_error")
            lines.append((who, str(len(of_way)), *(f"{np.mean([row[name] for row in of_way]):.4f}" for name in names)))
    columns = ("student taught by", "seeds", "labels that are right", "macro-F1", "calibration error")
    return markdown_table(columns, lines) if lines else ""


def taught(bench: Bench, way: str, seed: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Teach a student in one way; return its quality on the gold test texts, before any temperature calibration.

    Args:
        bench: Texts and answers.
        way: As `lesson_of` knows it; the name of the student's folder.
        seed: Of the student.
        changes: Of the settings.
    """
    teacher, train, validation = lesson_of(bench, way)
    settings = bench.study.settings.model_copy(update={"seed": seed, **changes})
    splits = Splits(train, validation, bench.gold)
    out = bench.folder / "students" / f"{way}-{seed}"
    made = train_student(teacher, splits, unlabeled=(), out=out, settings=settings, reporter=bench.reporter)
    logits = load_bundle(made).predict_logits(bench.gold.texts)
    quality = evaluate(labels=bench.gold.label_ids, logits=logits, label_names=bench.gold.labels)
    return {
        "num_texts": len(train),
        "right_labels": float(np.mean(train.label_ids == bench.splits.train.label_ids)),
        "macro_f1": quality.macro_f1,
        "macro_f1_interval": list(quality.macro_f1_interval),
        "expected_calibration_error": quality.expected_calibration_error,
        "negative_log_likelihood": quality.negative_log_likelihood,
        "training_s": made.manifest.training_s,
    }


def lesson_of(bench: Bench, way: str) -> tuple[Bundle | Classifier, Dataset, Dataset]:
    """Return who teaches, and the texts to learn from and to choose the epoch by, with labels by the teacher.

    Ways other than "direct", "asked" and "hard" are taught by the probabilities of the less sure model.
    """
    parts = bench.splits.train, bench.splits.validation
    if way == "direct":
        named = {text: max(shares, key=lambda name: shares[name]) for text, shares in bench.shares.items()}
        train, validation = (_labelled(part, named) for part in parts)
        return bench.teacher, train, validation
    answered = _asked(bench, exact=way == "asked")
    chosen = answered.chosen if way == "hard" else answered.shares.argmax(axis=1)  # one answer for each text, in order
    named = {str(text): answered.labels[label] for text, label in zip(answered.texts, chosen, strict=True)}
    train, validation = (_labelled(part, named) for part in parts)
    return teacher_of(answered), train, validation


def _labelled(part: Dataset, named: Mapping[str, str]) -> Dataset:
    label_ids = np.array([part.labels.index(named[text]) for text in part.single_texts()])
    return replace(part, label_ids=label_ids)


def _asked(bench: Bench, *, exact: bool) -> Answered:
    """Ask for all texts that have no answer yet; return the answers.

    Args:
        bench: The texts and the teacher's probabilities.
        exact: Whether the model answers as the teacher, at temperature 0; else as the less sure model.
    """
    study, out = bench.study, bench.folder / ("answers" if exact else "answers-less-sure")
    task = LabellingTask(labels={name: {} for name in bench.teacher.labels})
    answer = _exact(bench.shares) if exact else _less_sure(bench.shares, study)
    with ScriptedAddress(answer, model="fine-tuned teacher") as address:
        settings = AskSettings(
            endpoint=address.url,
            model="fine-tuned teacher",
            concurrency=CONCURRENCY,
            sampling_temperature=0.0 if exact else study.sampling_temperature,
            top_logprobs=20 if exact else study.top_logprobs,
        )
        ask(task, bench.shares, out=out, settings=settings, reporter=bench.reporter)
    answered = open_answers(f"{ANSWERS_OF}{out}")
    if len(answered) != len(bench.shares) or answered.is_vote.any():
        raise DatasetError(f"{out} has {len(answered)} answers to {len(bench.shares)} texts; delete it, and ask again")
    return answered


def _exact(shares: Mapping[str, Shares]) -> Answer:
    """Return answers with the teacher's own probabilities."""
    return lambda text, labels: shares.get(text) or _even(labels)


def _less_sure(shares: Mapping[str, Shares], study: Study) -> Answer:
    """Return answers that confuse two labels on some texts, and leave some probability to words that are no label."""

    def answer(text: str, labels: tuple[str, ...]) -> Shares:
        found, draw = dict(shares.get(text) or _even(labels)), random.Random(text)  # noqa: S311
        if draw.random() < study.wrong:
            likeliest = max(found, key=lambda name: found[name])
            other = draw.choice([name for name in found if name != likeliest])
            found[likeliest], found[other] = found[other], found[likeliest]
        strays = dict.fromkeys(OTHER_WORDS, study.stray / len(OTHER_WORDS))
        return {name: share * (1 - study.stray) for name, share in found.items()} | strays

    return answer


def _even(labels: tuple[str, ...]) -> Shares:
    """Return the answer to a question that begins a run: it is about the labels, and none of the texts."""
    return dict.fromkeys(labels, 1 / len(labels))
