"""The `training` scenario: potstill's distillation against a `Trainer` that asks the teacher in every step.

Same student to start from, same texts, epochs, batch and rates, each run in a process of its own, taking turns. potstill's
time holds everything: the teacher's pass, from an empty cache, and the sealing of the bundle. The peer's clock starts when
its models are loaded and its texts are tokenized. After each epoch both are asked for the test texts, as retention is a share
of the teacher's score on those; nothing is chosen by it, the times are all that is kept.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.results import write_result
from benchmarks.harness.texts import measured_on, task_texts
from benchmarks.training.arms import SEEDS, TASK, TEACHER, UNLABELED
from distill.bundle import Bundle
from distill.data import load_splits
from distill.errors import PotstillError
from distill.evaluation.metrics import macro_f1
from distill.machine import available_cpus, describe_environment
from distill.progress import Reporter, SilentReporter
from distill.recipes import RECIPES
from distill.settings import DataSettings, DistillSettings
from distill.storage import cache_dir, write_atomically
from export.measure.children import run_child

COMMAND: Final = "python -m benchmarks training"
SETTINGS: Final = RECIPES["3-layers"].settings.model_copy(update={"max_length": 64, "epochs": 1, "batch_size": 32})
"""The 3-layer student: one pass over its labelled and unlabelled texts, without the noisy copies."""
DATA: Final = DataSettings(train=(TASK,), test=TASK)
WANTED_RETENTION: Final = 0.97
RUN_TIMEOUT_S: Final = 3600


@dataclass(frozen=True)
class Run:
    """One run of one side.

    Attributes:
        epoch_ends_s: When each epoch had been trained and scored, in seconds from the start.
        macro_f1: On the test texts after each epoch.
        num_texts: Texts of an epoch.
    """

    epoch_ends_s: tuple[float, ...]
    macro_f1: tuple[float, ...]
    num_texts: int

    @property
    def texts_per_second(self) -> float:
        """Texts of all epochs over the time that they took together."""
        return self.num_texts * len(self.epoch_ends_s) / self.epoch_ends_s[-1]

    def seconds_to(self, score: float) -> float | None:
        """Return when the macro-F1 was first at least `score`; None when it never was."""
        return next((end for end, found in zip(self.epoch_ends_s, self.macro_f1, strict=True) if found >= score), None)


def run_training(folder: Path, *, seeds: Sequence[int] = SEEDS, reporter: Reporter) -> list[dict[str, Any]]:
    """Run both sides with each seed, one after the other; return a row per seed and side.

    Args:
        folder: Work folder with the reference teachers `teacher-SEED`, as `python -m benchmarks quality` leaves them.
        seeds: One pair of runs each; a finished pair is kept in the folder and not run again.
        reporter: Told of each step.

    Raises:
        PotstillError: A run died, or took more than `RUN_TIMEOUT_S`.
    """
    rows = []
    for seed in seeds:
        kept = folder / "training" / f"{seed}.json"
        if not kept.is_file():
            teacher = Bundle.open(folder / f"{TEACHER}-{seed}")
            reporter.say(f"training, seed {seed}: potstill, then the Trainer")
            pair = run_pair(teacher, SETTINGS.model_copy(update={"seed": seed}), DATA, UNLABELED)
            write_atomically(kept, json.dumps(pair))
        rows += json.loads(kept.read_text(encoding="utf-8"))
    return rows


def write_training(rows: Sequence[Mapping[str, Any]], **more: Any) -> Path:
    """Write the result file."""
    environment = describe_environment()
    seeds = sorted({row["seed"] for row in rows})
    command = COMMAND if seeds == list(SEEDS) else f"{COMMAND} --seeds {' '.join(map(str, seeds))}"
    return write_result("training", command=command, environment=environment, rows=rows, figures=training_figures(rows), **more)


def training_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the medians over the seeds of the paired ratios; above 1 potstill is faster.

    A Trainer that never reached the wanted score counts with all the time it had: the ratio is then at least that.

    Raises:
        PotstillError: A side of a seed is missing, or potstill never reached the wanted score.
    """
    found = {(row["name"], row["seed"]): row for row in rows}
    pairs = [(found.get(("potstill", seed)), found.get(("trainer", seed))) for seed in sorted({row["seed"] for row in rows})]
    rates, times = [], []
    for ours, theirs in pairs:
        if ours is None or theirs is None or ours["seconds_to_97"] is None:
            raise PotstillError(
                f"not every run reached {WANTED_RETENTION:.0%} of its teacher; run `{COMMAND}` with more epochs"
            )
        rates.append(ours["texts_per_second"] / theirs["texts_per_second"])
        times.append((theirs["seconds_to_97"] or theirs["epoch_ends_s"][-1]) / ours["seconds_to_97"])
    return {"texts_per_second_ratio_trainer": statistics.median(rates), "time_to_97_ratio_trainer": statistics.median(times)}


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
    with tempfile.TemporaryDirectory() as work:
        task = {"data": data.model_dump(mode="json"), "unlabeled": list(unlabeled)}
        ours, compute = _run_ours(teacher, settings, task, Path(work) / "student")
        start = Path(work) / "start"
        _write_untrained_student(teacher, settings, data, unlabeled, start)
        theirs = _run_trainer(teacher, settings, task, start, bf16=compute == "bf16")
    wanted = WANTED_RETENTION * _score_of(teacher, data)
    return [
        {
            "name": name,
            "seed": settings.seed,
            "mixed_precision": compute,
            "epoch_ends_s": run.epoch_ends_s,
            "test_macro_f1": run.macro_f1,
            "wanted_macro_f1": wanted,
            "num_texts": run.num_texts,
            "texts_per_second": run.texts_per_second,
            "seconds_to_97": run.seconds_to(wanted),
            "settings": settings.model_dump(mode="json"),
        }
        for name, run in (("potstill", ours), ("trainer", theirs))
    ]


