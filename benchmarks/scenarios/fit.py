"""The `fit` scenario: `potstill fit` on the built-in task, against training everything, and on texts from elsewhere.

Row by row: a finished row is a file in the work folder and is not made again. Calls `fit` as a user does; adds rows, figures.

    clone     `make demo` in a new clone: minutes; what it fitted becomes the demo's seed 0
    demo      the fit of the demo, one row per seed; seed 0 is what the scenario `demo` fits, in its folder
    quick     effort quick on 2,000 texts: minutes
    regret    all recipes within the demo's budget, with halving and trained in full: what halving lost, and what time it saved
    foreign   six sets that nothing was tuned on, one row each
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from pydantic import Field

from benchmarks.fitting.clone import clone_row
from benchmarks.fitting.figures import SEEDS, fit_figures, fit_markdown, missing_of
from benchmarks.fitting.foreign import FOREIGN, SPLIT_SEED, ForeignSet, splits_of
from benchmarks.fitting.rows import report_part, texts_part, trainings
from benchmarks.harness.deciding import FITTING, INT8, TIMING, TRAINING
from benchmarks.harness.pieces import Rows
from benchmarks.harness.scenario import QUALITY, Context, Outcome, Row, Scenario, require_known
from benchmarks.harness.texts import task_texts
from benchmarks.scenarios.demo import DEMO, SAMPLE_TEXTS, sample_of
from distill.data import Splits, limited
from distill.data.dataset import split_off
from distill.errors import GateError
from distill.progress import Reporter
from distill.recipes import Effort, RecipeName
from distill.settings import BUILTIN_MINILM, Settings
from export.demo import Profile, profile_of
from export.fitting.training import TEACHER
from export.settings import DemoSettings, FitSettings

QUICK_TEXTS: Final = 2_000
ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class Study:
    """What is fitted, on what; the defaults are those of the committed result.

    Attributes:
        demo: The texts, budget and effort of the demo.
        teacher: What the teachers are fine-tuned from; or a bundle, which is the teacher.
        regret_recipes: What halving chooses from; none: all seven.
        foreign: The foreign sets, by name.
        foreign_settings: Effort on those; they have no budget.
        most: Texts of each split, a stratified sample; None: all.
        root: The repository that is cloned.
    """

    demo: Profile = field(default_factory=lambda: profile_of(DemoSettings()))
    teacher: str = BUILTIN_MINILM
    regret_recipes: tuple[RecipeName, ...] = ()
    foreign: Mapping[str, ForeignSet] = field(default_factory=lambda: FOREIGN)
    foreign_settings: FitSettings = field(default_factory=lambda: FitSettings(effort="quick"))
    most: int | None = None
    root: Path = ROOT

    def of_sets(self, names: Sequence[str], effort: Effort) -> Study:
        """Return the study with these foreign sets only, and this effort on them.

        Raises:
            SettingsError: A set that is not known.
        """
        require_known("foreign set", names, self.foreign)
        settings = self.foreign_settings.model_copy(update={"effort": effort})
        return replace(self, foreign={name: self.foreign[name] for name in names}, foreign_settings=settings)


COMMITTED: Final = Study()
SAMPLE: Final = Study(
    demo=sample_of(DemoSettings(profile="quick")),
    foreign_settings=FitSettings(effort="quick", recipes=("static",)),
    most=SAMPLE_TEXTS,
)
"""Few texts, one recipe and a teacher that there is already, to see that everything works."""


@dataclass(frozen=True)
class Bench:
    """Where a run of the scenario works.

    Attributes:
        study: What is fitted.
        folder: Holds the folder of each fit but the first demo's.
        rows: The finished ones.
        reporter: Told of each step.
    """

    study: Study
    folder: Path
    rows: Rows
    reporter: Reporter

    @cached_property
    def task(self) -> tuple[Splits, tuple[str, ...]]:
        """The texts of the built-in task, and those without labels."""
        demo = self.study.demo
        data = demo.data if self.study.most is None else demo.data.model_copy(update={"limit": self.study.most})
        return task_texts(data, demo.unlabeled)

    def demo_folder(self, seed: int) -> Path:
        """Where a seed's demo is: the first one is fitted once, here or by the scenario `demo`."""
        return self.folder.parent / DEMO if seed == SEEDS[0] else self.folder / f"demo-{seed}"

    def settings(self, seed: int, **changes: Any) -> FitSettings:
        """Return the settings on the built-in task."""
        return FitSettings(**{**self.study.demo.fit.model_dump(), "seed": seed, **changes})


