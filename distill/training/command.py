"""What `potstill distill` does once its flags are read: gather texts and teachers, train one student or several, print."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from distill.bundle import Bundle
from distill.data import TextSources, load_splits
from distill.inputs import recorded_teacher
from distill.progress import is_first_process, reporter_for_terminal
from distill.proof_report import PROOF_COLUMNS, proof_cells
from distill.settings import DataSettings, DistillSettings, TrialSettings
from distill.terminal import print_cells, print_json, print_line, print_made, say_all
from distill.training.fit import fit_student
from distill.training.trials import run_trials


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
