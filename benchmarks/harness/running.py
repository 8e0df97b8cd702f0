"""Running scenarios: from settings to a result file, one scenario or all of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.harness.results import FOLDER, write_result
from benchmarks.harness.scenario import Context, Outcome, Scenario, scenarios
from distill.bundle import MANIFEST
from distill.errors import PotstillError
from distill.progress import Reporter
from distill.settings import Settings
from distill.storage import sha256_of
from export.measure.circumstances import circumstances

WORK = Path(".results")


class RunSettings(Settings):
    """Where files go, and how much is done."""

    work: Path = Field(WORK, description="folder of intermediate results; what is finished there is not computed again")
    out: Path = Field(FOLDER, description="folder of the result file")
    quick: bool = Field(
        False, description="check that it works: a small run of minutes; its result goes to WORK/quick, not to --out"
    )


def run_scenario(scenario: Scenario, settings: Settings, run: RunSettings, *, reporter: Reporter) -> Path | None:
    """Run a scenario and write its result file; None if it left something for later.

    Args:
        scenario: Which.
        settings: Its flags.
        run: Where.
        reporter: Told of each step.
    """
    environment = circumstances()
    if run.quick:
        settings = settings.model_copy(update=dict(scenario.quick))
    work = run.work / "quick" if run.quick else run.work
    commit = None if environment["git_dirty"] else environment["git_commit"]
    out = work / "results" if run.quick else run.out
    outcome = scenario.run(settings, Context(work, scenario.name, reporter, run.quick, commit, out))
    if outcome.unfinished:
        print(f"still to do: {', '.join(outcome.unfinished)}; finished pieces are in {work}", file=sys.stderr)
        return None
    return keep(scenario, settings, outcome, environment, folder=outcome.folder or out)


def keep(scenario: Scenario, settings: Settings, outcome: Outcome, environment: dict[str, Any], *, folder: Path) -> Path:
    """Print the table of an outcome, write its result file and return the path."""
    draft = {
        "scenario": scenario.name,
        "command": command_of(scenario, settings),
        "environment": environment,
        "rows": outcome.rows,
        **outcome.parts,
    }
    print(scenario.table(draft))
    return write_result(
        scenario.name,
        command=draft["command"],
        environment=environment,
        rows=outcome.rows,
        figures=scenario.figures(draft),
        folder=folder,
        decided_by=scenario.decided_by,
        settings=without_places(settings),
        bundles={path.name: sha256_of(path / MANIFEST) for _, path in paths_of(settings)},
        **outcome.parts,
    )


def run_all(run: RunSettings, *, only: Sequence[str] = (), reporter: Reporter) -> list[str]:
    """Run the scenarios that have no result yet, and return the names of those that failed."""
    failed = []
    chosen = [each for name, each in scenarios().items() if not only or name in only]
    for number, scenario in enumerate(chosen, start=1):
        folder = run.work / "quick" / "results" if run.quick else run.work / "results"
        if (folder / f"{scenario.name}.json").is_file():
            reporter.say(f"{number} of {len(chosen)}  {scenario.name}: already done")
            continue
        if scenario.by_hand:
            reporter.say(f"{number} of {len(chosen)}  {scenario.name}: left out, it needs {scenario.by_hand}")
            continue
        expected = "" if run.quick else f", about {scenario.minutes:.0f} minutes"
        reporter.say(f"{number} of {len(chosen)}  {scenario.name}{expected}: {scenario.summary}")
        started = time.monotonic()
        try:
            settings = run.model_copy(update={"out": folder})
            done = run_scenario(scenario, scenario.settings(), settings, reporter=reporter)
        except PotstillError as exc:
            reporter.say(f"{scenario.name} failed: {exc}")
            done = None
        if done is None:
            failed.append(scenario.name)
        reporter.say(f"{scenario.name}: {(time.monotonic() - started) / 60:.1f} minutes")
    return failed


def command_of(scenario: Scenario, settings: Settings) -> str:
    """Return the command of a run; a bundle is named, and its digest is in the result file."""
    words = ["python -m benchmarks", scenario.name]
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if value == type(settings).model_fields[name].get_default(call_default_factory=True):
            continue
        flag = f"--{name.replace('_', '-')}"
        values = value if isinstance(value, tuple) else (value,)
        if value is True:
            words.append(flag)
        elif values:
            words += [flag, *(_spelled(each) for each in values)]
    return " ".join(words)


def without_places(settings: Settings) -> dict[str, Any]:
    """Return settings as JSON values, folders by their names, without the bundles, whose digests a result file has."""
    values = settings.model_dump(mode="json", exclude={name for name, _ in paths_of(settings)})
    places = {name: value.name for name in values if isinstance(value := getattr(settings, name), Path)}
    return values | places


def paths_of(settings: Settings) -> list[tuple[str, Path]]:
    """Return the fields of settings that name bundles, with each bundle's folder."""
    found = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        for each in value if isinstance(value, tuple) else (value,):
            path = Path(str(each).rpartition(":")[0] or str(each)) if isinstance(each, str | Path) else None
            if path is not None and (path / MANIFEST).is_file():
                found.append((name, path))
    return found


def _spelled(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = Path(str(value)).name if isinstance(value, Path) or Path(str(value).rpartition(":")[0]).is_dir() else str(value)
    return f"'{text}'" if " " in text else text
