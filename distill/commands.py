"""The flags of `potstill select`, `teacher`, `adopt` and `distill`, and what they print.

Heavy modules are imported inside the functions, so that `--help` loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from distill.cli.bars import reporter_for_terminal
from distill.cli.flags import GROUPS, BundleOut, Data, Flat, Json, Unlabeled, with_headings
from distill.cli.reading import adopting_texts, gate_texts, recorded_teacher, reported_splits
from distill.cli.terminal import print_cells, print_json, print_made
from distill.errors import SettingsError
from distill.progress import Reporter, is_first_process
from distill.recipes import RecipeSettings
from distill.settings import BUILTIN_MINILM, DataSettings, DistillSettings, TrialSettings
from distill.teacher_settings import OriginSettings, SelectSettings, TeacherSettings

if TYPE_CHECKING:
    from distill.bundle import Bundle
    from distill.data import Dataset
    from distill.evaluation.intervals import Estimate
    from distill.evaluation.proof import ProofReport
    from distill.training.origin import SourceTask

SELECTION_COLUMNS = ("candidate", "layers", "expected macro-F1", "95 % interval", "LogME", "H-score", "s", "cached")


@with_headings
def select(
    *,
    candidates: Annotated[
        tuple[str, ...],
        Parameter(group=GROUPS["Data"], help="encoders to rank: folders, bundles, hub ids, builtin:minilm or builtin:mpnet"),
    ] = (BUILTIN_MINILM,),
    data: Data = DataSettings(),
    settings: Annotated[SelectSettings, Flat] = SelectSettings(),
    json: Json = False,
) -> None:
    """Rank encoders on the training texts; validation and test texts are not used."""
    from distill.transfer.select import select as rank

    if len(set(candidates)) != len(candidates):
        raise SettingsError(f"--candidates must be distinct, got {list(candidates)}")
    reporter = reporter_for_terminal()
    selection = rank(candidates, reported_splits(data, reporter).train, settings, reporter=reporter)
    if json:
        print_json(selection.to_dict())
        return
    rows = [
        (
            one.candidate,
            str(one.layers),
            f"{one.expected_macro_f1:.4f}",
            f"{one.interval[0]:.4f}-{one.interval[1]:.4f}",
            f"{one.log_maximum_evidence:.4f}",
            f"{one.h_score:.4f}",
            f"{one.seconds:.1f}",
            str(one.num_cached),
        )
        for one in selection.ranked
    ]
    print_cells(SELECTION_COLUMNS, rows)
    print(f"{selection.words} Ranked on {selection.num_texts} texts.")
    if selection.curve:
        print_cells(("labels", "macro-F1"), [(str(count), f"{score:.4f}") for count, score in selection.curve])
    for suspect in selection.suspects:
        print(
            f"suspect label {suspect.label!r}, likely {suspect.likely!r} ({suspect.confidence:.3f}): "
            f"{' '.join(suspect.text.split())[:80]}"
        )


@with_headings
def teacher(
    *,
    out: BundleOut,
    data: Data = DataSettings(),
    model: Annotated[
        str,
        Parameter(group=GROUPS["Teacher"], help="encoder to fine-tune: a folder, a hub id, builtin:minilm or builtin:mpnet"),
    ] = BUILTIN_MINILM,
    origin: Annotated[OriginSettings, Flat] = OriginSettings(),
    settings: Annotated[TeacherSettings, Flat] = TeacherSettings(),
    json: Json = False,
) -> None:
    """Fine-tune a teacher and print its quality; with --control, compare it with one that ignores --init."""
    from distill.bundle import Bundle
    from distill.data import TextSources, texts_not_in
    from distill.evaluation.proof import verdict_in_words
    from distill.training.fine_tuning import fit_teacher
    from distill.training.origin import Origin

    if origin.control and origin.init is None:
        raise SettingsError("--control compares with a teacher trained without --init, but --init is not given")
    reporter = reporter_for_terminal()
    splits = reported_splits(data, reporter)
    held_out = [part for part in (splits.validation, splits.test) if part is not None]
    texts: dict[str, Any] = {"train": splits.train, "validation": splits.validation, "reporter": reporter}
    begun = Origin(
        init=None if origin.init is None else Bundle.open(origin.init),
        source=None if origin.source is None else _source(origin.source, data),
        adapt_texts=tuple(texts_not_in(TextSources(origin.adapt, data), held_out)) if origin.adapt else (),
    )
    made = fit_teacher(model, out=out, settings=settings, origin=begun, **texts)
    if origin.control and origin.init is not None:
        # The control is adapted to the same texts: only --init differs, so that adaptation is not credited to the source.
        alone = out.with_name(f"{out.name}-alone")
        settings = settings.model_copy(update={"replay_share": 0.0})
        control = fit_teacher(model, out=alone, settings=settings, origin=Origin(adapt_texts=begun.adapt_texts), **texts)
        gain = _gain(made, control, splits.test or splits.validation)
        subject = f"transfer from {Path(origin.init).name}"
        reporter.say(verdict_in_words(gain, subject=subject, against="the target's labels alone", num_seeds=1))
    print_made(made, json=json)


@with_headings
def adopt(
    source: Annotated[str, Parameter(help="folder of a fine-tuned sequence classifier, or hub:ID")],
    /,
    *,
    out: BundleOut,
    data: Data = DataSettings(),
    json: Json = False,
) -> None:
    """Make a bundle; with --validation or --train, match LABEL_0, ... to the data's labels and check their order."""
    from distill.teachers.adopting import adopt as make
    from distill.teachers.adopting import labels_to_read

    reporter = reporter_for_terminal()
    labelled = gate_texts(data, labels_to_read(source), reporter) if data.train or data.validation else None
    print_made(make(source, out=out, labelled=labelled, reporter=reporter), json=json)