def run_fit(
    folder: Path,
    rows: Rows,
    *,
    parts: Sequence[str] = (),
    seeds: Sequence[int] = SEEDS,
    study: Study = COMMITTED,
    reporter: Reporter,
) -> list[dict[str, Any]]:
    """Make the rows that are missing; return all there are.

    Args:
        folder: Work folder.
        rows: Those that are finished; new ones are kept there.
        parts: Of `PARTS`; none: all.
        seeds: Seeds on the built-in task. The other parts have one run each.
        study: What is fitted.
        reporter: Told of each step.

    Raises:
        SettingsError: A part that is not known.
    """
    require_known("part", parts, PARTS)
    bench = Bench(study, folder, rows, reporter)
    for part, make in PARTS.items():
        if part in (parts or PARTS):
            make(bench, seeds)
    return rows.all()


class FitBenchSettings(Settings):
    """What is fitted."""

    parts: tuple[str, ...] = Field(("quick", "demo", "regret", "foreign", "clone"), description="run only these parts")
    seeds: tuple[int, ...] = Field(SEEDS, description="parts demo and regret: seeds")
    sets: tuple[str, ...] = Field(tuple(FOREIGN), description="part foreign: data sets")
    effort: Effort = Field("quick", description="part foreign: effort")


def run(settings: FitBenchSettings, context: Context) -> Outcome:
    """Make the rows that are missing; the result names what is still missing then.

    The result is written after each row. Rows of the one that is there already are not made again.
    """
    study = replace(SAMPLE, teacher=str(context.trained("teacher"))) if context.quick else COMMITTED
    study = study.of_sets(settings.sets, settings.effort)

    def outcome(rows: list[Row]) -> Outcome:
        return Outcome(rows, {"missing": missing_of(rows)})

    rows = Rows(context.folder / "rows", earlier=context.earlier_rows(), saved=lambda rows: context.save(outcome(rows)))
    run_fit(context.folder, rows, parts=settings.parts, seeds=settings.seeds, study=study, reporter=context.reporter)
    return outcome(rows.all())


def _clone(bench: Bench, seeds: Sequence[int]) -> None:
    del seeds
    if not bench.rows.has("clone"):
        row = clone_row(bench.study.root, kept=bench.demo_folder(SEEDS[0]), reporter=bench.reporter)
        bench.rows.keep({"name": "clone", "kind": "clone", **row})


def _demo(bench: Bench, seeds: Sequence[int]) -> None:
    for seed in seeds:
        name = f"demo-{seed}"
        if not bench.rows.has(name):
            part = _fitted(bench, bench.demo_folder(seed), bench.task[0], bench.settings(seed), bench.task[1])
            bench.rows.keep({"name": name, "kind": "demo", "seed": seed, **part})


def _quick(bench: Bench, seeds: Sequence[int]) -> None:
    del seeds
    if bench.rows.has("quick"):
        return
    texts = limited(bench.task[0].train, QUICK_TEXTS, seed=SPLIT_SEED)
    count = round(bench.study.demo.data.validation_share * len(texts))
    splits = Splits(*split_off(texts, count=count, seed=SPLIT_SEED, name="validation"), None)
    out = bench.folder / "quick"
    shutil.rmtree(out, ignore_errors=True)  # a run that resumes, or finds the teacher's answers, would seem to be faster
    started = time.monotonic()
    with patch.dict(os.environ, POTSTILL_CACHE=str(out / "cache")):
        part = _fitted(bench, out, splits, bench.study.foreign_settings.model_copy(update={"effort": "quick"}))
    bench.rows.keep({"name": "quick", "kind": "quick", **part, "wall_min": (time.monotonic() - started) / 60})


