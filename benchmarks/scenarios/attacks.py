"""The `attacks` scenario: every class of attacks beside honest clients, and each once more without the guard that stops it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.attacks.table import ATTACKS
from benchmarks.attacks.trials import QUICK, Honest, Plan, attempt
from benchmarks.serving.plan import Pieces
from distill.bundle import Bundle
from distill.classifier import top_labels
from distill.errors import SettingsError
from distill.progress import Reporter
from export.runtime.sessions import OnnxClassifier

__all__ = ["ATTACKS", "QUICK", "Plan", "attacks_figures", "attacks_table", "run_attacks"]


def run_attacks(
    student: Path, *, texts: Sequence[str], plan: Plan, only: Sequence[str], pieces: Pieces, reporter: Reporter
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


def sentence_of(row: Mapping[str, Any]) -> str:
    """Return what came of one trial."""
    outcome = "survived" if row["survived"] else "; ".join(row["failures"])
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
