"""The `training` scenario: potstill's distillation against a `Trainer` that asks the teacher in every step.

Same student to start from, same texts, epochs, batch and rates, each run in a process of its own, taking turns. potstill's
time holds everything: the teacher's pass, from an empty cache, and the sealing of the bundle. The peer's clock starts when
its models are loaded and its texts are tokenized. After each epoch both are asked for the test texts, as retention is a share
of the teacher's score on those; nothing is chosen by it, the times are all that is kept.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import Field

from benchmarks.harness.deciding import TRAINING
from benchmarks.harness.pieces import Pieces
from benchmarks.harness.programs import found_by
from benchmarks.harness.scenario import QUALITY, Columns, Context, Outcome, Result, Row, Scenario, table_of
from benchmarks.harness.texts import measured_on, task_texts
from benchmarks.quality.arms import TEACHER, UNLABELED
from distill.bundle import Bundle
from distill.evaluation.intervals import Estimate, mean_estimate
from distill.evaluation.metrics import macro_f1
from distill.machine import available_cpus
from distill.progress import SilentReporter
from distill.recipes import RECIPES
from distill.settings import DataSettings, DistillSettings, Settings
from distill.storage import cache_dir

SETTINGS: Final = RECIPES["3-layers"].settings.model_copy(update={"max_length": 64, "batch_size": 32})
"""The 3-layer student, on its labelled and unlabelled texts without noisy copies."""
SEEDS: Final = (0, 1, 2)
SIDES: Final = ("potstill", "trainer")
WORDS: Final = {
    "texts_per_second": "Texts a second, potstill over the Trainer: {:.2f} ({:.2f} to {:.2f}).",
    "time_to_97": "Time to the wanted score, the Trainer over potstill: {:.2f} ({:.2f} to {:.2f}).",
    "macro_f1": "macro-F1, potstill minus the Trainer: {:+.4f} ({:+.4f} to {:+.4f}).",
}
WANTED_RETENTION: Final = 0.97
RUN_TIMEOUT_S: Final = 3600


class TrainingSettings(Settings):
    """What is run."""

    seeds: tuple[int, ...] = Field(SEEDS, min_length=1, description="seeds; each gives one pair of runs")
    epochs: int = Field(3, ge=1, description="epochs of both runs of a pair")


def run(settings: TrainingSettings, context: Context) -> Outcome:
    """Run both sides with each seed, one after the other; a row per seed and side.

    Raises:
        PotstillError: A run died, or took more than `RUN_TIMEOUT_S`.
    """
    pieces = Pieces(context.folder)
    pairs = [pieces.get(f"{seed}-{settings.epochs}", partial(_pair, seed, settings.epochs, context)) for seed in settings.seeds]
    return Outcome([row for pair in pairs for row in pair])


def _pair(seed: int, epochs: int, context: Context) -> list[dict[str, Any]]:
    context.reporter.say(f"training, seed {seed}: potstill, then the Trainer")
    how = SETTINGS.model_copy(update={"seed": seed, "epochs": epochs})
    teacher = Bundle.open(context.trained(TEACHER, seed))
    return run_pair(teacher, how, context.data, () if context.quick else UNLABELED)


def figures(result: Result) -> dict[str, float]:
    """Return the means over seeds of the paired ratios; above 1 potstill is faster.

    A Trainer that never reached the wanted score counts with all the time it had: the ratio is then at least that. The ratio
    of times is missing if a student of ours never reached it.
    """
    compared = _compared(result["rows"])
    return {f"{name}_ratio_trainer": compared[name].value for name in ("texts_per_second", "time_to_97") if name in compared}


def table(result: Result) -> str:
    """Return both sides, the ratios with their intervals over seeds, and whose student is better."""
    rows = result["rows"]
    compared, epochs = _compared(rows), len(rows[0]["epoch_ends_s"])
    said = [f"Means of {len(rows) // 2} seeds, {epochs} epoch{'s' * (epochs > 1)} of {rows[0]['num_texts']:,} texts each."]
    said += [words.format(*astuple(compared[name])) for name, words in WORDS.items() if name in compared]
    gap = compared["macro_f1"]
    better = "potstill's" if gap.low > 0 else "the Trainer's" if gap.high < 0 else "neither, beyond what these seeds can tell"
    sides = [[row for row in rows if row["name"] == name] for name in SIDES]
    return f"{table_of(sides, COLUMNS)}\n\n{' '.join(said)} Better student: {better}."


def _reached(own: Sequence[Row]) -> str:
    reached = [row["seconds_to_97"] for row in own]
    return "not reached" if None in reached else f"{np.mean(reached):,.0f}"


COLUMNS: Columns = (
    ("trained by", lambda own: own[0]["name"]),
    ("texts/s", lambda own: f"{np.mean([row['texts_per_second'] for row in own]):,.0f}"),
    (f"s to {WANTED_RETENTION:.0%} of the teacher", _reached),
    ("best macro-F1", lambda own: f"{np.mean([max(row['test_macro_f1']) for row in own]):.4f}"),
)


def _compared(rows: Sequence[Row]) -> dict[str, Estimate]:
    """Return what potstill's runs are to the Trainer's, paired by seed, with intervals over seeds."""
    found = {(row["name"], row["seed"]): row for row in rows}
    pairs = [tuple(found[name, seed] for name in SIDES) for seed in sorted({row["seed"] for row in rows})]
    compared = {
        "texts_per_second": mean_estimate([ours["texts_per_second"] / theirs["texts_per_second"] for ours, theirs in pairs]),
        "macro_f1": mean_estimate([max(ours["test_macro_f1"]) - max(theirs["test_macro_f1"]) for ours, theirs in pairs]),
    }
    if all(ours["seconds_to_97"] for ours, _ in pairs):
        compared["time_to_97"] = mean_estimate(
            [(theirs["seconds_to_97"] or theirs["epoch_ends_s"][-1]) / ours["seconds_to_97"] for ours, theirs in pairs]
        )
    return compared


def run_pair(
    teacher: Bundle, settings: DistillSettings, data: DataSettings, unlabeled: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Distil once with potstill and once with the Trainer; return a row of each.

    Args:
        teacher: Who is asked.
        settings: Of the student and of both runs.
        data: The labelled texts.
        unlabeled: Sources of further texts, of which only the teacher says anything.

    Raises:
        PotstillError: A run died, or took more than `RUN_TIMEOUT_S`.
    """
    from distill.models.loading import load_bundle
    from distill.models.torch_classifier import write_model_files
    from distill.students.build import build_student

    given = {
        "teacher": str(teacher.path.resolve()),
        "settings": settings.model_dump(mode="json"),
        "data": data.model_dump(mode="json"),
        "unlabeled": list(unlabeled),
    }
    with tempfile.TemporaryDirectory() as work:
        student, start, cache = (Path(work) / name for name in ("student", "start", "cache"))
        cache.mkdir()
        (cache / "builtin").symlink_to((cache_dir() / "builtin").resolve())  # the texts, but not the teacher's answers
        ours = found_by(
            "benchmarks.scenarios.training",
            given=json.dumps({**given, "student": str(student)}),
            timeout_s=RUN_TIMEOUT_S,
            POTSTILL_CACHE=str(cache),
        )
        lender, (splits, others) = load_bundle(teacher), task_texts(data, unlabeled)
        # The student as potstill starts from it, with its tokenizer.
        write_model_files(build_student(lender, settings, labelled=splits.train.texts, unlabeled=others), start)
        alike = {"threads": available_cpus(), "bf16": ours["mixed_precision"] == "bf16"}
        theirs = found_by(
            "benchmarks.quality.trainer",
            given=json.dumps({**given, **alike, "student": str(start)}),
            timeout_s=RUN_TIMEOUT_S,
        )
    test = measured_on(splits)
    shared = {
        "seed": settings.seed,
        "mixed_precision": ours["mixed_precision"],
        "wanted_macro_f1": WANTED_RETENTION * macro_f1(test.label_ids, lender.predict_logits(test.texts)),
        "settings": given["settings"],
    }
    return [
        {"name": name, **shared, **said_of(run, shared["wanted_macro_f1"])}
        for name, run in zip(SIDES, (ours, theirs), strict=True)
    ]


