"""The `attacks` scenario: every class of attacks beside honest clients, and each once more without the guard that stops it.

Then requests that are nearly right and bundles that must not open, by the thousand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.attacks.damaging import fuzz_bundles
from benchmarks.attacks.fuzzing import fuzz_server
from benchmarks.attacks.table import ATTACKS
from benchmarks.attacks.trials import QUICK, Honest, Plan, attempt
from benchmarks.harness.scenario import QUALITY, Context, Outcome, Scenario, markdown_table
from benchmarks.harness.texts import measured_on
from benchmarks.serving.plan import DatedPieces
from distill.bundle import WEIGHTS, Bundle
from distill.classifier import top_labels
from distill.data import load_splits
from distill.errors import SettingsError
from distill.progress import Reporter
from distill.settings import Settings
from export.runtime.sessions import OnnxClassifier

TEXTS = 200
"""What honest clients ask."""
SEED = 5

__all__ = ["ATTACKS", "QUICK", "Plan", "attacks_figures", "attacks_table", "run_attacks"]


def run_attacks(
    student: Path, *, texts: Sequence[str], plan: Plan, only: Sequence[str], pieces: DatedPieces, reporter: Reporter
) -> list[dict[str, Any]]:
    """Attack, with each guard and without it, and return the rows; finished ones are not repeated.

    Args:
        student: The bundle that is served.
        texts: What honest clients ask.
        plan: How much.
        only: Names of attacks; empty: all.
        pieces: What earlier runs finished.
        reporter: Told of progress.
    """
    chosen = [attack for attack in ATTACKS if not only or attack.name in only]
    if unknown := set(only) - {attack.name for attack in chosen}:
        raise SettingsError(
            f"there is no attack {sorted(unknown)[0]!r}; choose from {', '.join(each.name for each in ATTACKS)}"
        )
    classifier = OnnxClassifier.open(Bundle.open(student))
    labels = tuple(classifier.labels[top] for top in top_labels(classifier.predict_logits(texts)))
    honest = Honest(tuple(texts), labels)
    rows: list[dict[str, Any]] = []
    with reporter.task("attacks", 2 * len(chosen)) as advance:
        for attack in chosen:
            for is_guarded in (True, False):
                measure = partial(attempt, attack, student, honest, plan, is_guarded=is_guarded)
                rows.append(pieces.get(f"{attack.name}-{'guarded' if is_guarded else 'without'}", measure))
                advance(1)
                reporter.say(sentence_of(rows[-1]))
    return rows


def run_fuzz(student: Path, *, requests: int, bundles: int, pieces: DatedPieces, reporter: Reporter) -> list[dict[str, Any]]:
    """Send so many requests and open so many bundles, and return a row of each; finished ones are not repeated.

    Args:
        student: The bundle that is served, and that is damaged.
        requests: How many requests that are nearly right.
        bundles: How many damaged and planted bundles.
        pieces: What earlier runs finished.
        reporter: Told of progress.
    """
    rows = []
    for name, count, measure in (
        ("requests", requests, partial(fuzz_server, student, requests=requests, seed=SEED)),
        ("bundles", bundles, partial(fuzz_bundles, student, bundles=bundles, seed=SEED)),
    ):
        reporter.say(f"attacks: {count:,} {name} from seed {SEED}")
        rows.append(pieces.get(f"fuzz-{name}-{count}", measure))
        reporter.say(sentence_of(rows[-1]))
    return rows


def sentence_of(row: Mapping[str, Any]) -> str:
    """Return what came of one trial."""
    outcome = "survived" if row["survived"] else "; ".join(row["failures"])
    if row["kind"] == "fuzz":
        return f"{row['tried']:,} {row['name']}: {outcome}"
    return f"{row['name']}{'' if row['kind'] == 'attack' else ' without its guard'}: {outcome}"


def attacks_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the figures: a class counts as survived when its attack was, and was not without the guard."""
    guarded = [row for row in rows if row["kind"] == "attack"]
    shown = {row["name"] for row in rows if row["kind"] == "without_guard" and not row["survived"]}
    return {
        "attacks_tried": len(guarded),
        "attacks_survived": sum(row["survived"] and row["name"] in shown for row in guarded),
        "memory_growth_bytes": max((row["memory_growth_bytes"] for row in guarded), default=0),
        "honest_answered_share": min((row["honest"]["answered_share"] for row in guarded), default=1.0),
    }


def attacks_table(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the table as cells: the columns, and a line a class."""
    without = {row["name"]: row for row in rows if row["kind"] == "without_guard"}
    cells: list[tuple[str, ...]] = [
        (
            row["name"],
            row["guard"],
            "survived" if row["survived"] else "; ".join(row["failures"]),
            f"{row['honest']['answered_share']:.1%}",
            f"{row['memory_growth_bytes'] / 2**20:+.0f}",
            "; ".join(without[row["name"]]["failures"]) or "survived" if row["name"] in without else "",
        )
        for row in rows
        if row["kind"] == "attack"
    ]
    return ("attack", "guard", "outcome", "honest", "memory MB", "without the guard"), cells


class AttackSettings(Settings):
    """What is attacked, and in which ways."""

    student: Path | None = Field(
        None, description="exported student to serve; default: the 2-layer one of the scenario quality"
    )
    attacks: tuple[str, ...] = Field((), description="run only these attacks and write no result; default: all")
    requests: int = Field(100_000, ge=1, description="number of almost valid requests to send to the server")
    bundles: int = Field(50_000, ge=1, description="number of damaged and planted bundles, each of which must be refused")


def run(settings: AttackSettings, context: Context) -> Outcome:
    """Attack in every way that was not tried yet; a run of some attacks leaves the result alone."""
    student = settings.student or context.trained("2_layers")
    pieces = DatedPieces(context.folder / Bundle.open(student).manifest.files[WEIGHTS].sha256[:16])
    rows = run_attacks(
        student,
        texts=measured_on(load_splits(context.data)).single_texts()[:TEXTS],
        plan=QUICK if context.quick else Plan(),
        only=settings.attacks,
        pieces=pieces,
        reporter=context.reporter,
    )
    if settings.attacks and not context.quick:
        return Outcome(rows, folder=context.folder)
    counts = {"requests": settings.requests, "bundles": settings.bundles}
    return Outcome(rows + run_fuzz(student, **counts, pieces=pieces, reporter=context.reporter))


def _table(result: Mapping[str, Any]) -> str:
    columns, cells = attacks_table(result["rows"])
    fuzzed = [f"{sentence_of(row)}." for row in result["rows"] if row["kind"] == "fuzz"]
    return "\n\n".join([markdown_table(columns, cells, left=(0, 1, 2, 5)), *([" ".join(fuzzed)] if fuzzed else [])])


SCENARIO = Scenario(
    name="attacks",
    summary="Attack our server in every known way while honest clients use it, with and without each guard.",
    settings=AttackSettings,
    run=run,
    figures=lambda result: attacks_figures(result["rows"]),
    table=_table,
    decided_by=("benchmarks/attacks", "benchmarks/scenarios/attacks.py", "serve/http", "serve/answering"),
    minutes=90,
    quick={"attacks": ("endless_name", "one_long_word"), "requests": 500, "bundles": 500},
    needs=(QUALITY,),
)