def _regret(bench: Bench, seeds: Sequence[int]) -> None:
    """Fit with the demo's teacher and budget, but all recipes: first with halving, then in the same folder without.

    There the assistants and the survivors are already trained. The choice among all forms is made within the budget; the time
    is that of all recipes, so those over the budget are trained last.
    """
    _demo(bench, seeds)
    for seed in seeds:
        name, halved_name, demo = f"regret-{seed}", f"halved-{seed}", bench.demo_folder(seed)
        if bench.rows.has(name) or "failed" in bench.rows.find(f"demo-{seed}"):
            continue
        teacher = demo / TEACHER if (demo / TEACHER).is_dir() else bench.study.teacher
        fitted = partial(_fitted, bench, bench.folder / name, bench.task[0], unlabeled=bench.task[1], teacher=teacher)
        if not bench.rows.has(halved_name):
            part = fitted(bench.settings(seed, recipes=bench.study.regret_recipes))
            seconds = {} if "failed" in part else {"halved_s": trainings(bench.folder / name, rounds=True)}
            bench.rows.keep({"name": halved_name, "kind": "halved", "seed": seed, **part, **seconds})
        halved = bench.rows.find(halved_name)
        everything = {"recipes": bench.study.regret_recipes, "train_all": True}
        full = fitted(bench.settings(seed, **everything))
        last = fitted(bench.settings(seed, **everything, max_ms=None, max_mb=None, min_kept=None))
        if failed := next((each["failed"] for each in (halved, full, last) if "failed" in each), None):
            part = {"failed": failed}
        else:
            part = {
                "halved": halved["student"],
                "full": full["student"],
                "forms": full["forms"],
                "halved_s": halved["halved_s"],
                "full_s": trainings(bench.folder / name, rounds=False),
            }
        bench.rows.keep({"name": name, "kind": "regret", "seed": seed, **part})


def _foreign(bench: Bench, seeds: Sequence[int]) -> None:
    del seeds
    for name, foreign in bench.study.foreign.items():
        if bench.rows.has(f"foreign-{name}"):
            continue
        bench.reporter.say(f"{name}: {foreign.about}")
        splits = splits_of(foreign, bench.folder / "texts" / name, most=bench.study.most)
        release = asdict(foreign.release)
        set_part = {"name": name, "about": foreign.about, "licence": foreign.licence, "inside": foreign.inside}
        row = {
            "name": f"foreign-{name}",
            "kind": "foreign",
            "set": {**set_part, **{key: release[key] for key in ("package", "version", "file", "sha256")}},
            **texts_part(splits),
        }
        bench.rows.keep({**row, **_fitted(bench, bench.folder / name, splits, bench.study.foreign_settings)})


def _fitted(
    bench: Bench,
    out: Path,
    splits: Splits,
    settings: FitSettings,
    unlabeled: Sequence[str] = (),
    teacher: str | Path | None = None,
) -> dict[str, Any]:
    """Return what a fit found, or why it found nothing."""
    from export.fitting.run import fit

    try:
        report = fit(
            splits,
            out=out,
            teacher=teacher or bench.study.teacher,
            unlabeled=unlabeled,
            settings=settings,
            reporter=bench.reporter,
        )
    except GateError as exc:
        bench.reporter.say(f"failed: {exc}")
        return {"failed": str(exc)}
    return report_part(report)


PARTS: Final[dict[str, Callable[[Bench, Sequence[int]], None]]] = {
    "clone": _clone,
    "quick": _quick,
    "demo": _demo,
    "regret": _regret,
    "foreign": _foreign,
}
"""The parts of the scenario, in the order in which they are made; those that time first, before a machine gets warm."""


SCENARIO = Scenario(
    name="fit",
    summary="Run fit on the built-in task and on six other data sets, and measure what its early stopping of weak "
    "students loses.",
    settings=FitBenchSettings,
    run=run,
    figures=lambda result: fit_figures(result["rows"]),
    table=fit_markdown,
    decided_by=(
        *("benchmarks/scenarios/fit.py", "benchmarks/fitting/clone.py", "benchmarks/fitting/foreign.py"),
        *("benchmarks/fitting/rows.py", "benchmarks/harness/texts.py"),
        *FITTING,
        *TRAINING,
        *INT8,
        *TIMING,
    ),
    minutes=900,
    quick={"parts": ("demo",), "seeds": (0,)},
    needs=(QUALITY,),
)
