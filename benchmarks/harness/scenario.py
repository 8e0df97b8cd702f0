"""What a scenario is: a file of `benchmarks/scenarios/` that exports one `SCENARIO`.

Commands, pages, `make results` and the tests find it there. `run` returns rows; `figures` and `table` are computed from the
result file and from nothing else, so both can be made again without measuring.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks import scenarios as rooms
from benchmarks.harness.merging import earlier_result
from benchmarks.harness.pieces import is_of_here
from benchmarks.harness.results import FOLDER
from distill.errors import SettingsError
from distill.progress import Reporter
from distill.settings import DataSettings, Settings

Row = Mapping[str, Any]
Result = Mapping[str, Any]
"""The content of a result file."""

Columns = Sequence[tuple[str, Callable[[Any], str]]]
"""Head and cell of each column of a table; the cell is of a row."""

MOVIES = "builtin:movies"
QUICK_TEXTS = 400
QUALITY = "quality"
"""The scenario whose students and teachers the others measure."""


@dataclass(frozen=True)
class Outcome:
    """What a run found.

    Attributes:
        rows: One for each thing measured.
        parts: Further parts of the result file, by name.
        folder: Where the result file goes instead of --out.
    """

    rows: Sequence[Row]
    parts: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None


def _not_saved(outcome: Outcome) -> None:
    del outcome


@dataclass(frozen=True)
class Context:
    """Where a run works.

    Attributes:
        work: The folder of all scenarios; each has one in it.
        scenario: Name of the scenario.
        reporter: Told of each step.
        quick: Whether the run only checks that it works.
        commit: The commit that measures; None if there are uncommitted changes.
        out: Where the result file goes.
        decided_by: Of the scenario.
        save: Writes what was found so far as the result file; a run that is stopped later leaves that.
    """

    work: Path
    scenario: str
    reporter: Reporter
    quick: bool = False
    commit: str | None = None
    out: Path = FOLDER
    decided_by: tuple[str, ...] = ()
    save: Callable[[Outcome], object] = _not_saved

    @property
    def folder(self) -> Path:
        """The scenario's own folder; finished pieces in it are not made again."""
        return self.work / self.scenario

    @property
    def data(self) -> DataSettings:
        """The movie sentences, that most scenarios measure on; with `quick` a sample."""
        return DataSettings(train=(MOVIES,), test=MOVIES, limit=QUICK_TEXTS if self.quick else None)

    def earlier_rows(self) -> Sequence[Row]:
        """Return the rows of the result file that is there already, if the code that decides them is the same.

        Those of another kind of processor are left out.
        """
        result = earlier_result(self.scenario, self.out, decided_by=self.decided_by, reporter=self.reporter)
        rows = [] if result is None else result["rows"]
        kept = [row for row in rows if is_of_here(row)]
        if len(kept) < len(rows):
            self.reporter.say(f"earlier rows left out, of another kind of processor: {len(rows) - len(kept)} of {len(rows)}")
        if kept:
            self.reporter.say(
                f"rows of {self.out / self.scenario}.json that are not made again: {len(kept)}; another --out makes all anew"
            )
        return kept

    def trained(self, name: str, seed: int | None = None) -> Path:
        """Return a bundle that the scenario `quality` trained: `teacher`, or an arm; by default of the first seed there.

        Raises:
            SettingsError: It is not there.
        """
        folder = self.work / QUALITY
        if seed is None:
            seed = min((int(path.name.rpartition("-")[2]) for path in folder.glob("teacher-*[0-9]")), default=0)
        path = folder / f"{name}-{seed}"
        if not path.is_dir():
            raise SettingsError(
                f"{path} is not there; run `python -m benchmarks {QUALITY}{' --quick' if self.quick else ''}` first, or name "
                "a bundle"
            )
        return path


@dataclass(frozen=True)
class Scenario:
    """One scenario.

    Attributes:
        name: Of its command, its result file and its block in the pages.
        summary: What it does, for the help.
        settings: Its flags; every field has a default.
        run: From settings and context to what was found.
        figures: From the result to its figures.
        table: From the result to its block in a page, without the circumstances.
        decided_by: Files and folders whose code decides the rows.
        minutes: About how long a run takes on two processors.
        quick: Settings that --quick changes, where no flag names them.
        needs: Scenarios whose bundles it measures.
        by_hand: What must be named, because the repository does not have it; `results` leaves such a scenario out.
        picture: From the result to an SVG, if there is one.
    """

    name: str
    summary: str
    settings: type[Settings]
    run: Callable[[Any, Context], Outcome]
    figures: Callable[[Result], Mapping[str, float]]
    table: Callable[[Result], str]
    decided_by: tuple[str, ...]
    minutes: float
    quick: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    by_hand: str = ""
    picture: Callable[[Result], str] | None = None


def require_known(kind: str, names: Sequence[str], known: Collection[str]) -> None:
    """Refuse names that a scenario does not know.

    Args:
        kind: What is named, such as "part".
        names: The names given.
        known: Those that there are.

    Raises:
        SettingsError: One is unknown; the message lists the known ones.
    """
    if unknown := [name for name in names if name not in known]:
        raise SettingsError(f"no {kind} is called {unknown[0]!r}; there are {', '.join(known)}")


@cache
def scenarios() -> dict[str, Scenario]:
    """Return every scenario by its name, those that others need first."""
    found = [importlib.import_module(file.name).SCENARIO for file in pkgutil.iter_modules(rooms.__path__, f"{rooms.__name__}.")]
    return {each.name: each for each in sorted(found, key=lambda each: (bool(each.needs), each.name))}


def unfinished(result: Result, what: str) -> list[str]:
    """Return a sentence if a result lacks some of these."""
    missing = len(result["missing"])
    return [f"Unfinished, missing {what}: {missing}; see `missing` in the result file."] if missing else []


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> str:
    """Return a Markdown table; columns other than those of `left` are aligned to the right."""
    rule = "|".join("---" if place in left else "--:" for place in range(len(columns)))
    lines = [" | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) for cells in (columns, *rows)]
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])


def table_of(rows: Sequence[Any], columns: Columns, *, gone: str = "skipped", left: Sequence[int] = (0,)) -> str:
    """Return a Markdown table with a line for each row; a row that has the entry `gone` shows only its name and that.

    Args:
        rows: Rows of a result.
        columns: By head, in their order, what is shown of a row.
        gone: Name of the entry with the reason why a row has no figures.
        left: As of `markdown_table`.
    """
    blank, first = [""] * (len(columns) - 2), columns[0][1]
    cells = [
        [first(row), *blank, f"{gone}: {row[gone]}"] if gone in row else [shown(row) for _, shown in columns] for row in rows
    ]
    return markdown_table([head for head, _ in columns], cells, left=left)


def value_of(found: Any) -> float | None:
    """Return a figure of a row, which is a number or an estimate with its interval."""
    value = found["value"] if isinstance(found, Mapping) else found
    return None if value is None else float(value)


def slug_of(name: str) -> str:
    """Return a row's name as it is written in the names of figures."""
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower())
