"""The forms of `potstill fit`: every recipe with every precision of its embedding tables, timed and weighed untrained.

Speed and size depend on the shape of a student and not on its weights, so they are known before anything is trained.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from distill.asking.teaching import is_answers
from distill.data import Dataset, Splits, limited
from distill.errors import SettingsError
from distill.machine import machine_name
from distill.models.loading import load_pretrained
from distill.models.torch_classifier import TorchClassifier
from distill.progress import Reporter, SilentReporter
from distill.recipes import RECIPES, RecipeName, RecipeOptions, Stage, recipes_for, stages_of
from distill.settings import Unsure
from distill.storage import kept_or_made
from distill.students.bases import base_of
from distill.teachers.teacher import Teacher
from distill.texts import TextInput
from distill.training.by_recipe import text_facts, untrained_student
from distill.training.pace import BACKWARD, answer_s
from export.fitting.choose import Costs
from export.fitting.reporting.result import Tables
from export.int8.calibration import channel_ranges
from export.int8.ladder import asked_form
from export.int8.linear import linear_inputs
from export.int8.quantize import quantize, scales_of_graph
from export.measure import openers
from export.measure.protocol import Job
from export.measure.statistics import medians_of, over_processes
from export.measure.turns import Contender, next_texts, take_turns
from export.pipeline import written_graph
from export.settings import BenchSettings, ExportSettings, FitSettings

RUNG_SHARE: Final = 0.25
"""Share of the training after which the weaker half of the recipes is stopped."""
FEWEST_HALVED: Final = 4
"""Recipes from which that is done: of three, a quarter each and two in full would be 2.75 trainings."""
SAMPLE_TEXTS: Final = 4_000
"""Training texts that the vocabulary of an untrained student is chosen on."""
CALIBRATION_TEXTS: Final = 32
MANIFEST_BYTES: Final = 10_000
"""About what a sealed manifest takes."""
TIMING: Final = BenchSettings(processes=3, rounds=6, texts_per_round=60, settle_s=1.0, window_s=0.05)


@dataclass(frozen=True)
class Form:
    """A recipe with a precision of its embedding tables.

    Attributes:
        recipe: Name of the recipe.
        tables: Precision of the tables in the int8 graph.
        costs: What its untrained student takes.
    """

    recipe: str
    tables: Tables
    costs: Costs

    @property
    def name(self) -> str:
        """As it is shown: `narrow/int4`."""
        return f"{self.recipe}/{self.tables}"


@dataclass(frozen=True)
class Candidates:
    """All forms, and what is known before training.

    Attributes:
        forms: Every form.
        stages: By recipe, the assistants and the student.
        in_part: The same, with a student that gets `RUNG_SHARE` of its training.
        step_s: By recipe, about how many seconds of training one text takes.
        teacher_answer_s: Seconds that the teacher takes for one text among many.
        max_length: Tokens of a text that the students read.
        truncated: Share of the training texts that are longer.
    """

    forms: tuple[Form, ...]
    stages: Mapping[str, tuple[Stage, ...]]
    in_part: Mapping[str, tuple[Stage, ...]]
    step_s: Mapping[str, float]
    teacher_answer_s: float
    max_length: int
    truncated: float

    def costs(self) -> dict[str, Costs]:
        """Return what each form takes, by its name."""
        return {form.name: form.costs for form in self.forms}

    def taught(self, unsure: Unsure) -> Candidates:
        """Return the same with students, assistants among them, that treat unsure answers this way."""

        def changed(stages: Mapping[str, Sequence[Stage]]) -> dict[str, tuple[Stage, ...]]:
            update = {"unsure": unsure}
            return {
                name: tuple(replace(one, settings=one.settings.model_copy(update=update)) for one in each)
                for name, each in stages.items()
            }

        return replace(self, stages=changed(self.stages), in_part=changed(self.in_part))

    def assistants(self) -> list[Stage]:
        """Return every stage that another student is made of, each once."""
        found: list[Stage] = []
        for *before, _ in self.stages.values():
            found += [stage for stage in before if stage not in found]
        return found


def weighed_forms(
    teacher: Teacher, splits: Splits, *, num_unlabelled: int, settings: FitSettings, kept: Path | None, reporter: Reporter
) -> Candidates:
    """Build the untrained student of each recipe, write its int8 graphs, time and weigh them.

    Args:
        teacher: The opened teacher; its weights do not matter.
        splits: The texts.
        num_unlabelled: Further texts.
        settings: Effort, seed and which recipes.
        kept: File of the measured costs, from which a resumed run reads them; None keeps nothing.
        reporter: Shows progress.

    Raises:
        SettingsError: No recipe can be made of this teacher.
    """
    base, sample = base_of(teacher, splits.train.texts), limited(splits.train, SAMPLE_TEXTS, seed=0)
    facts = text_facts(teacher, splits, num_unlabelled, base=base)
    # Where the labels are the teacher's own answers, hard labels would only make students surer than the teacher is.
    changes = {"soft_weight": 1.0} if is_answers(splits.train.source) else {}
    options = RecipeOptions(effort=settings.effort, seed=settings.seed, changes=changes)
    names = settings.recipes or recipes_for(settings.effort)
    if not settings.recipes and len(names) < len(RECIPES):
        reporter.say(f"--effort {settings.effort} considers {', '.join(names)}; name others with --recipes")
    stages = {name: stages_of(RECIPES[name], facts, options, base=base.source) for name in names}
    part = replace(options, share=RUNG_SHARE)
    in_part = {name: stages_of(RECIPES[name], facts, part, base=base.source) for name in names}
    lender = teacher.lender() if base.source is None else _pretrained(base.source, splits.train, facts.max_length)

    shapes = [[one.settings.model_dump(mode="json") for one in each] for each in stages.values()]
    decided_by = [teacher.digest(), base.source, shapes, sample.fingerprint(), machine_name()]
    weigh = partial(_costs, stages, lender, sample, teacher, reporter)
    costs = weigh() if kept is None else kept_or_made(kept, decided_by=decided_by, make=weigh)
    if not costs["forms"]:
        raise SettingsError("no recipe can be made of this teacher; name another one, or see the reasons above")
    weighed = [Form(*_parts(name), Costs(ms, size)) for name, ms, size in costs["forms"]]
    longest = next(iter(stages.values()))[-1].settings.max_length or 0
    return Candidates(
        forms=tuple(sorted(weighed, key=lambda form: form.costs.ms)),
        stages={name: stages[name] for name in names if name in costs["step_s"]},
        in_part={name: in_part[name] for name in names if name in costs["step_s"]},
        step_s=costs["step_s"],
        teacher_answer_s=costs["teacher_answer_s"],
        max_length=longest,
        truncated=float((np.asarray(facts.token_lengths) > longest).mean()),
    )


def _costs(
    stages: Mapping[RecipeName, Sequence[Stage]],
    lender: TorchClassifier,
    sample: Dataset,
    teacher: Teacher,
    reporter: Reporter,
) -> dict[str, Any]:
    """Return, as JSON values, what each form takes, the seconds of a step by recipe, and those of an answer of the teacher."""
    sizes, steps = {}, {}
    contenders: list[Contender] = []
    with tempfile.TemporaryDirectory() as place, reporter.task("weighing untrained students", len(stages)) as advance:
        for name, found in stages.items():
            try:
                student = untrained_student(found, lender, sample)
            except SettingsError as exc:
                reporter.say(f"{name} is left out: {exc}")
                advance(1)
                continue
            steps[name] = BACKWARD * answer_s(student, sample.texts)
            for tables, graph in _int8_graphs(student, sample).items():
                contenders.append(_contender(f"{name}/{tables}", graph, student, Path(place)))
                sizes[f"{name}/{tables}"] = len(graph) + len(student.tokenizer.to_json().encode()) + MANIFEST_BYTES
            advance(1)
        p50_ms = timed(contenders, sample.texts, reporter=reporter) if contenders else {}
    model = teacher.torch_member()
    return {
        "forms": [[name, ms, sizes[name]] for name, ms in p50_ms.items()],
        "step_s": steps,
        "teacher_answer_s": 0.0 if model is None else answer_s(model, sample.texts),
    }


def _parts(name: str) -> tuple[str, Tables]:
    recipe, _, tables = name.partition("/")
    return recipe, next(each for each in get_args(Tables) if each == tables)


def _pretrained(source: str, train: Dataset, max_length: int | None) -> TorchClassifier:
    return load_pretrained(source, labels=train.labels, max_length=max_length or 128, seed=0, problem_type=train.problem_type)


def _int8_graphs(student: TorchClassifier, sample: Dataset) -> dict[Tables, bytes]:
    """Return the int8 graph of a student for each precision of the tables; no gate judges it."""
    asked = ExportSettings()
    fp32 = written_graph(student, asked, SilentReporter())
    ranges = channel_ranges(fp32, linear_inputs(fp32), texts=sample.texts[:CALIBRATION_TEXTS], tokenizer=student.tokenizer)
    scales = scales_of_graph(fp32, ranges)
    return {tables: quantize(fp32, scales, asked_form(asked, tables)).SerializeToString() for tables in get_args(Tables)}


def timed(contenders: Sequence[Contender], texts: Sequence[TextInput], *, reporter: Reporter) -> dict[str, float]:
    """Return the median time of one text in milliseconds by name, the contenders taking turns."""
    hands = next_texts(len(texts), TIMING.rounds, TIMING.texts_per_round)
    turns = take_turns(contenders, texts, hands, "single", TIMING, reporter=reporter).required()
    return {name: over_processes(medians_of(found.ms, found.process_of)).value for name, found in turns.items()}


def _contender(name: str, graph: bytes, student: TorchClassifier, place: Path) -> Contender:
    """Write an untrained graph to where its processes find it."""
    about = {"labels": student.labels, "problem_type": student.problem_type}
    folder = openers.write_graph(place / name, graph, student.tokenizer, about)
    return Contender(name, openers.__name__, Job(bundle=folder, folder=folder, threads=1, options={"graph": name}))


def recipes_of(forms: Sequence[Form]) -> tuple[str, ...]:
    """Return the recipes of forms, each once; forms of one recipe share one training."""
    return tuple(dict.fromkeys(form.recipe for form in forms))