@with_headings
def distill(
    teachers: Annotated[
        tuple[Path, ...],
        Parameter(
            help="one or more teachers: bundles, Hugging Face classifiers, hub:ID; answers:FOLDER: the answers of "
            "`potstill ask`, which also replace --train if it is not given. Logits of several are averaged, and "
            "the first supplies the student's layers; each must be fine-tuned and then asked for all texts, so three "
            "of a size take three times as long as one"
        ),
    ] = (),
    /,
    *,
    out: BundleOut,
    data: Data = DataSettings(),
    unlabeled: Unlabeled = (),
    scored: Annotated[
        tuple[Path, ...],
        Parameter(
            group=GROUPS["Transfer set"],
            help="output folders of `potstill score TEACHER --logits`; the logits in them are not computed again",
        ),
    ] = (),
    named: Annotated[RecipeSettings, Flat] = RecipeSettings(),
    settings: Annotated[DistillSettings, Flat] = DistillSettings(),
    trials: Annotated[TrialSettings, Flat] = TrialSettings(),
    json: Json = False,
) -> None:
    """Train a student, or several with --control or --seeds, and print their quality."""
    from distill.asking.teaching import labelled_by, on_soft_targets
    from distill.data import TextSources
    from distill.teachers.teacher import open_teacher, with_scored
    from distill.training.by_recipe import fit_by_recipe
    from distill.training.distillation import train_student
    from distill.training.trials import run_trials

    answered = labelled_by(teachers)
    if answered is not None and not data.train:
        settings = on_soft_targets(settings)
    recipe, chosen = named.recipe_for(settings)
    reporter = reporter_for_terminal()
    opened = _opened(teachers, data, reporter)
    splits = reported_splits(data, reporter, labels=opened[0].labels if opened else (), train=answered)
    further = chain(TextSources(unlabeled, data), answered.texts if answered else ())
    arguments: dict[str, Any] = {"unlabeled": further, "out": out, "reporter": reporter}
    several_runs = trials.control or trials.seeds > 1
    with ExitStack() as stack:
        if data.teacher_logits_column is not None:
            compared = (data.test,) if several_runs and data.test else ()  # the teacher is measured only there
            recorded = recorded_teacher(data, (*unlabeled, *compared), splits.train, out=out, device=settings.device)
            opened.append(stack.enter_context(recorded))
        teaching = with_scored(open_teacher(opened, device=settings.device), scored, reporter=reporter)
        if several_runs:
            how = chosen or settings
            bundle, report = run_trials(teaching, splits, **arguments, settings=how, recipe=recipe, trials=trials)
            _print_proof(bundle, report, json=json)
        elif recipe is not None:
            print_made(fit_by_recipe(recipe, teaching, splits, **arguments, options=chosen), json=json)
        else:
            print_made(train_student(teaching, splits, **arguments, settings=settings), json=json)


def _opened(teachers: Sequence[Path], data: DataSettings, reporter: Reporter) -> list[Any]:
    """Return the named teachers: bundles, classifiers adopted now, answers of language models."""
    from distill.asking.teaching import is_answers, open_answers, teacher_of
    from distill.opening import open_or_adopt

    texts = adopting_texts(data)  # training judges the teachers; here they only name labels
    return [
        teacher_of(open_answers(path))
        if is_answers(path)
        else open_or_adopt(path, labelled=texts, judged=False, reporter=reporter)
        for path in teachers
    ]


def _print_proof(bundle: Bundle, report: ProofReport, *, json: bool) -> None:
    from distill.evaluation.proof import PROOF_COLUMNS, proof_cells

    if not is_first_process():
        return
    if json:
        print_json({"bundle": str(bundle.path), **report.to_dict()})
        return
    print(f"measured on {report.num_texts} {report.split} texts")
    print_cells(PROOF_COLUMNS, proof_cells(report))
    print(report.words)
    print(f"sealed {bundle.path}: the student of seed {report.chosen_seed}, best on the validation texts")


def _gain(made: Bundle, control: Bundle, judge: Dataset) -> Estimate:
    """Return by how much the macro-F1 of one teacher exceeds that of another, with a paired interval over texts."""
    from distill.evaluation.intervals import Bootstrap
    from distill.models.loading import load_bundle

    bootstrap = Bootstrap(judge.label_ids, num_labels=len(judge.labels), num_seeds=1)
    logits = (load_bundle(one).predict_logits(judge.texts) for one in (made, control))
    first, second = (bootstrap.macro_f1(judge.task.decisions(each)) for each in logits)
    return (first - second).estimate()


def _source(name: str, data: DataSettings) -> SourceTask:
    """Return the texts of the source task; a fifth of a file is held out as its test texts, a built-in set has its own."""
    from distill.data import load_splits
    from distill.training.origin import SourceTask

    test = name if name.startswith(("builtin:", "hub:")) else None
    changed = {"train": (name,), "validation": None, "test": test, "labels": ()} | ({} if test else {"validation_share": 0.2})
    return SourceTask.of_splits(load_splits(data.model_copy(update=changed)))
