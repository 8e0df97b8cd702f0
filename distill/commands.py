"""What `potstill teacher`, `select` and `distill` do once their flags are read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from distill.bundle import Bundle
from distill.cli.bars import reporter_for_terminal
from distill.cli.reading import recorded_teacher
from distill.cli.terminal import print_cells, print_json, print_line, print_made, say_all
from distill.data import Dataset, TextSources, load_splits, texts_not_in
from distill.errors import SettingsError
from distill.evaluation.intervals import Bootstrap, Estimate
from distill.evaluation.proof import PROOF_COLUMNS, proof_cells
from distill.models.loading import load_bundle
from distill.progress import Reporter, is_first_process
from distill.settings import DataSettings, DistillSettings, TrialSettings
from distill.training.distillation import fit_student
from distill.training.fine_tuning import Source, fit_carried
from distill.training.trials import run_trials
from distill.transfer.guards import transfer_words
from distill.transfer.select import Selection, select
from distill.transfer_settings import CarrySettings, OriginSettings, SelectSettings


def teach(
    teachers: Sequence[Path],
    data: DataSettings,
    settings: DistillSettings,
    trials: TrialSettings,
    *,
    unlabeled: tuple[str, ...],
    scored: tuple[Path, ...],
    out: Path,
    json: bool,
) -> None:
    """Train a student, or with a control or several seeds a few, and print what was made and how they compare."""
    reporter = reporter_for_terminal()
    opened: list[Any] = [Bundle.open(teacher) for teacher in teachers]
    splits = load_splits(data, labels=opened[0].labels if opened else ())
    say_all(reporter, splits.notes)
    further = TextSources(unlabeled, data)
    chosen: dict[str, Any] = {"train": splits.train, "validation": splits.validation, "unlabeled": further, "test": splits.test}
    chosen["scored"] = scored
    trying = trials.control or trials.seeds > 1
    measured = (data.test,) if trying and data.test else ()  # only there the teacher is compared on them
    with ExitStack() as stack:
        if data.teacher_logits_column is not None:
            recorded = recorded_teacher(data, (*unlabeled, *measured), splits.train, out=out, device=settings.device)
            opened.append(stack.enter_context(recorded))
        if not trying:
            print_made(fit_student(opened, **chosen, out=out, settings=settings, reporter=reporter), json=json)
            return
        bundle, report = run_trials(opened, **chosen, out=out, settings=settings, trials=trials, reporter=reporter)
    if not is_first_process():
        return
    if json:
        print_json({"bundle": str(bundle.path), **report.to_dict()})
        return
    print_line(f"measured on {report.num_texts} {report.split} texts")
    print_cells(PROOF_COLUMNS, proof_cells(report))
    print_line(f"{report.words}\nsealed {bundle.path}: the student of seed {report.chosen_seed}, best on the validation texts")


def make_teacher(
    model: str, origin: OriginSettings, data: DataSettings, settings: CarrySettings, *, out: Path, reporter: Reporter
) -> Bundle:
    """Read the texts and make the teacher.

    Args:
        model: The encoder, where `origin` names no bundle.
        origin: A bundle to go on from, its source task, texts to adapt to.
        data: What the user named.
        settings: How to carry over.
        out: The bundle's folder.
        reporter: Told of what was dropped, and of progress.
    """
    splits = load_splits(data)
    for note in splits.notes:
        reporter.say(note)
    if origin.control and origin.init is None:
        raise SettingsError("control compares with a teacher that does not go on from --init, which is not given")
    held_out = [part for part in (splits.validation, splits.test) if part is not None]
    unlabeled = texts_not_in(TextSources(origin.adapt, data), held_out) if origin.adapt else ()
    made = fit_carried(
        model,
        train=splits.train,
        validation=splits.validation,
        out=out,
        settings=settings,
        init=None if origin.init is None else Bundle.open(origin.init),
        source=None if origin.source is None else _source(origin.source, data),
        adapt_texts=unlabeled,
        reporter=reporter,
    )
    if origin.control and origin.init is not None:
        alone = out.with_name(f"{out.name}-alone")
        settings = settings.model_copy(update={"replay_share": 0.0})
        control = fit_carried(
            model, train=splits.train, validation=splits.validation, out=alone, settings=settings, reporter=reporter
        )
        judge = splits.test or splits.validation
        reporter.say(transfer_words(gain_of(made, control, judge), source=Path(origin.init).name, num_seeds=1))
    return made


def gain_of(made: Bundle, control: Bundle, judge: Dataset) -> Estimate:
    """Return by how much one teacher's macro-F1 is above another's on the same texts, with a paired interval."""
    bootstrap = Bootstrap(judge.label_ids, num_labels=len(judge.labels), num_seeds=1)
    scores = [bootstrap.macro_f1(judge.task.decisions(load_bundle(one).predict_logits(judge.texts))) for one in (made, control)]
    return (scores[0] - scores[1]).estimate()


def rank(candidates: Sequence[str], data: DataSettings, settings: SelectSettings, *, reporter: Reporter) -> Selection:
    """Read the training texts and rank the candidates on them; validation and test texts are not looked at."""
    if len(set(candidates)) != len(candidates):
        raise SettingsError("a candidate is named twice; name each once")
    splits = load_splits(data)
    for note in splits.notes:
        reporter.say(note)
    return select(candidates, splits.train, settings, reporter=reporter)


def _source(name: str, data: DataSettings) -> Source:
    """The source task's texts; a built-in set's own test texts measure it, of a file a fifth."""
    test = name if name.startswith(("builtin:", "hub:")) else None
    share = data.validation_share if test else 0.2
    return Source.of_splits(
        load_splits(
            data.model_copy(
                update={"train": (name,), "validation": None, "test": test, "validation_share": share, "labels": ()}
            )
        )
    )


COLUMNS = ("candidate", "layers", "expected macro-F1", "95 % interval", "LogME", "H-score", "s", "cached")


def print_selection(selection: Selection) -> None:
    """Print the table, the recommendation, and what else was asked for."""
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
    print_cells(COLUMNS, rows)
    print_line(f"{selection.words} Ranked on {selection.num_texts} texts.")
    if selection.curve:
        print_cells(("labels", "macro-F1"), [(str(count), f"{score:.4f}") for count, score in selection.curve])
    for suspect in selection.suspects:
        text = " ".join(suspect.text.split())[:80]
        print_line(f"suspect label {suspect.label!r}, likely {suspect.likely!r} ({suspect.confidence:.3f}): {text}")