def said_of(run: Mapping[str, Any], wanted: float) -> dict[str, Any]:
    """Return what a row says of a run: its rate, and when the macro-F1 was first at least `wanted`, if ever."""
    ends, scores = run["epoch_ends_s"], run["macro_f1"]
    return {
        "epoch_ends_s": ends,
        "test_macro_f1": scores,
        "num_texts": run["num_texts"],
        "texts_per_second": run["num_texts"] * len(ends) / ends[-1],
        "seconds_to_97": next((end for end, score in zip(ends, scores, strict=True) if score >= wanted), None),
    }


def _main() -> None:
    """Distil once, as `potstill distill` does, and print when each epoch had ended."""
    from distill.training.distillation import fit_student

    given = json.load(sys.stdin)
    splits, unlabeled = task_texts(DataSettings(**given["data"]), given["unlabeled"])
    teacher, settings = Bundle.open(given["teacher"]), DistillSettings(**given["settings"])
    started = time.perf_counter()
    bundle = fit_student(
        teacher,
        train=splits.train,
        validation=measured_on(splits),
        unlabeled=unlabeled,
        out=given["student"],
        settings=settings,
        reporter=SilentReporter(),
    )
    ended, history = time.perf_counter() - started, bundle.manifest.history
    # What came after an epoch's training is counted to it: scoring, checkpoint and, at the last, the sealing.
    after = [sum(epoch["seconds"] for epoch in history[number:]) for number in range(1, len(history) + 1)]
    found = {
        "epoch_ends_s": [ended - seconds for seconds in after],
        "macro_f1": [epoch["macro_f1"] for epoch in history],
        "num_texts": len(splits.train) + len(unlabeled),
        "mixed_precision": bundle.manifest.settings["computed"]["mixed_precision"],
    }
    print(json.dumps(found))


SCENARIO = Scenario(
    name="training",
    summary="Time distillation against a Hugging Face Trainer that runs the teacher in every step; the two take turns.",
    settings=TrainingSettings,
    run=run,
    figures=figures,
    table=table,
    decided_by=(
        *("benchmarks/scenarios/training.py", "benchmarks/quality/trainer.py", "benchmarks/quality/arms.py"),
        "benchmarks/harness/texts.py",
        *TRAINING,
    ),
    minutes=150,
    quick={"seeds": (0,), "epochs": 1},
    needs=(QUALITY,),
)

if __name__ == "__main__":
    _main()