def _run_ours(teacher: Bundle, settings: DistillSettings, task: Mapping[str, Any], out: Path) -> tuple[Run, str]:
    given = {"teacher": str(teacher.path.resolve()), "out": str(out), "settings": settings.model_dump(mode="json"), **task}
    with tempfile.TemporaryDirectory() as cache:
        # The built-in texts are there, the teacher's answers are not.
        (Path(cache) / "builtin").symlink_to((cache_dir() / "builtin").resolve())
        figures = _child("benchmarks.scenarios.training", given, POTSTILL_CACHE=cache)
    return Run(tuple(figures["epoch_ends_s"]), tuple(figures["macro_f1"]), figures["num_texts"]), figures["mixed_precision"]


def _run_trainer(teacher: Bundle, settings: DistillSettings, task: Mapping[str, Any], start: Path, *, bf16: bool) -> Run:
    values = settings.model_dump(mode="json")
    given = {name: values[name] for name in _SHARED} | {
        "teacher": str(teacher.path.resolve()),
        "student": str(start),
        "bf16": bf16,
        "threads": available_cpus(),
        **task,
    }
    figures = _child("benchmarks.peers.trainer", given)
    return Run(tuple(figures["epoch_ends_s"]), tuple(figures["macro_f1"]), figures["num_texts"])


_SHARED: Final = (
    *("temperature", "soft_weight", "epochs", "batch_size", "learning_rate", "warmup_share", "weight_decay"),
    *("max_grad_norm", "max_length", "dropout", "seed"),
)


def _write_untrained_student(
    teacher: Bundle, settings: DistillSettings, data: DataSettings, unlabeled: Sequence[str], out: Path
) -> None:
    """Lay down the student as potstill starts from it, with its tokenizer."""
    from distill.models.loading import load_bundle
    from distill.models.torch_classifier import write_model_files
    from distill.students.build import build_student

    lender = load_bundle(teacher)
    splits, others = task_texts(data, unlabeled)
    student = build_student(lender, settings, labelled=splits.train.texts, unlabeled=others)
    out.mkdir()
    write_model_files(student, out)


def _score_of(teacher: Bundle, data: DataSettings) -> float:
    from distill.models.loading import load_bundle

    test = measured_on(load_splits(data))
    return macro_f1(test.label_ids, load_bundle(teacher).predict_logits(test.texts))


def _child(module: str, given: Mapping[str, Any], **variables: str) -> dict[str, Any]:
    """Run a module with settings on stdin; this process sleeps meanwhile."""
    try:
        done = run_child(
            [sys.executable, "-m", module],
            given=json.dumps(given),
            timeout_s=RUN_TIMEOUT_S,
            cwd=Path(__file__).parents[2],
            env={**os.environ, **variables},
        )
    except subprocess.TimeoutExpired as exc:
        raise PotstillError(f"{module} took more than {RUN_TIMEOUT_S} s and was ended; run `{COMMAND}` again") from exc
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise PotstillError(f"{module} died with {done.returncode}: {last}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


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
        out=given["out"],
        settings=settings,
        reporter=SilentReporter(),
    )
    left = time.perf_counter() - started
    ends: list[float] = []
    # What came after an epoch's training is counted to it: scoring, checkpoint and, at the last, the sealing.
    for epoch in reversed(bundle.manifest.history):
        ends.insert(0, left)
        left -= epoch["seconds"]
    figures = {
        "epoch_ends_s": ends,
        "macro_f1": [epoch["macro_f1"] for epoch in bundle.manifest.history],
        "num_texts": len(splits.train) + len(unlabeled),
        "mixed_precision": bundle.manifest.settings["computed"]["mixed_precision"],
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    _main()
