"""What the rows of the `fit` scenario say: the figures, what is missing, and the tables of a page.

Pure functions over rows; trains and measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, Final

from benchmarks.fitting.foreign import FOREIGN
from benchmarks.harness.scenario import Row, markdown_table
from export.measure.tables import ABSENT

SEEDS: Final = (0, 1, 2)


def fit_figures(rows: Sequence[Row]) -> dict[str, float]:
    """Return the figures of the scenario; one whose rows are missing is not there.

    Means are over seeds. The error of the predicted p50 is that of the worst seed. A set on which a fit failed counts as
    neither at least the floor nor won by it.
    """
    figures: dict[str, float] = {}
    if clones := _of(rows, "clone"):
        figures["minutes"] = mean(sum(row["minutes"].values()) for row in clones)
    if quick := _of(rows, "quick"):
        figures["minutes_quick"] = mean(row["wall_min"] for row in quick)
    if demos := _of(rows, "demo"):
        figures["retention"] = mean(row["student"]["kept"] for row in demos)
        figures["p50_ratio_teacher"] = mean(row["teacher"]["p50_ms"] / row["student"]["p50_ms"] for row in demos)
        figures["size_ratio_teacher"] = mean(row["teacher"]["size_bytes"] / row["student"]["size_bytes"] for row in demos)
        figures["p50_prediction_error"] = max(
            abs(row["student"]["predicted_ms"] / row["student"]["p50_ms"] - 1) for row in demos
        )
    if regrets := _of(rows, "regret"):
        figures["regret"] = mean(row["full"]["value"] - row["halved"]["value"] for row in regrets)
        figures["time_share"] = mean(sum(row["halved_s"].values()) / sum(row["full_s"].values()) for row in regrets)
    if foreign := _of(rows, "foreign"):
        won = [row["name"] for row in foreign if row["floor_wins"]]
        kept = [row["name"] for row in foreign if row["student"]["value"] >= row["tfidf"]["value"]]
        figures["foreign_sets_at_least_floor"] = len({*won, *kept})
        figures["foreign_sets_won_by_floor"] = len(won)
    return figures


def missing_of(rows: Sequence[Row], *, seeds: Sequence[int] = SEEDS, sets: Sequence[str] = tuple(FOREIGN)) -> list[str]:
    """Return the names of rows that are not there or failed."""
    there = {row["name"] for row in rows if "failed" not in row}
    wanted = ["clone", "quick", *(f"{kind}-{seed}" for kind in ("demo", "regret") for seed in seeds)]
    return [name for name in (*wanted, *(f"foreign-{name}" for name in sets)) if name not in there]


def fit_markdown(result: Mapping[str, Any]) -> str:
    """Return the tables of a page: the demo by seed, and the foreign sets."""
    rows = result["rows"]
    parts = ["Latency is of one text on one thread."]
    if foreign := _of(rows, "foreign"):
        columns = ("set", "texts", "labels", "teacher", "student", "TF-IDF", "chosen form", "p50 ms", "MB", "measured")
        parts.insert(0, markdown_table(columns, [_foreign_cells(row) for row in foreign]))
    if demos := _of(rows, "demo"):
        columns = (
            "seed",
            "chosen form",
            "teacher",
            "student",
            "kept",
            "p50 ms",
            "predicted ms",
            "faster",
            "smaller",
            "measured",
        )
        parts.insert(0, markdown_table(columns, [_demo_cells(row) for row in demos]))
    if failed := [row for row in rows if "failed" in row]:
        parts.append(" ".join(f"{row['name']} failed: {row['failed']}." for row in failed))
    return "\n\n".join(parts)


def _of(rows: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in rows if row["kind"] == kind and "failed" not in row]


def _foreign_cells(row: Row) -> tuple[str, ...]:
    student = row["student"]
    return (
        f"{row['set']['name']} ({row['set']['about']})",
        f"{sum(row['num_texts'].values()):,}",
        str(row["num_labels"]),
        *(_interval(row[name]) for name in ("teacher", "student", "tfidf")),
        f"{student['form']}{' (TF-IDF is as good)' if row['floor_wins'] else ''}",
        f"{student['p50_ms']:.2f}",
        f"{student['size_bytes'] / 1e6:.1f}",
        _made(row),
    )


def _demo_cells(row: Row) -> tuple[str, ...]:
    teacher, student = row["teacher"], row["student"]
    return (
        str(row["seed"]),
        student["form"],
        _interval(teacher),
        _interval(student),
        f"{student['kept']:.1%}",
        f"{student['p50_ms']:.2f}",
        f"{student['predicted_ms']:.2f}",
        f"{teacher['p50_ms'] / student['p50_ms']:.1f}x",
        f"{teacher['size_bytes'] / student['size_bytes']:.1f}x",
        _made(row),
    )


def _made(row: Row) -> str:
    """Return the day, the commit and the processors of a row."""
    made = row["made"]
    count = f"{len(made['affinity'])} " if made["affinity"] else ""
    return f"{made['measured_on']}, {(made['git_commit'] or 'unknown')[:10]}, {count}{made['cpu']}"


def _interval(score: Row | None) -> str:
    if score is None or score["value"] is None:
        return ABSENT
    return f"{score['value']:.3f} ({score['low']:.3f}-{score['high']:.3f})"
