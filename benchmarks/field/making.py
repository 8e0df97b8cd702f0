"""Making what the field's scenarios measure: the teacher, noisy copies, its answers, the students and their graphs.

Everything is kept in the work folder and made once. Before each part, its time is estimated from a few texts.

work/teacher/                     the teacher; an interrupted fine-tuning resumes there
work/students/2-layers-seed-0/    a student with its graphs; other students are made of it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.field.study import EFFORT, FIRST, FieldStudy
from benchmarks.field.texts import FieldTexts
from distill.bundle import Bundle
from distill.data import Dataset, fold, limited
from distill.labels import Logits
from distill.models.devices import chosen_mixed_precision
from distill.models.loading import load_pretrained
from distill.models.torch_classifier import TorchClassifier
from distill.progress import Reporter
from distill.recipes import RECIPES, RecipeName, Stage, TextFacts, settings_for
from distill.settings import AugmentSettings
from distill.teachers.answers import teacher_logits
from distill.teachers.teacher import Teacher
from distill.texts import TextInput
from distill.training.augmentation import Augmentation, neighbours_of
from distill.training.by_recipe import Learning, train_once_each, untrained_student
from distill.training.finished import whole_bundle
from distill.training.pace import BACKWARD, answer_s, say_answers
from distill.training.processes import lengths_of
from export.fitting.training import tuned_teacher
from export.pipeline import export_bundle
from export.settings import ExportSettings

SAMPLE_TEXTS = 4_000
LONGEST = 512
STUDENTS = "students"


@dataclass(frozen=True)
class FieldBench:
    """Where a run of a field's scenario works, and on what.

    Attributes:
        study: What is trained.
        texts: The set.
        work: Work folder.
        reporter: Told of progress.
    """

    study: FieldStudy
    texts: FieldTexts
    work: Path
    reporter: Reporter

    @property
    def train(self) -> Dataset:
        """Training rows."""
        return self.texts.splits.train

    @property
    def validation(self) -> Dataset:
        """Whole sentences that choose the epoch and judge the graphs."""
        return self.texts.splits.validation

    def base(self) -> TorchClassifier:
        """Return what the students are made of, with a random head."""
        return load_pretrained(self.study.base, labels=self.train.labels, max_length=LONGEST, seed=0)


def made_teacher(bench: FieldBench) -> Bundle:
    """Fine-tune the teacher unless it is there, and write its fp32 graph."""
    study = bench.study
    settings = study.teacher.model_copy(update={"seed": study.seeds[0]})
    bundle = tuned_teacher(study.model, bench.texts.splits, settings, out=bench.work, reporter=bench.reporter)
    if "fp32" not in bundle.manifest.precisions:
        only = ExportSettings(precisions=("fp32",))
        bundle = export_bundle(bundle, validation=bench.validation, settings=only, reporter=bench.reporter)
    return bundle


def noisy_copies(bench: FieldBench, base: TorchClassifier) -> tuple[str, ...]:
    """Return noisy copies of the training and further texts, made without the teacher, so that anyone can make them again.

    The words of the base replace each other; none is masked, as the teacher has another mask token. No copy equals a text
    that chooses or measures.
    """
    if not bench.study.copies:
        return ()
    held_out = (bench.validation, *bench.texts.measuring.values())
    never = {fold(text) for part in held_out for text in part.texts}
    augmentation = Augmentation(
        settings=AugmentSettings(augment=bench.study.copies),
        seed=0,
        neighbours=neighbours_of(base.tokenizer.vocabulary(), base.input_vectors()),
    )
    sources = (bench.train.single_texts(), bench.texts.further)
    made = (copy for texts in sources for copy in augmentation.copies(texts, partners=texts, never=never))
    return tuple(dict.fromkeys(copy for copy in made if isinstance(copy, str)))


def answered(bench: FieldBench, teacher: Teacher, texts: Sequence[TextInput]) -> Logits:
    """Return the teacher's logits; those that an earlier run has computed are in the cache."""
    model = teacher.torch_member()
    if model is not None:
        say_answers(model, bench.train.texts, count=len(texts), reporter=bench.reporter)
    compute = chosen_mixed_precision("auto", model.model.device) if model is not None else "no"
    return teacher_logits(teacher.asked, texts, compute=compute, reporter=bench.reporter).logits


def stages_for(bench: FieldBench, name: RecipeName, facts: TextFacts, *, seed: int) -> tuple[Stage, ...]:
    """Return the students that a recipe's student is made of, each trained in full, and the student itself."""
    recipe, study = RECIPES[name], bench.study
    before = recipe.assistant or (FIRST if name != FIRST else None)
    earlier = () if before is None else stages_for(bench, before, facts, seed=seed)
    changes = {**study.changes, "augment": 0, "seed": seed, "student": None if earlier else study.base}
    return (*earlier, Stage(name, settings_for(recipe, facts, effort=EFFORT, share=study.share, changes=changes)))


def facts_of(bench: FieldBench, base: TorchClassifier, num_unlabelled: int) -> TextFacts:
    """Return what the recipes' settings depend on; the lengths are those of whole sentences, not of phrases."""
    tokens = base.tokenizer.with_max_length(1_000_000).encode(bench.validation.texts)
    return TextFacts(
        num_labelled=len(bench.train),
        num_unlabelled=num_unlabelled,
        token_lengths=lengths_of(tokens),
        max_length=LONGEST,
        answers_new_texts=False,
    )


def promise_students(
    bench: FieldBench, base: TorchClassifier, facts: TextFacts, students: Sequence[tuple[RecipeName, int]]
) -> None:
    """Estimate how long these students and what they are made of take, from their untrained shapes.

    Args:
        bench: Where.
        base: What they are made of.
        facts: Of the texts.
        students: Recipe and seed of each; those whose bundles are there take no time.
    """
    sample, texts = limited(bench.train, SAMPLE_TEXTS, seed=0), facts.num_labelled + facts.num_unlabelled
    each: dict[str, float] = {}
    missing: set[tuple[str, int]] = set()
    for name, seed in students:
        for place, stage in enumerate(stages := stages_for(bench, name, facts, seed=seed)):
            if whole_bundle(bench.work / STUDENTS / f"{stage.name}-seed-{seed}") is not None:
                continue
            missing.add((stage.name, seed))
            if stage.name not in each:
                shape = untrained_student(stages[: place + 1], base, sample)
                views = min(texts, stage.settings.max_texts or texts) * stage.settings.epochs
                each[stage.name] = BACKWARD * answer_s(shape, sample.texts) * views
    if missing:
        said = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in each.items())
        minutes = sum(each[name] for name, _ in missing) / 60
        bench.reporter.say(f"{len(missing)} students: about {minutes:.0f} minutes ({said} minutes each)")


def made_student(learning: Learning, stages: Sequence[Stage], *, folder: Path) -> Bundle:
    """Train a student and what it is made of, unless they are there, and write its graphs.

    Raises:
        GateError: A graph is not as good as the student.
    """
    bundle = train_once_each(stages, folder=folder, learning=learning)
    if "int8" in bundle.manifest.precisions:
        return bundle
    return export_bundle(bundle, validation=learning.splits.validation, reporter=learning.reporter)
