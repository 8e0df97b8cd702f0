"""Running scenarios: from settings to a result file, one scenario or all of them."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.harness.candidates import place_and_form
from benchmarks.harness.merging import earlier_result, merged
from benchmarks.harness.results import FOLDER, read_result_file, write_result
from benchmarks.harness.scenario import Context, Outcome, Scenario, scenarios
from distill.bundle import MANIFEST
from distill.errors import PotstillError
from distill.progress import Reporter
from distill.settings import Settings
from distill.storage import sha256_of
from export.measure.circumstances import circumstances
from export.measure.workers import ROOT

WORK = Path(".results")


class RunSettings(Settings):
    """Where files go, and how much is done."""

    work: Path = Field(WORK, description="folder of intermediate results; what is finished there is not computed again")
    out: Path = Field(FOLDER, description="folder of the result file")
    quick: bool = Field(
        False, description="check that it works: a small run of minutes; its result goes to WORK/quick, not to --out"
    )

    @property
    def place(self) -> Path:
        """Where intermediate results of the scenarios go."""
        return self.work / "quick" if self.quick else self.work


def run_scenario(scenario: Scenario, settings: Settings, run: RunSettings, *, reporter: Reporter) -> Path:
    """Run a scenario, print its table, write its result file and return its path.

    Args:
        scenario: Which.
        settings: Its flags.
        run: Where.
        reporter: Told of each step.
    """
    environment, out = circumstances(), run.place / "results" if run.quick else run.out
    if run.quick:
        small = {name: value for name, value in scenario.quick.items() if name not in settings.model_fields_set}
        settings = settings.model_copy(update=small)

    def saved(outcome: Outcome) -> Path:
        found = {
            "scenario": scenario.name,
            "command": command_of(scenario, settings, work=run.work),
            "environment": environment,
            "rows": outcome.rows,
            "settings": without_places(settings),
            "bundles": {path.name: sha256_of(path / MANIFEST) for _, path in bundles_of(settings)},
            **outcome.parts,
        }
        result = merged(found, None if outcome.folder else earlier)
        figures, folder = scenario.figures(result), outcome.folder or out
        return write_result(**result, figures=figures, folder=folder, decided_by=scenario.decided_by)

    earlier = earlier_result(scenario.name, out, decided_by=scenario.decided_by, reporter=reporter)
    context = Context(
        work=run.place,
        scenario=scenario.name,
        reporter=reporter,
        quick=run.quick,
        commit=None if environment["git_dirty"] else environment["git_commit"],
        out=out,
        decided_by=scenario.decided_by,
        save=saved,
    )
    path = saved(scenario.run(settings, context))
    print(scenario.table(read_result_file(path)))
    return path


def run_all(run: RunSettings, *, only: Sequence[str] = (), most_min: float | None = None, reporter: Reporter) -> list[str]:
    """Run the scenarios that have no result yet, and return the names of those that failed.

    Args:
        run: Where.
        only: Names of scenarios; none: all.
        most_min: Minutes after which no further scenario is begun; None: no limit.
        reporter: Told of each step.
    """
    failed, folder, begun = [], run.place / "results", time.monotonic()
    chosen = [each for name, each in scenarios().items() if not only or name in only]
    for number, scenario in enumerate(chosen, start=1):
        name = f"{number} of {len(chosen)}  {scenario.name}"
        if (folder / f"{scenario.name}.json").is_file():
            reporter.say(f"{name}: already done")
        elif scenario.by_hand:
            reporter.say(f"{name}: left out, it needs {scenario.by_hand}")
        elif most_min is not None and time.monotonic() - begun >= 60 * most_min:
            reporter.say(f"{name}: left out, the {most_min:g} minutes are over")
        else:
            expected = "" if run.quick else f", about {scenario.minutes:.0f} minutes"
            reporter.say(f"{name}{expected}: {scenario.summary}")
            started = time.monotonic()
            try:
                run_scenario(scenario, scenario.settings(), run.model_copy(update={"out": folder}), reporter=reporter)
                reporter.say(f"{scenario.name}: {(time.monotonic() - started) / 60:.1f} minutes")
            except PotstillError as exc:
                reporter.say(f"{scenario.name} failed: {exc}")
                failed.append(scenario.name)
    return failed


def command_of(scenario: Scenario, settings: Settings, *, work: Path) -> str:
    """Return the command of a run, in words that anybody can run or fill in.

    What is in the work folder is named as in the default one, and what is committed by its path. Another place is only said
    to be a BUNDLE, FOLDER or FILE; the digests of bundles are in the result file.
    """
    words, values = ["python -m benchmarks", scenario.name], values_of(settings)
    for name in settings.model_dump(exclude_defaults=True):
        words += [f"--{name.replace('_', '-')}", *(_spelled(each, work) for each in values[name] if each is not True)]
    return " ".join(words)


def values_of(settings: Settings) -> dict[str, tuple[Any, ...]]:
    """Return the values of each setting; most have one."""
    found = {name: getattr(settings, name) for name in type(settings).model_fields}
    return {name: value if isinstance(value, tuple) else (value,) for name, value in found.items()}


def without_places(settings: Settings) -> dict[str, Any]:
    """Return settings as JSON values, folders by their names, without the bundles, whose digests a result file has."""
    values = settings.model_dump(mode="json", exclude={name for name, _ in bundles_of(settings)})
    return values | {name: value.name for name in values if isinstance(value := getattr(settings, name), Path)}


def bundles_of(settings: Settings) -> list[tuple[str, Path]]:
    """Return the fields of settings that name bundles, with each bundle's folder."""
    places = [
        (name, Path(place_and_form(str(each))[0]))
        for name, values in values_of(settings).items()
        for each in values
        if isinstance(each, str | Path)
    ]
    return [(name, place) for name, place in places if (place / MANIFEST).is_file()]


def _spelled(value: object, work: Path) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    place, form = place_and_form(str(value))
    is_place = isinstance(value, Path) or Path(place).is_dir() or (os.sep in place and Path(place).exists())
    return shlex.quote(_named(Path(place), work) + (f":{form}" if form else "") if is_place else str(value))


def _named(place: Path, work: Path) -> str:
    for folder, name in ((work, WORK), (FOLDER, FOLDER.relative_to(ROOT))):
        if place.resolve().is_relative_to(folder.resolve()):
            return str(name / place.resolve().relative_to(folder.resolve()))
    return "BUNDLE" if (place / MANIFEST).is_file() else "FOLDER" if place.is_dir() else "FILE"
